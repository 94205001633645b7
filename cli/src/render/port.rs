//! Ports of this host as a table, and one that was just made.

use weft_control::api::{Port, Stopping};

use super::table::Table;
use super::{line, lines, units};

/// One row per port; RX is what the container sent.
pub(crate) fn table(ports: &[Port]) -> String {
    let headings = [
        "NAME",
        "NETWORK",
        "STATE",
        "NETNS",
        "INTERFACE",
        "MAC",
        "ADDRESSES",
        ">MTU",
        "KIND",
        ">RX",
        ">TX",
        "DROPS",
    ];
    let mut table = Table::new(&headings);
    for port in ports {
        table.row([
            port.name.clone(),
            port.network.clone(),
            port.state.clone(),
            port.netns.clone(),
            port.ifname.clone(),
            port.mac.to_string(),
            units::list(&port.addresses),
            port.mtu.to_string(),
            port.kind.clone(),
            units::traffic(port.traffic.rx_frames, port.traffic.rx_bytes),
            units::traffic(port.traffic.tx_frames, port.traffic.tx_bytes),
            units::drops(&port.traffic.drops),
        ]);
    }
    table.to_string()
}

/// What became of the ports of an agent that stopped.
pub(crate) fn stopped(told: &Stopping) -> String {
    match told.left {
        0 => lines(&told.removed),
        left => line(format_args!(
            "{left} {} for the next start of the agent",
            if left == 1 {
                "port stays"
            } else {
                "ports stay"
            }
        )),
    }
}

/// What a person wants to know of a new port: its name, interface and addresses.
pub(crate) fn connected(port: &Port) -> String {
    let addresses = port
        .addresses
        .iter()
        .map(|address| format!(" {address}"))
        .collect::<String>();
    line(format_args!("{} {}{addresses}", port.name, port.ifname))
}
