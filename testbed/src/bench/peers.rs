//! Other userspace switches and overlays, for an idea of the field: each as its package comes, with its defaults, and its
//! own encryption where it has one. What is missing or does not start here is left out, and why is said.
//!
//! Those that can switch between two containers of a host get containers. The others are point to point: their interface
//! in each host is the end, which spares them the hop into a container.

mod overlay;
mod quic;
mod switch;

use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::path::Path;

use weft_testbed::Lab;
use weft_testbed::lab::say;

use crate::args::Args;
use crate::contender::Contender;
use crate::out;
use crate::result::{QUINN, QUINN_PROTO, SLIRP, WIREGUARD};

/// One of them.
struct Peer {
    name: &'static str,
    /// Programs, and where they come from.
    needs: &'static [(&'static str, &'static str)],
    up: fn(&Lab) -> Contender,
}

const PEERS: [Peer; 5] = [
    Peer {
        name: "ovs",
        needs: &[
            ("ovs-vswitchd", "Debian package openvswitch-switch"),
            ("ovsdb-server", "Debian package openvswitch-switch"),
        ],
        up: switch::ovs,
    },
    Peer {
        name: "vde",
        needs: &[
            ("vde_switch", "Debian package vde2"),
            ("vde_plug2tap", "Debian package vde2"),
        ],
        up: switch::vde,
    },
    Peer {
        name: "tinc",
        needs: &[("tincd", "Debian package tinc")],
        up: overlay::tinc,
    },
    Peer {
        name: "n2n",
        needs: &[
            ("edge", "Debian package n2n"),
            ("supernode", "Debian package n2n"),
        ],
        up: overlay::n2n,
    },
    Peer {
        name: "vpncloud",
        needs: &[("vpncloud", "cargo install vpncloud")],
        up: overlay::vpncloud,
    },
];

/// Those that an encrypted network is compared with.
const ENCRYPTED: [Peer; 3] = [
    Peer {
        name: QUINN,
        needs: &[],
        up: quic::quinn,
    },
    Peer {
        name: QUINN_PROTO,
        needs: &[],
        up: quic::quinn_proto,
    },
    WIREGUARD_GO,
];

const WIREGUARD_GO: Peer = Peer {
    name: WIREGUARD,
    needs: &[
        ("wireguard-go", "Debian package wireguard-go"),
        ("wg", "Debian package wireguard-tools"),
    ],
    up: overlay::wireguard_go,
};

/// Those that lead out.
const OUT: [Peer; 2] = [
    Peer {
        name: SLIRP,
        needs: &[(SLIRP, "Debian package slirp4netns")],
        up: out::slirp4netns,
    },
    Peer {
        name: out::PASTA,
        needs: &[(out::PASTA, "Debian package passt")],
        up: out::pasta,
    },
];

/// Starts all that are installed and that these arguments ask for.
pub(crate) fn up(lab: &Lab, args: &Args) -> Vec<Contender> {
    let mut contenders = Vec::new();
    if args.peers {
        contenders.extend(start(&PEERS, lab));
    }
    if args.encrypted {
        contenders.extend(start(&ENCRYPTED, lab));
    } else if args.peers {
        contenders.extend(start(&[WIREGUARD_GO], lab));
    }
    contenders
}

/// Starts those that lead out, as far as they are installed.
pub(crate) fn up_out(lab: &Lab) -> Vec<Contender> {
    start(&OUT, lab)
}

fn start(peers: &[Peer], lab: &Lab) -> Vec<Contender> {
    let usual = panic::take_hook();
    // One that doesn't start is no bug of ours: a sentence will do.
    panic::set_hook(Box::new(|why| say(&why.to_string())));
    let contenders = peers.iter().filter_map(|peer| peer.start(lab)).collect();
    panic::set_hook(usual);
    contenders
}

/// Removes what they leave outside the lab.
pub(crate) fn clean_up() {
    overlay::remove_wireguard_sockets();
}

impl Peer {
    fn start(&self, lab: &Lab) -> Option<Contender> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let is_here = |program: &str| {
            std::env::split_paths(&path).any(|dir| Path::new(&dir).join(program).is_file())
        };
        if let Some((program, source)) = self.needs.iter().find(|(program, _)| !is_here(program)) {
            let name = self.name;
            say(&format!(
                "{name} is left out: there is no program {program} ({source})"
            ));
            return None;
        }
        // The lab's helpers end a test when something isn't as it should be. Here it ends this contender.
        let contender = catch_unwind(AssertUnwindSafe(|| {
            let contender = (self.up)(lab);
            let ways = [&contender.local, &contender.cross, &contender.out];
            for way in ways.into_iter().flatten() {
                contender.warm_up(way);
            }
            contender
        }));
        if contender.is_err() {
            say(&format!(
                "{} is left out: it does not work here, see above",
                self.name
            ));
        }
        contender.ok()
    }
}
