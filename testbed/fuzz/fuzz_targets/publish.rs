//! Ports to be published, as they are written.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| weft_control::fuzz::publish(data));
