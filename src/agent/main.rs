//! `tether`: the network agent inside a container VM.

use std::{path::PathBuf, process::ExitCode};

use lexopt::{
    ValueExt,
    prelude::{Long, Short, Value},
};
use tether::{
    boot, console, init,
    run::{Options, run},
};

const HELP: &str = "\
tether - the network agent inside a container VM

usage: tether run [--boot FILE] [--state FILE] [--etc DIR] [--run DIR]
                  [--netns FILE] [--log LEVEL]
       tether --version | --help

  --boot FILE   the boot document (JSON): who this guest is and where its host
                is. Without it: /etc/tether/boot.json, then QEMU's fw_cfg entry
                opt/tether/boot.json.
  --state FILE  take the desired state from this JSON file instead of a host.
                It is read again at each SIGHUP; every time one line of JSON on
                standard output says what came of it.
  --etc DIR     where hosts and resolv.conf are written (default: /etc)
  --run DIR     where it notes what to go back to should it be killed, and its
                key: a tmpfs of root's (default: /run/tether)
  --netns FILE  the network namespace that the management NIC is to live in, made
                if there is none: /run/netns/tether, say. Without it the NIC
                stays where it is; process 1 always uses that one
  --log LEVEL   error, warn, info (default), debug or trace, on standard error

As process 1 it needs no arguments: it mounts what is needed, loads the image's
modules, brings the network up, starts the workload and powers off after it.
`tether.log=LEVEL` on the kernel's command line sets the log level.

Routes, rules, neighbours and addresses that it makes carry protocol number 116
(ip route show proto 116), devices group 116. What others made is left alone,
but for the interfaces that the desired state names: they become what it says,
and go back to what they were when it names them no more.
";

/// What the command line asks for.
enum Command {
    Run(Options, Option<String>),
    Say(String),
}

fn main() -> ExitCode {
    let command = match parse() {
        Ok(command) => command,
        // The kernel hands process 1 whatever words of its command line nobody else took.
        Err(_) if init::is_process_1() => Command::Run(Options::default(), None),
        Err(error) => {
            eprintln!("tether: {error}\ntry: tether --help");
            return ExitCode::from(2);
        }
    };
    match command {
        Command::Say(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Command::Run(options, log) => start(options, log),
    }
}

fn start(options: Options, log: Option<String>) -> ExitCode {
    let complaints = if init::is_process_1() {
        // The first sign of life, before anything that could fail. The benchmark of the boot
        // times takes it for the start of process 1.
        init::tell_started();
        init::prepare()
    } else {
        Vec::new()
    };
    console::start_log(log.or_else(|| boot::hint("log")).as_deref());
    for complaint in complaints {
        tracing::error!("{complaint}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(run(options)).map_err(|error| error.to_string()),
        Err(error) => Err(format!("cannot start: {error}")),
    };
    let why = ended.err();
    let failed = why.is_some();
    for line in why.iter().flat_map(|error| error.lines()) {
        tracing::error!("{line}");
    }
    if init::is_process_1() {
        if let Some(why) = why {
            init::tell_cannot_run(&why);
        }
        init::power_off();
    }
    ExitCode::from(u8::from(failed))
}

fn parse() -> Result<Command, lexopt::Error> {
    let mut arguments = lexopt::Parser::from_env();
    let (mut options, mut log, mut command) = (Options::default(), None, None);
    while let Some(argument) = arguments.next()? {
        match argument {
            Long("help") | Short('h') => return Ok(Command::Say(HELP.to_owned())),
            Long("version") | Short('V') => return Ok(Command::Say(version())),
            Long("boot") => options.boot = Some(PathBuf::from(arguments.value()?)),
            Long("state") => options.state = Some(PathBuf::from(arguments.value()?)),
            Long("etc") => options.etc = Some(PathBuf::from(arguments.value()?)),
            Long("run") => options.run = Some(PathBuf::from(arguments.value()?)),
            Long("netns") => options.netns = Some(PathBuf::from(arguments.value()?)),
            Long("log") => log = Some(arguments.value()?.string()?),
            Value(word) if command.is_none() && word == "run" => command = Some(()),
            other => return Err(other.unexpected()),
        }
    }
    if command.is_none() && !init::is_process_1() {
        return Ok(Command::Say(HELP.to_owned()));
    }
    Ok(Command::Run(options, log))
}

fn version() -> String {
    let spoken = tether_wire::protocols::Protocols::SPOKEN;
    format!("tether {} (protocol {spoken})\n", env!("CARGO_PKG_VERSION"))
}
