//! The forwarding database as a table.

use weft_control::api::FdbEntry;

use super::table::Table;
use super::units;

/// One row per address.
pub(crate) fn table(entries: &[FdbEntry]) -> String {
    let headings = [
        "NETWORK", ">VNI", ">VLAN", "MAC", "VIA", "NAME", "ADDRESS", "KIND", "AGE", ">EPOCH",
    ];
    let mut table = Table::new(&headings);
    for entry in entries {
        table.row([
            entry.network.clone(),
            entry.vni.to_string(),
            if entry.vlan == 0 {
                String::new()
            } else {
                entry.vlan.to_string()
            },
            entry.mac.to_string(),
            entry.via.clone(),
            entry.name.clone(),
            entry
                .address
                .map(|address| address.to_string())
                .unwrap_or_default(),
            entry.kind.clone(),
            entry.age_secs.map(units::seconds).unwrap_or_default(),
            entry
                .epoch
                .map(|epoch| epoch.to_string())
                .unwrap_or_default(),
        ]);
    }
    table.to_string()
}
