//! Fragments of a container for the outside: put together as they were, or not at all.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| weft_control::fuzz::egress_fragments(data));
