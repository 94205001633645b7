//! Frames to the way out, from any container, and the errors that are said about them.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| weft_control::fuzz::egress_packet(data));
