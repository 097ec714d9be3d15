//! Keeping the workload off vsock, by which the tether may come: Linux has no namespaces for it that a
//! process could be kept out of, so the system calls that make such a socket fail.
//!
//! Docker's filter has the same rule among its others. Here it is the only one, and only in machines
//! that have vsock.

use std::{io, path::Path};

use nix::libc::{self, sock_filter, sock_fprog};

/// The architectures a process on x86-64 can call as (`AUDIT_ARCH_…` of `linux/audit.h`).
const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
/// x32's calls are x86-64's with this bit.
const X32: u32 = 0x4000_0000;
/// `socketcall` and `socket` of i386. What the first is to make is in memory, where a filter cannot
/// look.
const I386_SOCKETCALL: u32 = 102;
const I386_SOCKET: u32 = 359;
/// The same number everywhere. A ring makes sockets too (`IORING_OP_SOCKET`), and no filter sees it.
const IO_URING_SETUP: u32 = 425;
const SOCKET: u32 = 41;
const AF_VSOCK: u32 = 40;

/// Where `struct seccomp_data` has the call's number, its architecture, and the low half of its first
/// argument.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const FIRST: u32 = 16;

/// What a call that is not allowed comes to: what it does in a machine without vsock, or with a kernel
/// that has no such call.
const NO_SUCH_FAMILY: u32 = libc::SECCOMP_RET_ERRNO | libc::EAFNOSUPPORT as u32;
const NO_SUCH_CALL: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

const LENGTH: u16 = 18;

/// The filter.
static FILTER: [sock_filter; LENGTH as usize] = [
    load(ARCHITECTURE),
    jump(1, I386, 8, 2),
    // There is no other: nothing is known of its calls.
    jump(2, X86_64, 3, 17),
    // x86-64
    load(NUMBER),
    and(!X32),
    jump(5, IO_URING_SETUP, 17, 6),
    jump(6, SOCKET, 13, 7),
    finish(libc::SECCOMP_RET_ALLOW),
    // 8: i386
    load(NUMBER),
    jump(9, IO_URING_SETUP, 17, 10),
    jump(10, I386_SOCKETCALL, 17, 11),
    jump(11, I386_SOCKET, 13, 12),
    finish(libc::SECCOMP_RET_ALLOW),
    // 13: a socket
    load(FIRST),
    jump(14, AF_VSOCK, 16, 15),
    finish(libc::SECCOMP_RET_ALLOW),
    // 16, 17
    finish(NO_SUCH_FAMILY),
    finish(NO_SUCH_CALL),
];

const fn load(offset: u32) -> sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

const fn and(mask: u32) -> sock_filter {
    instruction(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, mask)
}

const fn finish(result: u32) -> sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, result)
}

/// From the instruction `here` to one of two others. The kernel counts from the one behind.
const fn jump(here: u8, wanted: u32, equal: u8, other: u8) -> sock_filter {
    let jump = instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, wanted);
    sock_filter { jt: equal - here - 1, jf: other - here - 1, ..jump }
}

#[expect(clippy::cast_possible_truncation, reason = "the parts of a code are 8 bits together")]
const fn instruction(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// Whether this machine has vsock.
pub(super) fn is_there() -> bool {
    Path::new("/dev/vsock").exists()
}

/// Takes vsock from this process and its children for good. For a forked child that has
/// `CAP_SYS_ADMIN`.
pub(super) fn forgo() -> io::Result<()> {
    let program = sock_fprog { len: LENGTH, filter: FILTER.as_ptr().cast_mut() };
    // SAFETY: the kernel reads as many instructions as there are, and copies them.
    let done = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::CommandExt, process::Command};

    use super::*;

    /// Tries everything, as x86-64 and, by its software interrupt, as i386. Errors come as negative
    /// numbers.
    const TRY: &str = r#"
import ctypes, errno, mmap
libc = ctypes.CDLL(None, use_errno=True)
def x86_64(*words):
    done = libc.syscall(*words)
    return 0 if done >= 0 else ctypes.get_errno()
page = mmap.mmap(-1, 4096, prot=7)
page.write(bytes.fromhex("5389f889f389d131d2cd805bc3"))
code = ctypes.CFUNCTYPE(ctypes.c_int, *[ctypes.c_int] * 3)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
def i386(*words):
    return max(0, -code(*words))
for call in (
    x86_64(41, 2, 1, 0), x86_64(41, 40, 1, 0), x86_64(41 | 1 << 30, 40, 1, 0), x86_64(425, 0, 0), x86_64(39),
    i386(359, 2, 1), i386(359, 40, 1), i386(102, 1, 0), i386(425, 0, 0), i386(20, 0, 0),
):
    print(errno.errorcode.get(call, "-"))
"#;

    #[test]
    fn no_call_makes_a_vsock_socket_and_the_others_are_as_before() {
        let tried = |with_filter: bool| {
            let mut command = Command::new("python3");
            command.args(["-c", TRY]);
            let enter = move || {
                // In place of CAP_SYS_ADMIN, which a test need not have.
                // SAFETY: numbers only.
                unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
                if with_filter { forgo() } else { Ok(()) }
            };
            // SAFETY: system calls only.
            unsafe { command.pre_exec(enter) };
            let output = command.output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap()
        };
        let shut = tried(true);
        assert_eq!(
            shut.lines().collect::<Vec<_>>(),
            [
                "-",
                "EAFNOSUPPORT",
                "EAFNOSUPPORT",
                "ENOSYS",
                "-", // x86-64, x32
                "-",
                "EAFNOSUPPORT",
                "ENOSYS",
                "ENOSYS",
                "-", // i386
            ]
        );
        // It is the filter that makes the difference.
        let open = tried(false);
        let differ = shut.lines().zip(open.lines()).filter(|(shut, open)| shut != open).count();
        assert!(differ >= 3, "{open}");
    }
}
