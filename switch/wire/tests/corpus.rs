//! Replays the committed fuzz corpus (testbed/fuzz/corpus) through the functions the fuzz targets run, so that what a
//! fuzzer found once is checked by every `cargo test`.

#[path = "../../../testbed/fuzz/replay.rs"]
mod replay;

use replay::replay;
use weft_wire::fuzz;

#[test]
fn the_corpus_of_frame_views_is_survived() {
    replay("frame_views", fuzz::frame_views);
}

#[test]
fn the_corpus_of_vnet_segment_is_survived() {
    replay("vnet_segment", fuzz::vnet_segment);
}

#[test]
fn the_corpus_of_coalesce_is_survived() {
    replay("coalesce", fuzz::coalesce);
}

#[test]
fn the_corpus_of_datagrams_is_survived() {
    replay("datagrams", fuzz::datagrams);
}

#[test]
fn the_corpus_of_vxlan_is_survived() {
    replay("vxlan", fuzz::vxlan);
}
