//! The first packets of an encrypted tunnel: what a datagram is, what an opened one holds, and the two messages of a
//! session.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| weft_tunnel::fuzz::esp(bytes));
