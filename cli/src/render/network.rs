//! Networks as a table.

use weft_control::api::NetworkInfo;
use weft_control::model::Egress;

use super::table::Table;
use super::units;

/// One row per network.
pub(crate) fn table(networks: &[NetworkInfo]) -> String {
    let headings = [
        "NAME",
        ">VNI",
        "SUBNETS",
        "GATEWAYS",
        "TRANSPORT",
        ">MTU",
        ">ENDPOINTS",
        "VTEPS",
        "NOTES",
    ];
    let mut table = Table::new(&headings);
    for network in networks {
        let subnets: Vec<_> = network.subnets.iter().map(|subnet| subnet.cidr).collect();
        let gateways: Vec<_> = network
            .subnets
            .iter()
            .map(|subnet| subnet.gateway)
            .collect();
        table.row([
            network.name.clone(),
            network.vni.to_string(),
            units::list(&subnets),
            units::list(&gateways),
            network.transport.to_string(),
            network.mtu.to_string(),
            (network.endpoints).map_or_else(|| "?".to_owned(), |count| count.to_string()),
            units::list(&network.vteps),
            notes(network),
        ]);
    }
    table.to_string()
}

fn notes(network: &NetworkInfo) -> String {
    let notes = [
        (network.subnets.is_empty(), "plain-l2"),
        (network.encrypted, "encrypted"),
        (network.internal, "internal"),
        (network.isolate, "isolated"),
        (
            network.egress == Egress::Off && !network.internal,
            "no-egress",
        ),
        (
            network.egress == Egress::Kernel && !network.internal,
            "kernel-egress",
        ),
        (network.mtu_set, "mtu-set"),
    ];
    let router = network.router.iter();
    let router = router.map(|router| format!("router:{router}"));
    let notes = notes.iter().filter(|(holds, _)| *holds);
    let notes: Vec<String> = notes
        .map(|(_, note)| (*note).to_owned())
        .chain(router)
        .collect();
    units::list(&notes)
}
