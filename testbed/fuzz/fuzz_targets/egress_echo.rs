//! What anybody outside answers to a ping.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| weft_control::fuzz::egress_echo(data));
