//! Uplinks of this host as a table.

use weft_control::api::Uplink;

use super::table::Table;
use super::units;

/// One row per uplink; RX is what came in by it.
pub(crate) fn table(uplinks: &[Uplink]) -> String {
    let mut table = Table::new(&["NETWORK", "LINK", "STATE", ">RX", ">TX", "DROPS"]);
    for uplink in uplinks {
        let traffic = &uplink.traffic;
        table.row([
            uplink.network.clone(),
            uplink.dev.clone(),
            uplink.state.clone(),
            units::traffic(traffic.rx_frames, traffic.rx_bytes),
            units::traffic(traffic.tx_frames, traffic.tx_bytes),
            units::drops(&traffic.drops),
        ]);
    }
    table.to_string()
}
