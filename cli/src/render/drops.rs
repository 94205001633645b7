//! Reasons of drops as a table.

use weft_control::api::Drops;

use super::table::Table;
use super::units;

/// One row per reason and place.
pub(crate) fn table(drops: &[Drops]) -> String {
    let headings = ["REASON", ">COUNT", "AT", "NAME", "NETWORK", "CAUSE"];
    let mut table = Table::new(&headings);
    for drop in drops {
        table.row([
            drop.reason.clone(),
            units::count(drop.count),
            drop.kind.clone(),
            drop.name.clone(),
            drop.network.clone().unwrap_or_default(),
            drop.cause.clone(),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_how_often_where_and_why() {
        let drop = Drops {
            reason: "no_route".to_owned(),
            count: 12,
            kind: "port".to_owned(),
            name: "web".to_owned(),
            network: Some("blue".to_owned()),
            cause: "Connect the networks to one router.".to_owned(),
        };
        let text = table(&[drop]);
        let row = text.lines().nth(1).unwrap();
        let cells: Vec<&str> = row.split("   ").map(str::trim).collect();
        let wanted = [
            "no_route",
            "12",
            "port",
            "web",
            "blue",
            "Connect the networks to one router.",
        ];
        let cells: Vec<&str> = cells.into_iter().filter(|cell| !cell.is_empty()).collect();
        assert_eq!(cells, wanted);
    }
}
