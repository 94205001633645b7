//! Frames to a gateway, from any container, in the switch: ARP, neighbor discovery, echo, what is to be routed, and what
//! its sender is told.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| weft_switch::fuzz::gateway(data));
