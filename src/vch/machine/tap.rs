//! Tap devices: one end on a bridge, the other a file that QEMU holds.
//!
//! The device lives exactly as long as somebody holds the file, so a machine that ends, however
//! it ends, leaves nothing behind.

use std::{
    fs::{File, OpenOptions},
    io,
    os::fd::AsRawFd,
};

use nix::libc::{IFF_NO_PI, IFF_TAP, IFF_VNET_HDR, c_int, c_short, ifreq};

// linux/if_tun.h: TUNSETIFF is _IOW('T', 202, int), though its argument is a struct ifreq.
nix::ioctl_write_ptr_bad!(
    /// Makes the opened `/dev/net/tun` the device that the request names, and writes the name it
    /// got into the request.
    tunsetiff,
    nix::request_code_write!(b'T', 202, size_of::<c_int>()),
    ifreq
);

/// A tap device.
#[derive(Debug)]
pub struct Tap {
    /// The machine's end.
    pub file: File,
    /// Its name in this network namespace.
    pub name: String,
}

impl Tap {
    /// Makes a device with a name the kernel chooses.
    pub fn new() -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
        // SAFETY: ifreq is a C struct of integers and byte arrays; all zeros is a valid value.
        let mut request: ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request.ifr_name.iter_mut().zip(b"vch%d") {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags =
            c_short::try_from(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR).map_err(io::Error::other)?;
        // SAFETY: the descriptor is open, and the kernel reads and writes one ifreq (the const in
        // the signature is nix's reading of _IOW; the name comes back in it).
        unsafe { tunsetiff(file.as_raw_fd(), &raw const request) }?;
        let name = request
            .ifr_name
            .iter()
            .take_while(|byte| **byte != 0)
            .map(|byte| char::from(byte.cast_unsigned()));
        Ok(Self { file, name: name.collect() })
    }
}
