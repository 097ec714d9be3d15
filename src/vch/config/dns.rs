//! `[dns]`: how containers resolve names.

use std::{fs, path::PathBuf};

use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde::Deserialize;
use tether_wire::{
    names::NameTables,
    problem::Problem,
    state::{self, DesiredState, DnsTls},
    upstream::Upstream,
};

use crate::engine::resolver::Resolution;

/// How all containers resolve names. What is absent is as tether has it by itself.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dns {
    /// How much memory of a machine answers are kept in, in KiB; 0: none is kept.
    pub cache_kib: Option<u32>,
    /// How long an answer is good for after its time when no server answers, in seconds.
    pub stale_s: Option<u32>,
    /// How many questions of one container may be at servers at one time.
    pub in_flight: Option<u32>,
    /// Private addresses in answers are refused.
    pub refuse_private_answers: bool,
    /// An unknown name below a network's name does not exist: no server is asked.
    pub keep_own_names: bool,
    /// The time to live of containers' names, in seconds.
    pub ttl_s: Option<u32>,
    /// Servers for single domains, or behind TLS.
    pub forward: Vec<Forward>,
}

/// Servers that are taken for equal, and what they are asked.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Forward {
    /// The domains whose names they are asked for; none: everything, in place of the host's own
    /// servers.
    pub domains: Vec<String>,
    /// The servers.
    pub servers: Vec<String>,
    /// They are asked over TLS.
    pub tls: Option<ForwardTls>,
}

/// How servers behind TLS are known.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForwardTls {
    /// The name their certificates are for.
    pub name: String,
    /// The file with the certificates, in PEM, of whoever vouches for them.
    pub ca_file: PathBuf,
}

impl Dns {
    /// Checks it as the guests would, and reads its files. Everything that is wrong, in one text.
    pub fn resolution(&self) -> Result<Resolution, String> {
        let mut problems = Vec::new();
        let groups = self.forward.iter().enumerate();
        let forward = groups.map(|(f, forward)| state::Forward {
            domains: forward.domains.clone(),
            servers: forward.servers.clone(),
            interface: None,
            tls: forward.tls.as_ref().map(|tls| tls.read(f, &mut problems)),
        });
        let dns = state::Dns {
            forward: forward.collect(),
            cache_kib: self.cache_kib,
            stale_s: self.stale_s,
            in_flight: self.in_flight,
            refuse_private_answers: self.refuse_private_answers,
            keep_own_names: self.keep_own_names,
            ..state::Dns::default()
        };
        let default = Resolution::default();
        let ttl_seconds = self.ttl_s.unwrap_or(default.ttl_seconds);
        let document = DesiredState { dns, ..DesiredState::default() };
        for mut problem in document.check().err().unwrap_or_default() {
            if problem.path.ends_with(".tls.ca") {
                problem.path.push_str("_file");
            }
            // Of a file that cannot be read it is known why.
            if !problems.iter().any(|known: &Problem| known.path == problem.path) {
                problems.push(problem);
            }
        }
        for (f, forward) in self.forward.iter().enumerate() {
            for (s, server) in forward.servers.iter().enumerate().filter(|(_, server)| is_local(server)) {
                problems.push(Problem::new(
                    format!("dns.forward[{f}].servers[{s}]"),
                    format!("{server} is somebody else, or nobody, in each container: write an address all can reach"),
                ));
            }
        }
        let tables = NameTables { ttl_seconds, ..NameTables::default() };
        let wrong = tables.check().err().unwrap_or_default().into_iter();
        problems.extend(wrong.map(|problem| Problem::new("dns.ttl_s", problem.message)));
        if problems.is_empty() {
            return Ok(Resolution { dns: document.dns, ttl_seconds });
        }
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Err(problems.join("; "))
    }
}

/// Whether a server is on the container's own loopback, or on one of its links.
fn is_local(server: &str) -> bool {
    let server: Option<Upstream> = server.parse().ok();
    server.is_some_and(|server| server.address.is_loopback() || server.scope.is_some())
}

impl ForwardTls {
    fn read(&self, f: usize, problems: &mut Vec<Problem>) -> DnsTls {
        let ca = self.certificates().unwrap_or_else(|error| {
            let message = format!("{}: {error}", self.ca_file.display());
            problems.push(Problem::new(format!("dns.forward[{f}].tls.ca_file"), message));
            String::new()
        });
        DnsTls { name: self.name.clone(), ca }
    }

    /// The certificates as text. Nothing else of the file goes to the guests: somebody may keep
    /// the key beside them.
    fn certificates(&self) -> Result<String, String> {
        let file = fs::read_to_string(&self.ca_file).map_err(|error| error.to_string())?;
        let (mut text, mut inside) = (String::new(), false);
        for line in file.lines().map(str::trim_end) {
            inside |= line == "-----BEGIN CERTIFICATE-----";
            if inside {
                text.push_str(line);
                text.push('\n');
            }
            inside &= line != "-----END CERTIFICATE-----";
        }
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
        match found {
            Ok(found) if found.is_empty() => Err("no certificate in PEM".to_owned()),
            Ok(_) => Ok(text),
            Err(error) => Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Resolution, String> {
        toml::from_str::<Dns>(text).map_err(|error| error.to_string())?.resolution()
    }

    #[test]
    fn what_is_absent_is_as_tether_has_it() {
        let resolution = read("").unwrap();
        assert_eq!((resolution.ttl_seconds, resolution.dns), (5, state::Dns::default()));
    }

    #[test]
    fn everything_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(vec!["dns.example".into()]).unwrap();
        let certificate = parameters.self_signed(&key).unwrap().pem();
        let file = directory.path().join("ca.pem");
        let secret = key.serialize_pem();
        fs::write(&file, format!("About it\n{certificate}{secret}{certificate}")).unwrap();
        let text = format!(
            "cache_kib = 0\nstale_s = 604800\nin_flight = 512\nrefuse_private_answers = true\n\
             keep_own_names = true\nttl_s = 0\n\
             [[forward]]\ndomains = [\"corp.example\"]\nservers = [\"10.1.0.53\", \"[fd00::53]:5353\"]\n\
             [[forward]]\nservers = [\"10.2.0.53\"]\n\
             tls = {{ name = \"dns.example\", ca_file = \"{}\" }}\n",
            file.display()
        );
        let resolution = read(&text).unwrap();
        assert_eq!(resolution.ttl_seconds, 0);
        let ca = resolution.dns.forward[1].tls.clone().unwrap().ca;
        assert_eq!(ca.replace('\r', ""), format!("{certificate}{certificate}").replace('\r', ""));
        let expected = state::Dns {
            forward: vec![
                state::Forward {
                    domains: vec!["corp.example".into()],
                    servers: vec!["10.1.0.53".into(), "[fd00::53]:5353".into()],
                    ..state::Forward::default()
                },
                state::Forward {
                    servers: vec!["10.2.0.53".into()],
                    tls: Some(DnsTls { name: "dns.example".into(), ca }),
                    ..state::Forward::default()
                },
            ],
            cache_kib: Some(0),
            stale_s: Some(604_800),
            in_flight: Some(512),
            refuse_private_answers: true,
            keep_own_names: true,
            ..state::Dns::default()
        };
        assert_eq!(resolution.dns, expected);
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once_with_its_path() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let (empty, broken) = (file("empty", "nothing"), file("broken", "-----BEGIN CERTIFICATE-----\n*\n"));
        let text = format!(
            "cache_kib = 4097\nstale_s = 604801\nin_flight = 0\nttl_s = 61\n\
             [[forward]]\ndomains = [\"corp example\"]\nservers = [\"127.0.0.53\", \"dns.example\", \"fe80::53%eth0\"]\n\
             [[forward]]\ntls = {{ name = \"\", ca_file = \"/no/such\" }}\n\
             [[forward]]\nservers = [\"10.1.0.53\"]\ntls = {{ name = \"a\", ca_file = \"{empty}\" }}\n\
             [[forward]]\nservers = [\"10.1.0.53\"]\ntls = {{ name = \"a\", ca_file = \"{broken}\" }}\n",
        );
        let told = read(&text).unwrap_err();
        for part in [
            "dns.cache_kib: 4097",
            "dns.stale_s: 604801",
            "dns.in_flight: 0",
            "dns.ttl_s: 61",
            "dns.forward[0].domains[0]: ",
            "dns.forward[0].servers[0]: 127.0.0.53 is somebody else",
            "dns.forward[0].servers[1]: ",
            "dns.forward[0].servers[2]: fe80::53%eth0 is somebody else",
            "dns.forward[1].servers: ",
            "dns.forward[1].tls.name: ",
            "dns.forward[1].tls.ca_file: /no/such: No such file",
            "dns.forward[2].tls.ca_file: ",
            "dns.forward[3].tls.ca_file: ",
        ] {
            assert_eq!(told.matches(part).count(), 1, "{part}: {told}");
        }
        for unknown in [
            "upstreams = []",
            "[[forward]]\ninterface = \"eth0\"",
            "[[forward]]\ntls = { name = \"a\", ca = \"b\" }",
        ] {
            assert!(read(unknown).unwrap_err().contains("unknown field"), "{unknown}");
        }
    }
}
