//! `vch`: the container host's command.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use hyper::Method;
use serde_json::{Value, json};
use vch::{
    admin, certificates,
    config::{Config, read_toml},
    engine::networks::WantedExternal,
    serve::serve,
};

/// The Virtual Container Host: a Docker host whose containers are machines.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the host. Machines go on when it ends, and are found again by the next.
    Serve(Serve),
    /// Hand over and take back external networks, of a running host.
    #[command(subcommand)]
    Network(Network),
    /// Make certificates for docker --tlsverify: server's and client's, in one directory.
    Certificates {
        /// Where to. Docker's client takes it as `DOCKER_CERT_PATH`.
        directory: PathBuf,
        /// A name or address that clients use for the host; several are possible.
        #[arg(long = "name", required = true)]
        names: Vec<String>,
        /// Replace those that are there.
        #[arg(long)]
        force: bool,
    },
    /// Stop every container of a running host, remove its bridges and rules, and end it.
    Shutdown(Run),
}

#[derive(Args)]
struct Serve {
    /// The configuration (TOML). Everything in it has a default.
    #[arg(long)]
    config: Option<PathBuf>,
    /// What outlives a restart of this machine [default: /var/lib/vch]
    #[arg(long)]
    state: Option<PathBuf>,
    /// What does not: sockets and consoles [default: /run/vch]
    #[arg(long)]
    run: Option<PathBuf>,
    /// The boot image, a directory made by vmimage/build [default: /usr/lib/vch/image]
    #[arg(long)]
    image: Option<PathBuf>,
}

#[derive(Args)]
struct Run {
    /// The host's run directory.
    #[arg(long, default_value = "/run/vch")]
    run: PathBuf,
}

#[derive(Subcommand)]
enum Network {
    /// Hand over an external network.
    Add {
        /// What it is called.
        name: String,
        /// Its subnet, 208.91.3.0/24.
        #[arg(long)]
        subnet: String,
        /// Its router, 208.91.3.1.
        #[arg(long)]
        gateway: String,
        /// The link of this machine that leads to it. It has no addresses of its own.
        #[arg(long)]
        link: String,
        /// This machine's own address on it: published ports answer there.
        #[arg(long)]
        address: Option<String>,
        /// The part of the subnet that containers get addresses of.
        #[arg(long)]
        ip_range: Option<String>,
        /// The MTU of everything on it.
        #[arg(long)]
        mtu: Option<u32>,
        #[command(flatten)]
        run: Run,
    },
    /// Take an external network back.
    Rm {
        /// What it is called.
        name: String,
        #[command(flatten)]
        run: Run,
    },
    /// List the external networks.
    Ls(Run),
}

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).with_target(false).init();
    match run(arguments.command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vch: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<(), Box<dyn std::error::Error>> {
    match command {
        Command::Serve(arguments) => {
            let mut config: Config =
                arguments.config.as_deref().map(read_toml).transpose()?.unwrap_or_default();
            config.state = arguments.state.unwrap_or(config.state);
            config.run = arguments.run.unwrap_or(config.run);
            config.image = arguments.image.unwrap_or(config.image);
            Ok(serve(config).await?)
        }
        Command::Certificates { directory, names, force } => {
            Ok(certificates::make(&directory, &names, force)?)
        }
        Command::Shutdown(Run { run }) => {
            admin::ask(&run, Method::POST, "/shutdown", &json!({})).await?;
            Ok(())
        }
        Command::Network(command) => network(command).await,
    }
}

async fn network(command: Network) -> Result<(), Box<dyn std::error::Error>> {
    match command {
        Network::Add { name, subnet, gateway, link, address, ip_range, mtu, run } => {
            let wanted = WantedExternal { name, subnet, gateway, link, address, ip_range, mtu };
            let made =
                admin::ask(&run.run, Method::POST, "/networks", &serde_json::to_value(wanted)?).await?;
            println!("{}", made["id"].as_str().unwrap_or_default());
        }
        Network::Rm { name, run } => {
            admin::ask(&run.run, Method::DELETE, &format!("/networks/{name}"), &json!({})).await?;
            println!("{name}");
        }
        Network::Ls(run) => {
            let networks = admin::ask(&run.run, Method::GET, "/networks", &json!({})).await?;
            println!("{:<20} {:<20} {:<16} {:<16} {:<16}", "NAME", "SUBNET", "GATEWAY", "LINK", "ADDRESS");
            for network in networks.as_array().into_iter().flatten() {
                let field = |name: &str| network.get(name).and_then(Value::as_str).unwrap_or("-");
                println!(
                    "{:<20} {:<20} {:<16} {:<16} {:<16}",
                    field("name"),
                    field("subnet"),
                    field("gateway"),
                    field("link"),
                    field("address")
                );
            }
        }
    }
    Ok(())
}
