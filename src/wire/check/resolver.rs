//! Name resolution and the files of a desired state.

use std::{net::IpAddr, time::Duration};

use super::DesiredHost;
use crate::{
    names::{domain_name, host_address},
    problem::Problems,
    state::{Dns, DnsTls, Forward, HostEntry},
    upstream::{EMBEDDED_DNS, Upstream},
    value::{IfName, is_link_local, quoted},
};

/// The most memory for answers of upstreams, in KiB.
const MAX_CACHE_KIB: u32 = 4_096;
/// The longest an answer may be given past its time to live: a week, as RFC 8767 section 5 has it.
const MAX_STALE_S: u32 = 604_800;
/// The most questions at upstreams: each has a socket of its own, and a process 1,024 files.
const MAX_IN_FLIGHT: u32 = 512;
/// The longest text of certificates, in bytes.
const MAX_CA: usize = 64 << 10;
/// RFC 1035 section 4.2, RFC 7858 section 3.1.
const DNS_PORT: u16 = 53;
const TLS_PORT: u16 = 853;

/// Name resolution as checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredDns {
    /// Who is asked for what, those for everything first.
    pub forward: Vec<DesiredForward>,
    /// Search domains without `.`.
    pub search: Vec<String>,
    /// Resolver options as they were given.
    pub options: Vec<String>,
    /// Where the server listens; at least one.
    pub listen: Vec<IpAddr>,
    /// Bytes for answers of upstreams, 0 for none.
    pub cache_bytes: usize,
    /// How long stale answers are good for.
    pub stale: Duration,
    /// The most questions at upstreams, at least 1.
    pub in_flight: usize,
    /// Private addresses in upstreams' answers are refused.
    pub refuse_private_answers: bool,
    /// Unknown names below a network's name are not asked for.
    pub keep_own_names: bool,
}

/// Servers, and what they are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredForward {
    /// Domains in lower case without a final dot; none: everything.
    pub domains: Vec<String>,
    /// The servers.
    pub servers: Vec<Upstream>,
    /// The interface they are asked through.
    pub interface: Option<IfName>,
    /// How they are known, where they are asked over TLS.
    pub tls: Option<DnsTls>,
}

impl Default for DesiredDns {
    fn default() -> Self {
        Self {
            forward: Vec::new(),
            search: Vec::new(),
            options: Vec::new(),
            listen: vec![EMBEDDED_DNS.into()],
            cache_bytes: 256 << 10,
            stale: Duration::from_hours(1),
            in_flight: 256,
            refuse_private_answers: false,
            keep_own_names: false,
        }
    }
}

/// Upstream servers, search domains, options, and how the server behaves.
pub(super) fn check_dns(dns: &Dns, problems: &mut Problems) -> DesiredDns {
    let general = DesiredForward {
        domains: Vec::new(),
        servers: check_servers("dns.upstreams", &dns.upstreams, DNS_PORT, problems),
        interface: None,
        tls: None,
    };
    let particular = dns.forward.iter().enumerate().map(|(f, forward)| check_forward(f, forward, problems));
    let mut forward: Vec<_> = particular.collect();
    if !general.servers.is_empty() {
        forward.insert(0, general);
    }
    let search: Vec<String> = dns.search.iter().filter(|domain| *domain != ".").cloned().collect();
    for (s, domain) in dns.search.iter().enumerate().filter(|(_, domain)| *domain != ".") {
        let bare = domain.strip_suffix('.').unwrap_or(domain);
        problems.keep(format_args!("dns.search[{s}]"), domain_name(bare));
    }
    for (o, option) in dns.options.iter().enumerate() {
        // A space or a newline would start another option, or another line of the file.
        if option.is_empty() || option.len() > 64 || !option.bytes().all(|b| b.is_ascii_graphic()) {
            problems.add(
                format!("dns.options[{o}]"),
                format!("{} is not one option: write one word, such as ndots:1", quoted(option)),
            );
        }
    }
    let default = DesiredDns::default();
    let listen: Vec<IpAddr> = (dns.listen.iter().enumerate())
        .filter_map(|(l, text)| problems.keep(format_args!("dns.listen[{l}]"), listening_address(text)))
        .collect();
    let mut number = |field: &str, given: Option<u32>, least: u32, most: u32| {
        let given = given?;
        if !(least..=most).contains(&given) {
            problems.add(format!("dns.{field}"), format!("{given} is not between {least} and {most}"));
        }
        Some(given)
    };
    let cache_bytes = number("cache_kib", dns.cache_kib, 0, MAX_CACHE_KIB).map(|kib| (kib as usize) << 10);
    let stale = number("stale_s", dns.stale_s, 0, MAX_STALE_S).map(|s| Duration::from_secs(s.into()));
    let in_flight = number("in_flight", dns.in_flight, 1, MAX_IN_FLIGHT).map(|n| n as usize);
    DesiredDns {
        forward,
        search,
        options: dns.options.clone(),
        listen: if dns.listen.is_empty() { default.listen } else { listen },
        cache_bytes: cache_bytes.unwrap_or(default.cache_bytes),
        stale: stale.unwrap_or(default.stale),
        in_flight: in_flight.unwrap_or(default.in_flight),
        refuse_private_answers: dns.refuse_private_answers,
        keep_own_names: dns.keep_own_names,
    }
}

fn check_forward(f: usize, forward: &Forward, problems: &mut Problems) -> DesiredForward {
    let path = format!("dns.forward[{f}]");
    for (d, domain) in forward.domains.iter().enumerate() {
        let bare = domain.strip_suffix('.').unwrap_or(domain);
        problems.keep(format_args!("{path}.domains[{d}]"), domain_name(bare));
    }
    if forward.servers.is_empty() {
        problems.add(format!("{path}.servers"), "no server: write at least one");
    }
    let port = if forward.tls.is_some() { TLS_PORT } else { DNS_PORT };
    let servers = check_servers(&format!("{path}.servers"), &forward.servers, port, problems);
    let interface = forward.interface.as_ref();
    let interface = interface.and_then(|name| problems.keep(format_args!("{path}.interface"), name.parse()));
    if let Some(tls) = &forward.tls {
        problems.keep(format_args!("{path}.tls.name"), domain_name(&tls.name));
        if !tls.ca.contains("-----BEGIN CERTIFICATE-----") || tls.ca.len() > MAX_CA {
            problems.add(
                format!("{path}.tls.ca"),
                "no certificates in PEM of at most 64 KiB: write -----BEGIN CERTIFICATE----- and so on",
            );
        }
    }
    let folded = |domain: &String| domain.strip_suffix('.').unwrap_or(domain).to_ascii_lowercase();
    DesiredForward {
        domains: forward.domains.iter().map(folded).collect(),
        servers,
        interface,
        tls: forward.tls.clone(),
    }
}

fn check_servers(path: &str, servers: &[String], port: u16, problems: &mut Problems) -> Vec<Upstream> {
    let parse =
        |(s, text): (usize, &String)| problems.keep(format_args!("{path}[{s}]"), Upstream::parse(text, port));
    servers.iter().enumerate().filter_map(parse).collect()
}

/// An address to listen on: one of the guest's own, loopback or not.
fn listening_address(text: &str) -> Result<IpAddr, String> {
    let address = host_address(text)?;
    if is_link_local(address) {
        return Err(format!("{address} is on some link only, and not listened on"));
    }
    Ok(address)
}

/// An extra line of `/etc/hosts`.
pub(super) fn check_host(path: &str, host: &HostEntry, problems: &mut Problems) -> Option<DesiredHost> {
    let address = problems.keep(format_args!("{path}.address"), host_address(&host.address));
    if host.names.is_empty() {
        problems.add(format!("{path}.names"), "no name: write at least one");
    }
    for (n, name) in host.names.iter().enumerate() {
        problems.keep(format_args!("{path}.names[{n}]"), domain_name(name));
    }
    Some(DesiredHost { address: address?, names: host.names.clone() })
}
