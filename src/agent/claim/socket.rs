//! A packet socket (`packet(7)`) on one link, without Ethernet headers. Everything unsafe is here.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::AsRawFd,
    task::{Context, Poll},
};

use nix::libc;
use socket2::{Domain, SockAddr, SockAddrStorage, SockFilter, Socket, Type};
use tether_wire::value::MacAddr;
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    Protocol,
    neighbour::{ADVERTISEMENT, HOP_LIMIT, ICMPV6, SOLICITATION},
};

/// The family of a packet socket's address, in the type it has there.
const FAMILY: libc::sa_family_t = 17;
/// The length of an Ethernet address.
const LENGTH: u8 = 6;

/// What comes over one link by one protocol.
#[derive(Debug)]
pub(super) struct LinkSocket {
    socket: AsyncFd<Socket>,
    link: u32,
    protocol: Protocol,
}

impl LinkSocket {
    /// Opens one in the network namespace of the current thread.
    pub(super) fn open(link: u32, protocol: Protocol) -> io::Result<Self> {
        // Without a protocol nothing comes in before it is bound to its link.
        let socket = Socket::new(Domain::PACKET, Type::DGRAM.nonblocking().cloexec(), None)?;
        if protocol == Protocol::Ipv6 {
            socket.attach_filter(&neighbour_discovery_only())?;
        }
        socket.bind(&address(link, protocol, None))?;
        // SAFETY: the descriptor is the socket's own, and stays open as long as it lives.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) };
        Ok(Self { socket: socket.map_err(|error| error.into_parts().1)?, link, protocol })
    }

    /// Sends a packet to an Ethernet address on the link.
    pub(super) fn send(&self, packet: &[u8], to: [u8; LENGTH as usize]) -> io::Result<()> {
        self.socket.get_ref().send_to(packet, &address(self.link, self.protocol, Some(to))).map(drop)
    }

    /// Receives the next packet, cut to the buffer's length, with its frame's source, if one is
    /// there.
    pub(super) fn receive<'a>(
        &self,
        buffer: &'a mut [MaybeUninit<u8>],
    ) -> io::Result<(&'a [u8], Option<MacAddr>)> {
        let (length, from) = match self.socket.try_io(Interest::READABLE, |socket| socket.recv_from(buffer)) {
            // Or tokio has not been told of it yet.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.socket.get_ref().recv_from(buffer)?
            }
            other => other?,
        };
        let packet = buffer.get(..length).unwrap_or_default();
        // SAFETY: the kernel has written that many bytes.
        Ok((unsafe { packet.assume_init_ref() }, source(from)))
    }

    /// Whether there is something to receive; wakes when there is.
    pub(super) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        self.socket.poll_read_ready(context).map(drop)
    }

    /// Whether packets can pass: the link is up and has a carrier (`IFF_RUNNING`).
    pub(super) fn is_running(&self) -> io::Result<bool> {
        let mut request = named(self.link, self.socket.get_ref())?;
        request.ifr_ifru.ifru_flags = 0;
        // SAFETY: the request is one, has a name and lives through the call.
        check(unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) })?;
        // SAFETY: the kernel has written the flags.
        let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
        let both = libc::IFF_UP | libc::IFF_RUNNING;
        Ok(flags & both == both)
    }
}

/// How a link is called in messages to people.
pub(super) fn link_name(link: u32) -> String {
    let name = || {
        let request = named(link, &Socket::new(Domain::PACKET, Type::DGRAM.cloexec(), None)?)?;
        let name = request.ifr_name.iter().map(|byte| byte.cast_unsigned()).take_while(|byte| *byte != 0);
        io::Result::Ok(String::from_utf8_lossy(&name.collect::<Vec<u8>>()).into_owned())
    };
    name().unwrap_or_else(|_| format!("link {link}"))
}

/// A request about a link, with its name, which is how requests know links.
fn named(link: u32, socket: &Socket) -> io::Result<libc::ifreq> {
    // SAFETY: it is plain data, for which zeros are good.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_ifru.ifru_ifindex = link.cast_signed();
    // SAFETY: the request is one, has an index and lives through the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFNAME, &raw mut request) })?;
    Ok(request)
}

fn check(answer: libc::c_int) -> io::Result<()> {
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Where to listen, or, with an Ethernet address, where to send to.
fn address(link: u32, protocol: Protocol, to: Option<[u8; LENGTH as usize]>) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: a `sockaddr_ll` is plain data, a socket address and no larger than the storage.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = FAMILY;
    address.sll_protocol = protocol.ethertype().to_be();
    address.sll_ifindex = link.cast_signed();
    if let Some(to) = to {
        address.sll_halen = LENGTH;
        address.sll_addr[..to.len()].copy_from_slice(&to);
    }
    let length = storage.size_of();
    // SAFETY: the whole storage is an address of its family, with zeros behind it.
    unsafe { SockAddr::new(storage, length) }
}

/// The Ethernet address a packet came from.
fn source(from: SockAddr) -> Option<MacAddr> {
    let mut storage = from.as_storage();
    // SAFETY: as above; what the kernel has not written are zeros.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    let is_ethernet = address.sll_family == FAMILY && address.sll_halen == LENGTH;
    is_ethernet.then_some(MacAddr::from_bytes(*address.sll_addr.first_chunk()?)?)
}

/// Lets through what `neighbour` reads, so that nobody wakes for the rest of a link's traffic.
fn neighbour_discovery_only() -> [SockFilter; 9] {
    // `linux/bpf_common.h`: BPF_LD | BPF_B | BPF_ABS, BPF_JMP | BPF_JEQ | BPF_K, BPF_RET | BPF_K.
    const LOAD_BYTE: u16 = 0x30;
    const IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    let load = |position| SockFilter::new(LOAD_BYTE, 0, 0, position);
    // Each condition says how many instructions to leave out when it holds, and when not.
    let equal = |value: u8, then, otherwise| SockFilter::new(IF_EQUAL, then, otherwise, value.into());
    [
        load(6),
        equal(ICMPV6, 0, 6),
        load(7),
        equal(HOP_LIMIT, 0, 4),
        load(40),
        equal(ADVERTISEMENT, 1, 0),
        equal(SOLICITATION, 0, 1),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}
