//! Routers and their routes as tables.

use weft_control::api::{RouterInfo, RouterRoute};

use super::table::Table;
use super::units;

/// One row per router.
pub(crate) fn table(routers: &[RouterInfo]) -> String {
    let mut table = Table::new(&["NAME", "NETWORKS", ">ROUTES"]);
    for router in routers {
        table.row([
            router.name.clone(),
            units::list(&router.networks),
            router.routes.len().to_string(),
        ]);
    }
    table.to_string()
}

/// One row per route.
pub(crate) fn routes(routes: &[RouterRoute]) -> String {
    let mut table = Table::new(&["PREFIX", "KIND", "NETWORK", "VIA", "NOTES"]);
    for route in routes {
        let via = route.via.or(route.gateway);
        let via = via.map_or_else(|| "-".to_owned(), |via| via.to_string());
        let notes = match route.reachable {
            Some(false) => "no endpoint has the next hop's address",
            Some(true) | None => "-",
        };
        table.row([
            route.prefix.to_string(),
            route.kind.clone(),
            route.network.clone(),
            via,
            notes.to_owned(),
        ]);
    }
    table.to_string()
}
