//! The host's keys: the one it is known by, and the one it will be known by.
//!
//! Values only: who is told of them, and when, is the caller's business.

use std::sync::Arc;

use rustls::ServerConfig;
use tether_wire::{identity::Pin, message::HostKey};

use crate::identity::Identity;

/// The keys of a host.
#[derive(Debug)]
pub(crate) struct Keys {
    serving: Identity,
    /// What a guest that comes is told. `None`: its boot document says it all.
    told: Option<HostKey>,
}

impl Keys {
    /// A host of one key.
    pub(crate) fn new(serving: Identity) -> Self {
        Self { serving, told: None }
    }

    /// What connections are served with now.
    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        self.serving.server()
    }

    /// The pins that boot documents are to have.
    pub(crate) fn pins(&self) -> Vec<Pin> {
        self.told.as_ref().map_or_else(|| vec![self.serving.pin()], |told| told.pins.clone())
    }

    /// What a guest that has come is told, if anything.
    pub(crate) fn greeting(&self) -> Option<HostKey> {
        self.told.clone()
    }

    /// There will be another key. What guests that are there are told.
    pub(crate) fn announce(&mut self, next: Pin) -> HostKey {
        let mut pins = vec![self.serving.pin(), next];
        pins.dedup();
        let told = HostKey { pins };
        self.told = Some(told.clone());
        told
    }

    /// Serves with another key. What guests that are there are told: that it is the only one. They
    /// hear it from a host that they know by the old one.
    pub(crate) fn rotate(&mut self, next: Identity) -> HostKey {
        let told = HostKey { pins: vec![next.pin()] };
        self.told = Some(told.clone());
        self.serving = next;
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_announced_then_served_then_alone() {
        let (old, next) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let both = HostKey { pins: vec![old.pin(), next.pin()] };
        let mut keys = Keys::new(old.clone());
        assert_eq!((keys.greeting(), keys.pins()), (None, vec![old.pin()]));
        assert_eq!(keys.announce(next.pin()), both);
        assert_eq!((keys.greeting(), keys.pins()), (Some(both.clone()), both.pins.clone()));
        assert!(Arc::ptr_eq(&keys.server(), &old.server()), "it is only announced");
        assert_eq!(keys.rotate(next.clone()), HostKey { pins: vec![next.pin()] });
        assert!(Arc::ptr_eq(&keys.server(), &next.server()));
        assert_eq!(keys.greeting(), Some(HostKey { pins: vec![next.pin()] }));
        // And without a word before, as when a key has leaked.
        let mut keys = Keys::new(old);
        assert_eq!(keys.rotate(next.clone()), HostKey { pins: vec![next.pin()] }, "the old one is over");
        assert_eq!(keys.pins(), [next.pin()]);
        assert_eq!(keys.announce(next.pin()).pins, [next.pin()], "the same again");
    }
}
