//! Nodes as a table.

use weft_control::api::NodeInfo;

use super::table::Table;
use super::units;

/// One row per node; `*` marks the one that answers.
pub(crate) fn table(nodes: &[NodeInfo]) -> String {
    let headings = [
        "NAME",
        "STATE",
        "UNDERLAY",
        ">MTU",
        "TRANSPORTS",
        ">ENDPOINTS",
        "VERSION",
        "ID",
    ];
    let mut table = Table::new(&headings);
    for node in nodes {
        table.row([
            if node.this {
                format!("{} *", node.name)
            } else {
                node.name.clone()
            },
            node.state.clone(),
            node.underlay.to_string(),
            node.underlay_mtu.to_string(),
            units::list(&node.transports),
            node.endpoints.to_string(),
            node.version.clone(),
            node.id.chars().take(12).collect(),
        ]);
    }
    table.to_string()
}
