//! Scenarios of the datapath: frames in, actions and counters out, without root, clock or socket. Every frame sent in
//! [`world`] asserts the whole difference of all counters, so no test needs to.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests: a failure here is a failed test"
)]

mod drops;
mod exit;
mod flooding;
mod gateway;
mod learning;
mod isolation;
mod mtu;
mod routing;
mod services;
mod spoofing;
mod suppression;
mod uplink;
mod vlan;
mod world;
