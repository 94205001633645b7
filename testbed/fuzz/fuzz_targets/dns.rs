//! Messages to the name server, from any container: an answer that its asker takes, or none.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| weft_control::fuzz::dns(data));
