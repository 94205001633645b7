//! The way out of a network, and the way in: packets of containers end here and go on by sockets of the host, and
//! clients of published ports come in by listening sockets. No address is translated in a kernel, nothing is in
//! netfilter, and no privilege is needed but for raw sockets (ping).
//!
//! A packet that a container sends to its gateway, and that nothing of weft's own has an answer to, comes out of the
//! network's inside port ([`engine`]). It is parsed once ([`packet`]) and asked whether it may leave ([`policy`],
//! [`refusal`]). A TCP segment meets its [`tcp`] connection in the [`relay`]; the bytes go on by a connected socket, and
//! what that says comes back as superframes. A UDP datagram goes by a connected socket of its flow ([`datagrams`]), an echo
//! request by a raw socket ([`echo`]). Frames for containers are made in [`answer`].
//!
//! Nothing here waits, and everything is bounded: flows, per container and in all; memory; dials under way; errors sent.
//! What is refused is answered where that helps, and always counted (shown by `weft egress`).

mod answer;
mod datagrams;
mod dial;
mod echo;
mod engine;
mod errors;
pub(crate) mod fuzz;
mod inside;
mod packet;
mod policy;
mod proxy;
mod publish;
mod pool;
mod reassembly;
mod refusal;
mod relay;
mod shared;
mod tcp;
mod timers;
mod token;

pub(crate) use engine::Engine;
pub(crate) use inside::{Counters, NetworkSpec};
pub use proxy::ProxyProtocol;
pub(crate) use publish::{Listening, listen};
pub(crate) use refusal::cause_of;
