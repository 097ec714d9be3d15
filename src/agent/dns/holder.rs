//! Who has a port: for the person who reads that it is taken.
//!
//! Read from `/proc`, as ss(8) does; nothing is known where that is not shown.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
};

/// The program that has this port, UDP or TCP, at this address or at all, and its process:
/// `dnsmasq, process 4711`.
pub(super) fn of(place: SocketAddr) -> Option<String> {
    let tables = ["udp", "tcp", "udp6", "tcp6"];
    let inode = tables.into_iter().find_map(|table| {
        let text = fs::read_to_string(format!("/proc/net/{table}")).ok()?;
        text.lines().skip(1).find_map(|line| inode(line, place).map(str::to_owned))
    })?;
    let socket = format!("socket:[{inode}]");
    let is_process = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    let processes = fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(is_process));
    for process in processes {
        let has_it = |path: &Path| fs::read_link(path).is_ok_and(|target| target.as_os_str() == &*socket);
        let files = fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten();
        if files.into_iter().any(|file| has_it(&file.path())) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{}, process {}", name.trim_end(), process.file_name().display()));
        }
    }
    None
}

/// The inode of the socket in a line of `/proc/net/udp` and its like, where it holds `place`. Of
/// TCP only a listener does.
fn inode(line: &str, place: SocketAddr) -> Option<&str> {
    let mut fields = line.split_ascii_whitespace();
    let (address, port) = fields.nth(1)?.split_once(':')?;
    let _remote = fields.next()?;
    // Listening for TCP, unconnected for UDP.
    let listens = matches!(fields.next()?, "0A" | "07");
    let (address, port) = (read_address(address)?, u16::from_str_radix(port, 16).ok()?);
    let holds = port == place.port() && (address == place.ip() || address.is_unspecified());
    (holds && listens).then(|| fields.nth(5))?
}

/// An address as the kernel writes it: words of 32 bits, in the machine's own order of bytes.
fn read_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(text.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    match text.len() {
        8 => Some(IpAddr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            Some(IpAddr::from(<[u8; 16]>::try_from(words.concat()).ok()?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernels_is_read() {
        let udp = "  123: 0B00007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0 0";
        let all = udp.replace("0B00007F", "00000000");
        let place = "127.0.0.11:53".parse().unwrap();
        assert_eq!(inode(udp, place), Some("4711"));
        assert_eq!(inode(&all, place), Some("4711"));
        assert_eq!(inode(udp, "127.0.0.12:53".parse().unwrap()), None);
        assert_eq!(inode(udp, "127.0.0.11:54".parse().unwrap()), None);
        let six = udp.replace("0B00007F", "00000000000000000000000001000000");
        assert_eq!(inode(&six, "[::1]:53".parse().unwrap()), Some("4711"));
    }

    #[test]
    fn the_holder_of_a_port_is_found() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let holder = of(socket.local_addr().unwrap()).unwrap();
        assert!(holder.ends_with(&format!("process {}", std::process::id())), "{holder}");
    }
}
