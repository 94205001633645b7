//! The layers a frame crosses. Before the first frame, [`bind`] makes the sockets. Out: [`encap`] cuts a frame into
//! frames of the wire and puts the VXLAN header before each, [`udp`] asks whether the peer may have it, [`train`] chooses the
//! socket and hands all to the kernel.
//! In: [`udp`] takes a batch of datagrams and knows their sender, [`encap`] finds network and inner frame. [`prober`] measures
//! how long datagrams may be. Encrypted networks pass [`esp`] and [`sealed`] instead of `udp` and `train`, on sockets of
//! [`esp_bind`]. `sys` is where the system calls are.

mod bind;
mod encap;
mod udp;
mod train;
mod prober;
mod esp;
mod esp_bind;
mod sealed;
mod sys;

pub use bind::{TunnelError, VxlanConfig, VxlanTunnel};
pub use esp::EspWorker;
pub use esp_bind::{EspConfig, EspEnd, EspTunnel};
pub(crate) use sealed::SealedTrains;
pub use udp::{SendError, VxlanWorker};
