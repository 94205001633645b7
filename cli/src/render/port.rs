//! Ports of this host as a table, and one that was just made.

use std::time::Duration;

use weft_control::api::{Impairment, Port, PortLine, RateLimit, Stopping};

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
        "LINE",
        "PUBLISHED",
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
            port.line.as_ref().map(line_cell).unwrap_or_default(),
            units::list(&port.published),
        ]);
    }
    table.to_string()
}

/// What a port's line does, each way, and what it did.
fn line_cell(line: &PortLine) -> String {
    let ways = [
        ("to", line.limits.to_port, line.impairments.to_port),
        ("from", line.limits.from_port, line.impairments.from_port),
    ];
    let [to, from] = ways.map(|(_, limit, impairment)| way_words(limit, impairment));
    let mut words = if to == from {
        vec![to]
    } else {
        let both = ways.iter().zip([to, from]);
        both.filter(|(_, words)| !words.is_empty())
            .map(|((way, ..), words)| format!("{way}: {words}"))
            .collect()
    };
    let counts = [
        ("lost", line.to_port.lost + line.from_port.lost),
        ("limited", line.to_port.limited + line.from_port.limited),
        ("not taken", line.not_taken),
        ("refused", line.refused),
    ];
    let counts = counts.into_iter().filter(|(_, count)| *count > 0);
    words.extend(counts.map(|(what, count)| format!("{} {what}", units::count(count))));
    words.join(", ")
}

fn way_words(limit: Option<RateLimit>, impairment: Impairment) -> String {
    let mut words = Vec::new();
    if let Some(limit) = limit {
        words.push(units::rate(limit.bits_per_sec));
    }
    let time = |micros| humantime::format_duration(Duration::from_micros(micros)).to_string();
    if impairment.delay_us > 0 {
        words.push(time(impairment.delay_us));
    }
    if impairment.jitter_us > 0 {
        words.push(format!("±{}", time(impairment.jitter_us)));
    }
    let parts = [
        ("loss", impairment.loss),
        ("duplicate", impairment.duplicate),
        ("reorder", impairment.reorder),
    ];
    let parts = parts.into_iter().filter(|(_, part)| *part > 0.0);
    words.extend(parts.map(|(what, part)| format!("{what} {}%", part * 100.0)));
    words.join(" ")
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
