//! Frames to a gateway, from any container: whose they are, and the TCP stack that hears port 53.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| weft_control::fuzz::demux(data));
