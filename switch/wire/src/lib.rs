//! The shared vocabulary of weft: identifiers, views of headers, checksums, and the arithmetic of cutting a superframe
//! into frames. Everything here is pure: no IO, no clock, no allocation on a frame's way, no `unsafe` but one call in
//! `checksum/sys.rs`.
//!
//! A frame meets these modules in this order. It is read from a TAP with ten bytes before it ([`vnet`]), which say what
//! its sender left undone; checked against the frame, they become its [`Offload`], and both travel together as a
//! [`FrameRef`]. The switch looks at it through views: [`ethernet`], then [`arp`], [`ipv4`], [`ipv6`], [`icmp`],
//! [`tcp`] or [`udp`]. A view borrows the bytes, checks in its constructor all that its accessors rely on, and is
//! total: there are no bytes that make it panic. On its way out the frame's [`flow`] chooses where it goes,
//! [`segment`] makes it what a wire takes (with [`checksum`] doing the costly part), and [`vxlan`] names its network to
//! the other host, where [`coalesce`] undoes the cutting; [`cfm`] is what
//! tunnels measure paths with, `route` makes it another network's, and `icmp_error` tells senders what goes no further. To another offloading TAP it goes as it came, [`vnet`] header first.

#![deny(unsafe_code)]
#![deny(clippy::disallowed_methods)]

mod ids;
mod mac;
mod frame;
mod error;
pub mod vnet;
pub mod ethernet;
pub mod arp;
pub mod ipv4;
pub mod ipv6;
pub mod icmp;
pub mod tcp;
pub mod udp;
mod layout;
pub mod flow;
pub mod checksum;
pub mod segment;
pub mod coalesce;
pub mod vxlan;
pub mod cfm;
mod route;
mod fragment;
mod icmp_error;
mod too_big;
mod echo;
mod datagrams;
#[doc(hidden)]
pub mod fuzz;

pub use arp::{Arp, ArpMessage, ArpOperation};
pub use cfm::{LOOPBACK_MIN_LEN, Loopback};
pub use coalesce::{Coalescer, MAX_COALESCED};
pub use datagrams::DatagramRun;
pub use echo::echo_reply;
pub use error::{Layer, WireError};
pub use ethernet::{EtherType, EthernetFrame, Tci};
pub use flow::flow_hash;
pub use fragment::{fragment, may_fragment};
pub use frame::{FrameRef, Gso, GsoKind, Offload, PartialChecksum, Tail};
pub use icmp::{AdvertisementFlags, Icmp4, Icmp6, NeighborEnds, NeighborKind, NeighborMessage};
pub use icmp_error::{IcmpError, icmp_error};
pub use ids::{InvalidMtu, InvalidVni, Mtu, PeerId, PortId, VlanId, Vni};
pub use ipv4::{IpProtocol, Ipv4};
pub use ipv6::Ipv6;
pub use mac::{InvalidMac, MacAddr};
pub use route::Rewrite;
pub use segment::{MAX_HEADER_LEN, SegmentError, SegmentPlan};
pub use tcp::{Tcp, TcpFlags};
pub use too_big::{clamp_mss, too_big};
pub use udp::Udp;
pub use vnet::{VNET_HDR_LEN, VnetError, VnetHdr};
pub use vxlan::{VXLAN_HEADER_LEN, VXLAN_PORT, VxlanError, VxlanHeader};
