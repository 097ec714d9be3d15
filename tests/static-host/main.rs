//! `static-host`: a host for tests and benchmarks, on the same libraries as `vch`. Its networks and
//! containers are a file's; it knows no Docker and keeps nothing.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
mod acquaintance;
mod config;
mod machine;
mod output;
mod plan;
mod serve;

use crate::{
    output::Output,
    serve::{ServeError, read_plan, run_machine, serve},
};

/// A host whose networks and containers are a file's.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Drive the guests of a configuration; their machines are somebody else's.
    ///
    /// SIGHUP reads the configuration again and pushes what has changed; SIGUSR1 prints every
    /// guest's newest status. SIGUSR2 says that the machines were started anew: each guest may
    /// come with another key, once.
    Serve {
        /// The configuration (TOML).
        config: PathBuf,
        /// One JSON object a line instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Start the machines of a configuration and drive their guests, until all have ended.
    ///
    /// Signals are as for `serve`; SIGINT and SIGTERM stop the machines first.
    Up {
        /// The configuration (TOML).
        config: PathBuf,
        /// The boot image, a directory made by vmimage/build.
        #[arg(long)]
        image: PathBuf,
        /// One JSON object a line instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Run one container's machine, its console on standard output, beside a `vch serve`.
    Machine {
        /// The configuration (TOML).
        config: PathBuf,
        /// The container's name.
        name: String,
        /// The boot image, a directory made by vmimage/build.
        #[arg(long)]
        image: PathBuf,
        /// Words for the kernel's command line, such as tether.log=debug. Nothing secret.
        #[arg(long, default_value = "")]
        append: String,
    },
    /// Print the boot document of one container's guest.
    BootDocument {
        /// The configuration (TOML).
        config: PathBuf,
        /// The container's name.
        name: String,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).with_target(false).init();
    let ended = match arguments.command {
        Command::Serve { config, json } => serve(&config, None, &Output::new(json)).await,
        Command::Up { config, image, json } => serve(&config, Some(&image), &Output::new(json)).await,
        Command::Machine { config, name, image, append } => {
            run_machine(&config, &name, &image, &append).await
        }
        Command::BootDocument { config, name } => boot_document(config, name),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("static-host: {error}");
            ExitCode::FAILURE
        }
    }
}

fn boot_document(config: PathBuf, name: String) -> Result<(), ServeError> {
    let plan = read_plan(&config)?;
    let container = plan.container(&name).ok_or(ServeError::NoContainer { path: config, name })?;
    let text = serde_json::to_string_pretty(&plan.boot_document(container)).map_err(std::io::Error::from)?;
    println!("{text}");
    Ok(())
}
