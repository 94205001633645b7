//! Replays the committed fuzz corpus (testbed/fuzz/corpus) through the function the fuzz target runs, so that what a
//! fuzzer found once is checked by every `cargo test`.

#[path = "../../testbed/fuzz/replay.rs"]
mod replay;

use replay::replay;
use weft_switch::fuzz;

#[test]
fn the_corpus_of_gateway_is_survived() {
    replay("gateway", fuzz::gateway);
}

/// Every input cut anywhere, and with every byte changed.
#[test]
fn what_is_near_the_corpus_of_gateway_is_survived() {
    replay("gateway", |whole| {
        (0..whole.len()).for_each(|len| fuzz::gateway(&whole[..len]));
        for at in 0..whole.len().min(128) {
            let mut changed = whole.to_vec();
            changed[at] ^= 0x41;
            fuzz::gateway(&changed);
        }
    });
}
