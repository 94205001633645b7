//! A container's segments, and what else happens to its connection to the outside.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| weft_control::fuzz::egress_tcp(data));
