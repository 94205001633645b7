//! Tunnel peers as a table, and what came from nobody we know.

use weft_control::api::Peers;

use super::table::Table;
use super::units;

/// One row per peer, then what strangers sent, if they did.
pub(crate) fn table(peers: &Peers) -> String {
    let headings = [
        "NAME",
        "KIND",
        "ADDRESS",
        "TRANSPORT",
        ">MTU",
        "NETWORKS",
        ">RX",
        ">TX",
        "DROPS",
    ];
    let mut table = Table::new(&headings);
    for peer in &peers.peers {
        table.row([
            peer.name.clone(),
            peer.kind.clone(),
            peer.address.to_string(),
            peer.transport.to_string(),
            peer.mtu.to_string(),
            units::list(&peer.networks),
            units::traffic(peer.traffic.rx_frames, peer.traffic.rx_bytes),
            units::traffic(peer.traffic.tx_frames, peer.traffic.tx_bytes),
            units::drops(&peer.traffic.drops),
        ]);
    }
    let mut text = table.to_string();
    let strangers = &peers.strangers;
    if strangers.drops.values().any(|count| *count > 0) {
        let last = strangers
            .last
            .map(|last| format!(" (last from {last})"))
            .unwrap_or_default();
        let drops = units::drops(&strangers.drops);
        text.push_str(&format!("\nfrom no known peer: {drops}{last}\n"));
    }
    text
}
