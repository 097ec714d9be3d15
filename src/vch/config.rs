//! The configuration file: TOML, as an administrator writes it.

mod dns;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, de::DeserializeOwned};
use tether_wire::{message::DEFAULT_PORT, value::IfName};

use crate::engine::networks::WantedExternal;

pub use dns::{Dns, Forward, ForwardTls};

/// The configuration. Everything has a default; the command line comes before the file.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What outlives a restart of this machine.
    pub state: PathBuf,
    /// What does not.
    pub run: PathBuf,
    /// The boot image of every machine, a directory made by vmimage/build.
    pub image: PathBuf,
    /// The Docker endpoint.
    pub docker: Docker,
    /// The management network.
    pub management: Management,
    /// The external networks.
    pub external: Vec<WantedExternal>,
    /// How containers resolve names.
    pub dns: Dns,
}

/// The Docker endpoint.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Docker {
    /// The Unix socket; `docker.sock` in the `run` directory when absent.
    pub socket: Option<PathBuf>,
    /// Where to listen on TCP: an address of its own, not `0.0.0.0`. Needs `certificates`.
    pub tcp: Option<SocketAddr>,
    /// The directory with ca.pem, server-cert.pem and server-key.pem, as `vch certificates` makes
    /// it.
    pub certificates: Option<PathBuf>,
}

/// The management network.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Management {
    /// The bridge that is it.
    pub bridge: String,
    /// The TCP port guests dial.
    pub port: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            state: "/var/lib/vch".into(),
            run: "/run/vch".into(),
            image: "/usr/lib/vch/image".into(),
            docker: Docker::default(),
            management: Management::default(),
            external: Vec::new(),
            dns: Dns::default(),
        }
    }
}

impl Default for Management {
    fn default() -> Self {
        Self { bridge: "vch-management".to_owned(), port: DEFAULT_PORT }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is not TOML of this shape.
    #[error("{path}: {source}")]
    Malformed {
        /// The file.
        path: String,
        /// Where and why; of several lines.
        source: Box<toml::de::Error>,
    },
    /// A value is no good.
    #[error("{0}")]
    Wrong(String),
}

/// Reads the TOML file at `path`.
pub fn read_toml<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: name.clone(), source })?;
    toml::from_str(&text).map_err(|source| ConfigError::Malformed { path: name, source: Box::new(source) })
}

impl Config {
    /// The management network's bridge.
    pub fn management_bridge(&self) -> Result<IfName, ConfigError> {
        self.management
            .bridge
            .parse()
            .map_err(|error| ConfigError::Wrong(format!("management.bridge: {error}")))
    }

    /// Where Docker clients connect on this machine.
    pub fn socket(&self) -> PathBuf {
        self.docker.socket.clone().unwrap_or_else(|| self.run.join("docker.sock"))
    }

    /// The TCP address of the Docker endpoint with the directory of its certificates.
    pub fn tls(&self) -> Result<Option<(SocketAddr, &Path)>, ConfigError> {
        match (self.docker.tcp, &self.docker.certificates) {
            (None, _) => Ok(None),
            (Some(address), _) if address.ip().is_unspecified() => Err(ConfigError::Wrong(format!(
                "docker.tcp: {address} is every address, those of containers' networks too: name one"
            ))),
            (Some(address), Some(directory)) => Ok(Some((address, directory))),
            (Some(_), None) => Err(ConfigError::Wrong(
                "docker.certificates: missing: without them anybody could use docker.tcp. Make some with vch \
                 certificates"
                    .to_owned(),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_example_is_read_and_tcp_needs_certificates() {
        let text = r#"
            state = "/tmp/state"
            [docker]
            tcp = "10.9.0.1:2376"
            certificates = "/etc/vch"
            [[external]]
            name = "default-external"
            subnet = "10.2.0.0/16"
            gateway = "10.2.0.1"
            link = "eth1"
            address = "10.2.0.5"
            [dns]
            cache_kib = 1024
            [[dns.forward]]
            domains = ["corp.example"]
            servers = ["10.1.0.53"]
        "#;
        let mut config: Config = toml::from_str(text).unwrap();
        assert_eq!(config.external[0].link, "eth1");
        assert_eq!(config.dns.resolution().unwrap().dns.forward[0].servers, ["10.1.0.53"]);
        assert!(config.tls().unwrap().is_some());
        config.docker.certificates = None;
        assert!(config.tls().is_err());
        config.docker =
            Docker { tcp: "0.0.0.0:2376".parse().ok(), certificates: Some("/x".into()), ..config.docker };
        assert!(config.tls().is_err());
        for unknown in ["colour = 7", "[dns]\ncolour = 7"] {
            assert!(toml::from_str::<Config>(unknown).is_err(), "{unknown}");
        }
    }
}
