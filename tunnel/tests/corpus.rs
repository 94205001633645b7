//! Replays the committed fuzz corpus (testbed/fuzz/corpus) through the function the fuzz target runs.

#[path = "../../testbed/fuzz/replay.rs"]
mod replay;

use replay::replay;

#[test]
fn the_corpus_of_esp_is_survived() {
    replay("esp", weft_tunnel::fuzz::esp);
}
