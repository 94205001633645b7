//! weft's test bed: hosts and containers as network namespaces on one machine, driven as a user drives them, through
//! the `weft` binary.
//!
//! [`layout`] has the topologies, drawn; [`lab`] has what they're made of. The end-to-end tests are in `tests/`, the
//! demo for people in `demo`. Nothing here knows how weft works inside: it sees commands, their output, and frames.
//!
//! A lab's helpers panic with a sentence when the world isn't as the test needs it: they're the test's assertions.

pub mod layout;
pub mod lab;

pub use lab::{Container, Controller, Host, Lab, Namespace};
pub use layout::{Hosts, KernelPair, KernelPeer, Outside, Pair, QuicPair, Redundant, Wire};
