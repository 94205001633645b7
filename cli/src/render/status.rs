//! How an agent is, for people.

use weft_control::api::{ControllerStatus, Heard, Status};

use super::units;

/// One fact per line, then the warnings.
pub(crate) fn text(status: &Status) -> String {
    let sync = match (&status.not_in_sync, status.in_sync) {
        (_, true) => "yes".to_owned(),
        (Some(reason), false) => format!("no: {reason}"),
        (None, false) => "no".to_owned(),
    };
    let underlay = if status.standalone {
        "none (standalone: no tunnel leaves this host)".to_owned()
    } else {
        let encrypted = match status.encrypted_port {
            Some(port) => format!(", encrypted networks on {port}"),
            None => ", no encrypted networks".to_owned(),
        };
        format!(
            "{} on {} (MTU {}), VXLAN on UDP port {}{encrypted}",
            status.underlay, status.underlay_ifname, status.underlay_mtu, status.vxlan_port
        )
    };
    let survive = if status.ports_survive {
        "yes"
    } else {
        "no: the fd holder does not answer"
    };
    let mut facts = vec![
        ("node", format!("{} ({})", status.node, status.node_id)),
        ("cluster", status.cluster.clone()),
        ("version", status.version.clone()),
        ("up", units::seconds(status.uptime_secs)),
        ("underlay", underlay),
        ("controller", controller(&status.controller)),
        ("in sync", sync),
        ("revision", status.revision.to_string()),
        ("networks", status.networks.to_string()),
        ("peers", status.peers.to_string()),
        ("ports", status.ports.to_string()),
        ("workers", status.workers.to_string()),
        ("survive restarts", survive.to_owned()),
    ];
    if let Some(heard) = &status.heard {
        facts.push(("told of", told_of(heard)));
    }
    if let Some(certificate) = &status.certificate {
        let left = match certificate.expires_in_secs {
            0 => "has ended".to_owned(),
            left => format!("good for {}", units::seconds(left)),
        };
        facts.push(("certificate", left));
    }
    let mut text = String::new();
    for (name, value) in facts {
        text.push_str(&format!("{:<18}{value}\n", format!("{name}:")));
    }
    for warning in &status.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    text
}

fn told_of(heard: &Heard) -> String {
    let networks = match &heard.networks {
        None => "all networks".to_owned(),
        Some(names) if names.is_empty() => "no network".to_owned(),
        Some(names) => units::list(names),
    };
    let Heard {
        nodes, endpoints, ..
    } = heard;
    format!("{networks} ({nodes} nodes, {endpoints} endpoints)")
}

fn controller(controller: &ControllerStatus) -> String {
    let since = units::seconds(controller.since_secs);
    let known = units::list(&controller.addresses);
    match (&controller.connected, &controller.error) {
        (Some(address), _) => format!("connected to {address} for {since}"),
        (None, Some(error)) => format!("not connected for {since}: {error} (known: {known})"),
        (None, None) if controller.addresses.is_empty() => "inside this agent".to_owned(),
        (None, None) => format!("not connected for {since} (known: {known})"),
    }
}
