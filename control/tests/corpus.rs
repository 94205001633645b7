//! Replays the committed fuzz corpus (testbed/fuzz/corpus) through the functions the fuzz targets run, so that what a
//! fuzzer found once is checked by every `cargo test`.

#[path = "../../testbed/fuzz/replay.rs"]
mod replay;

use replay::replay;
use weft_control::fuzz;

#[test]
fn the_corpus_of_dns_is_survived() {
    replay("dns", fuzz::dns);
}

#[test]
fn the_corpus_of_demux_is_survived() {
    replay("demux", fuzz::demux);
}

#[test]
fn the_corpus_of_dhcp4_is_survived() {
    replay("dhcp4", fuzz::dhcp4);
}

#[test]
fn the_corpus_of_dhcp6_is_survived() {
    replay("dhcp6", fuzz::dhcp6);
}

#[test]
fn the_corpus_of_egress_packet_is_survived() {
    replay("egress_packet", fuzz::egress_packet);
}

#[test]
fn the_corpus_of_egress_fragments_is_survived() {
    replay("egress_fragments", fuzz::egress_fragments);
}

#[test]
fn the_corpus_of_egress_tcp_is_survived() {
    replay("egress_tcp", fuzz::egress_tcp);
}

#[test]
fn the_corpus_of_egress_echo_is_survived() {
    replay("egress_echo", fuzz::egress_echo);
}

#[test]
fn the_corpus_of_publish_is_survived() {
    replay("publish", fuzz::publish);
}
