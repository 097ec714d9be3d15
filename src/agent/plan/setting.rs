//! The settings of an interface under `/proc/sys/net` that tether knows.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One setting of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Setting {
    /// `net.ipv4.conf.NAME.forwarding`
    Ipv4Forwarding,
    /// `net.ipv4.conf.NAME.rp_filter`
    RpFilter,
    /// `net.ipv4.conf.NAME.arp_ignore`
    ArpIgnore,
    /// `net.ipv4.conf.NAME.arp_announce`
    ArpAnnounce,
    /// `net.ipv4.conf.NAME.promote_secondaries`: when an IPv4 address goes, those secondary to it
    /// stay.
    PromoteSecondaries,
    /// `net.ipv6.conf.NAME.disable_ipv6`
    DisableIpv6,
    /// `net.ipv6.conf.NAME.forwarding`
    Ipv6Forwarding,
    /// `net.ipv6.conf.NAME.accept_ra`
    AcceptRa,
    /// `net.ipv6.conf.NAME.optimistic_dad`: addresses that say so may be used before
    /// duplicate-address detection has finished.
    OptimisticDad,
}

impl Setting {
    /// All of them, in the order they are set: IPv6 is there before its own settings.
    pub const ALL: [Self; 9] = [
        Self::Ipv4Forwarding,
        Self::RpFilter,
        Self::ArpIgnore,
        Self::ArpAnnounce,
        Self::PromoteSecondaries,
        Self::DisableIpv6,
        Self::Ipv6Forwarding,
        Self::AcceptRa,
        Self::OptimisticDad,
    ];

    /// Whether it is there only where IPv6 is.
    pub fn is_ipv6(self) -> bool {
        self.place().0 == "ipv6"
    }

    /// Where it is below `/proc/sys/net`: the protocol, and the file's name in the interface's
    /// directory there.
    pub fn place(self) -> (&'static str, &'static str) {
        match self {
            Self::Ipv4Forwarding => ("ipv4", "forwarding"),
            Self::RpFilter => ("ipv4", "rp_filter"),
            Self::ArpIgnore => ("ipv4", "arp_ignore"),
            Self::ArpAnnounce => ("ipv4", "arp_announce"),
            Self::PromoteSecondaries => ("ipv4", "promote_secondaries"),
            Self::DisableIpv6 => ("ipv6", "disable_ipv6"),
            Self::Ipv6Forwarding => ("ipv6", "forwarding"),
            Self::AcceptRa => ("ipv6", "accept_ra"),
            Self::OptimisticDad => ("ipv6", "optimistic_dad"),
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (protocol, name) = self.place();
        write!(f, "{protocol}.{name}")
    }
}

/// What an interface's settings are; `None` where the kernel has none (IPv6 is not there) or
/// nothing is known of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings([Option<i32>; Setting::ALL.len()]);

impl Settings {
    /// The value of one.
    pub fn get(&self, setting: Setting) -> Option<i32> {
        self.0[setting as usize]
    }

    /// Gives one a value, or none.
    pub fn set(&mut self, setting: Setting, value: Option<i32>) {
        self.0[setting as usize] = value;
    }
}
