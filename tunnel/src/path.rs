//! The layers a frame crosses. Before the first frame, [`bind`] makes the sockets. Out: [`encap`] cuts a frame into
//! frames of the wire and puts the VXLAN header before each, [`udp`] asks whether the peer may have it, [`train`] chooses the
//! socket and hands all to the kernel.
//! In: [`udp`] takes a batch of datagrams and knows their sender, [`encap`] finds network and inner frame. [`prober`] measures
//! how long datagrams may be. `sys` is
//! where the system calls are.

mod bind;
mod encap;
mod udp;
mod train;
mod prober;
mod sys;

pub use bind::{TunnelError, VxlanConfig, VxlanTunnel};
pub use udp::{SendError, VxlanWorker};
