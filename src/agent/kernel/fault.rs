//! Faults on request, for tests of what follows them. Only in debug builds.

use std::{
    env,
    sync::{Mutex, PoisonError},
};

use nix::sys::signal::{Signal, raise};

/// What is to go wrong, at which operation: they are counted from 0, from when the fault was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The kernel refuses the operation.
    Refuse(usize),
    /// The process kills itself when everything before the operation was carried out.
    Kill(usize),
}

impl Fault {
    /// What `TETHER_FAULT` says: `refuse:N` or `kill:N`.
    pub fn from_environment() -> Option<Self> {
        Self::parse(&env::var("TETHER_FAULT").ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let (what, at) = text.split_once(':')?;
        let at = at.parse().ok()?;
        match what {
            "refuse" => Some(Self::Refuse(at)),
            "kill" => Some(Self::Kill(at)),
            _ => None,
        }
    }
}

/// The fault that is set, and how many operations there were since.
#[derive(Debug, Default)]
pub(super) struct Faults(Mutex<(Option<Fault>, usize)>);

impl Faults {
    /// Sets the fault and begins to count.
    pub(super) fn set(&self, fault: Option<Fault>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (fault, 0);
    }

    /// Counts an operation, and says what is to happen to it.
    pub(super) fn next(&self) -> Option<Fault> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = state.1;
        state.1 += 1;
        state.0.filter(|fault| matches!(fault, Fault::Refuse(n) | Fault::Kill(n) if *n == at))
    }
}

/// Ends the process as the kernel's memory killer would.
pub(super) fn kill() {
    // It cannot fail, and there is nobody to tell.
    let _ = raise(Signal::SIGKILL);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_read_and_comes_once() {
        assert_eq!(Fault::parse("kill:3"), Some(Fault::Kill(3)));
        assert_eq!(Fault::parse("refuse:0"), Some(Fault::Refuse(0)));
        for text in ["", "kill", "kill:", "kill:-1", "kil:1"] {
            assert_eq!(Fault::parse(text), None, "{text}");
        }
        let faults = Faults::default();
        faults.set(Some(Fault::Refuse(1)));
        assert_eq!([(); 3].map(|()| faults.next()), [None, Some(Fault::Refuse(1)), None]);
    }
}
