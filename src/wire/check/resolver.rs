//! Name resolution and the files of a desired state.

use super::DesiredHost;
use crate::{
    names::{domain_name, host_address},
    problem::Problems,
    state::{Dns, HostEntry},
    upstream::Upstream,
    value::quoted,
};

/// Upstream servers, search domains without `.`, and resolver options.
pub(super) fn check_dns(dns: &Dns, problems: &mut Problems) -> (Vec<Upstream>, Vec<String>, Vec<String>) {
    let upstreams = (dns.upstreams.iter().enumerate())
        .filter_map(|(u, text)| problems.keep(format_args!("dns.upstreams[{u}]"), text.parse()))
        .collect();
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
    (upstreams, search, dns.options.clone())
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
