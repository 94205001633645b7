//! Datagrams of a superframe, some changed, joined and cut again. The body lives in weft-wire, where `cargo test` replays
//! the corpus through it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| weft_wire::fuzz::datagrams(data));
