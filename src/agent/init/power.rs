//! The end of the machine.

use std::{thread::sleep, time::Duration};

use nix::{
    sys::{
        reboot::{RebootMode, reboot},
        signal::{Signal, kill},
    },
    unistd::{Pid, sync},
};

use super::{root, workload::reap};

/// How long processes that the workload left behind have between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_millis(200);

/// Ends every process, writes what is to be written and powers off.
pub fn power_off() -> ! {
    let everybody = Pid::from_raw(-1);
    // ESRCH: there is nobody left.
    if kill(everybody, Signal::SIGTERM).is_ok() {
        let mut waited = Duration::ZERO;
        while !reap().everybody_is_gone && waited < GRACE {
            sleep(Duration::from_millis(10));
            waited += Duration::from_millis(10);
        }
        let _ = kill(everybody, Signal::SIGKILL);
        let mut waited = Duration::ZERO;
        while !reap().everybody_is_gone && waited < GRACE {
            sleep(Duration::from_millis(1));
            waited += Duration::from_millis(1);
        }
    }
    sync();
    root::seal();
    tracing::info!("powering off");
    let Err(errno) = reboot(RebootMode::RB_POWER_OFF);
    tracing::error!("the machine cannot be powered off: {errno:?}");
    // Process 1 must not return: the kernel would panic.
    loop {
        sleep(Duration::MAX);
    }
}
