//! Why something did not get out, and the counters of that.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! refusals {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a packet did not get out (docs/egress.md tells causes and cures).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub(crate) enum Refusal {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Refusal {
            const ALL: &[Self] = &[$(Self::$variant,)+];

            /// As it is counted and shown.
            pub(super) const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }

            /// Cause, and what the sender hears.
            const fn description(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($doc),+),)+
                }
            }
        }
    };
}

refusals! {
    /// A header contradicts itself or its packet. Dropped.
    Malformed = "malformed",
    /// A checksum is wrong. Dropped.
    BadChecksum = "bad_checksum",
    /// The network has no way out. Answered.
    Off = "egress_off",
    /// The network leaves by the host's kernel, and the host has no port on it. Answered.
    NoHostPort = "no_host_port",
    /// A protocol other than TCP, UDP and ICMP echo. Answered.
    Protocol = "protocol",
    /// A destination on the host's loopback, or "this host" (0.0.0.0/8, ::). Answered.
    Loopback = "loopback",
    /// A link-local destination (cloud metadata among them). Answered.
    LinkLocal = "link_local",
    /// A multicast or broadcast destination. Dropped: nobody answers those.
    Multicast = "multicast",
    /// An address of an overlay network to which nothing routes. Answered.
    Overlay = "overlay",
    /// An address of this host, and no published port. Answered.
    Host = "host_address",
    /// The packet's last hop was here. Answered.
    TimeExceeded = "time_exceeded",
    /// As many flows as there may be. Dropped: it is tried again.
    Full = "flow_table_full",
    /// One container has as many flows as it may have. Dropped.
    ContainerFull = "container_flows_full",
    /// The outside refused it, or can't be reached. Answered as it was said.
    Outside = "outside",
    /// A TCP segment of no known flow. Answered with a reset.
    NoFlow = "no_flow",
    /// Reassembly has no room for the fragment, or what it says is contradictory. Dropped.
    Fragment = "fragment",
    /// The rest of a fragmented packet never came. Dropped.
    Unfinished = "reassembly_timeout",
    /// The host refused a socket or had no room. Dropped.
    HostResources = "host_resources",
    /// The container's network had no room. Dropped, or sent again.
    Congested = "congested",
}

/// What a name that is counted means.
pub(crate) fn cause_of(name: &str) -> Option<&'static str> {
    let mut all = Refusal::ALL.iter();
    all.find(|refusal| refusal.name() == name)
        .map(|refusal| refusal.description())
}

/// Counters of refusals, one per reason.
#[derive(Debug)]
pub(crate) struct Refusals([AtomicU64; Refusal::ALL.len()]);

impl Default for Refusals {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Refusals {
    pub(super) fn count(&self, why: Refusal) {
        if let Some(counter) = self.0.get(usize::from(why as u8)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Those that have occurred.
    pub(super) fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = Refusal::ALL.iter().zip(&self.0);
        counts.filter_map(|(why, counter)| {
            let count = counter.load(Ordering::Relaxed);
            (count > 0).then(|| (why.name(), count))
        })
    }
}
