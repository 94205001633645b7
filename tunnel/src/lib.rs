//! The tunnels of weft: VXLAN over UDP (RFC 7348) between this host's switch and other tunnel ends, which are weft
//! agents or static VTEPs (a kernel VXLAN device, a hardware switch); and for encrypted networks ESP in UDP (RFC 4303,
//! RFC 3948) between agents, keyed by QUIC sessions ([`session`]). Which network travels how is said by [`Peers::carry`].
//!
//! # A frame to another host and back
//!
//! The switch has decided that a frame goes to a peer and hands it, whole, to the [`VxlanWorker`] of its thread. There
//! the peer's address is looked up in the table that the control plane published ([`Peers`]). The frame is cut into
//! what a wire takes and its checksums are finished, each piece gets a VXLAN header with the network's number, and a
//! socket chosen by the frame's flow sends the pieces to the peer: the source port tells routers and receivers which
//! flow they are of. The outer packets carry DF; what doesn't fit the path to the peer, which is measured all the time
//! ([`VxlanTunnel::bind_measuring`]), is cut smaller if it is TCP, else dropped and counted, never fragmented.
//!
//! Coming back, a worker takes datagrams in batches from its socket of the group that listens. The outer source
//! address says who sent it; whoever is no peer ends there. Then come the header, the network (a static VTEP speaks for
//! the networks it was added to), and the inner frame, which the switch is given with peer and network. Whether the
//! network exists here and whether that peer may have that source MAC are the switch's questions.
//!
//! Every frame that goes no further has a [`TunnelDrop`], counted at its peer or with the strangers.
//!
//! # Encrypted networks
//!
//! Their frames go to the [`EspWorker`] of the thread. It seals each segment under the key of the session with the peer;
//! without a session the frame waits, a few of them and not for long. Coming back, a datagram's SPI names the key, the key
//! opens it or not, and only then anything of it is looked at. The other worker refuses these networks both ways.
//!
//! What it withstands: whoever reads, changes, repeats, holds back or forges datagrams learns their lengths and times and
//! can make them not arrive, no more. A session wants a certificate of the cluster for the very node that the peer map has
//! at that place; a node that leaves the map loses its sessions at once and its keys open nothing from then on. A datagram
//! with a stranger's key costs a lookup, a forged one of a known key one look at the replay window and one decryption; no
//! state is kept for a caller before its certificate is checked but QUIC's, which is bounded.
//!
//! # Threat model of VXLAN
//!
//! VXLAN has neither secrecy nor authentication; it is for underlays that are trusted not to forge source addresses
//! (networks that aren't so trusted are made `--encrypted`, which this transport never carries). What it withstands:
//! - **Anybody who can send to our port, from addresses of their own:** costs a lookup and two counters, nothing is
//!   logged, allocated or remembered but the last address. Bytes that are no VXLAN frame can't make it panic.
//! - **Anybody who can send to our source ports:** dropped by the kernel before they are queued.
//! - **A static VTEP that goes beyond its networks:** dropped and counted at that peer, both ways.
//! - **ICMP forgeries:** sockets take no path MTU from ICMP, and an error they report costs at most one repeated send,
//!   or a few probes of a path.
//! - **Forged answers to probes:** must have the number of a probe that is on its way, 32 random bits.
//! - **A second agent on this address and port:** refused when it starts, see [`TunnelError::PortTaken`].
//!
//! What it doesn't: an attacker on the underlay's path who forges a peer's address can put frames into that peer's
//! networks, subject to the switch's checks; who only listens reads everything; who floods fills the link.
//!
//! # Limits
//!
//! Every inner checksum is taken to be finished, as on a real wire. A kernel VXLAN device that sends through a veth
//! leaves inner checksums undone, because veth claims to finish them: nothing in such a datagram tells, and containers
//! drop the segments. On the kernel's side `ethtool -K vx0 tx off` cures it. VXLAN carries no outer ECN and DSCP yet, ESP no DSCP.

pub mod esp;
mod carriage;
mod ecn;
mod peer;
mod secure;
mod path;
pub mod session;
mod mtu;
mod pmtu;
mod drop;
mod places;
#[doc(hidden)]
pub mod fuzz;

pub use carriage::Carriage;
pub use drop::TunnelDrop;
pub use mtu::{inner_mtu, overhead, superframe_max};
pub use path::{
    EspConfig, EspEnd, EspTunnel, EspWorker, SendError, TunnelError, VxlanConfig, VxlanTunnel,
    VxlanWorker,
};
pub use peer::{DropCounts, PeerNetworks, PeerSpec, PeerStats, PeerTable, Peers, StrangerStats};
pub use places::{Place, Places};
pub use secure::SecureSpec;
