//! The ways out of networks as a table.

use weft_control::api::NetworkEgress;

use super::table::Table;
use super::units;

/// One row per network.
pub(crate) fn table(ways: &[NetworkEgress]) -> String {
    let headings = [
        "NETWORK", "EGRESS", ">TCP", ">UDP", ">PING", ">OPENED", ">OUT", ">IN", "REFUSED",
    ];
    let mut table = Table::new(&headings);
    for way in ways {
        table.row([
            way.network.clone(),
            way.egress.to_string(),
            way.tcp_flows.to_string(),
            way.udp_flows.to_string(),
            way.echo_flows.to_string(),
            units::count(way.opened),
            units::bytes(way.out_bytes),
            units::bytes(way.in_bytes),
            units::drops(&way.refused),
        ]);
    }
    table.to_string()
}
