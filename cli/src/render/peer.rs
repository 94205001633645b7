//! Tunnel peers as a table, and what came from nobody we know.

use weft_control::api::Peers;

use super::table::Table;
use super::units;

/// One row per peer, then one per encrypted tunnel, then what strangers sent, if they did.
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
    text.push_str(&encrypted(peers));
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

/// One row per encrypted tunnel; nothing where there is none.
fn encrypted(peers: &Peers) -> String {
    let headings = [
        "ENCRYPTED",
        "STATE",
        "CIPHER",
        "REMOTE",
        ">MTU",
        ">KEY AGE",
        ">HANDSHAKE",
        ">RTT",
        ">LOST",
        "WHY",
    ];
    let mut table = Table::new(&headings);
    let mut any = false;
    let dash = || "-".to_owned();
    let age = |secs: Option<u64>| secs.map_or_else(dash, units::seconds);
    for peer in &peers.peers {
        let Some(tunnel) = &peer.encrypted else {
            continue;
        };
        any = true;
        let rtt = tunnel.rtt_us.map(|micros| {
            let (whole, tenths) = (micros / 1000, micros % 1000 / 100);
            format!("{whole}.{tenths} ms")
        });
        table.row([
            peer.name.clone(),
            tunnel.state.clone(),
            tunnel.cipher.clone().unwrap_or_else(dash),
            tunnel.remote.map_or_else(dash, |remote| remote.to_string()),
            tunnel.mtu.to_string(),
            age(tunnel.key_age_secs),
            age(tunnel.handshake_age_secs),
            rtt.unwrap_or_else(dash),
            format!("{}/{}", tunnel.lost_packets, tunnel.sent_packets),
            tunnel.why.clone().unwrap_or_else(dash),
        ]);
    }
    if any {
        format!("\n{table}")
    } else {
        String::new()
    }
}
