//! What gateways route by: tables as the plan has them, and whose MAC each address has.

use std::sync::Arc;

use weft_switch::{Route, RouteSpec, Routes};
use weft_wire::Vni;

use super::Fabric;
use crate::agent::plan::{Wanted, WantedRoute};

/// The tables made in one go: networks of one router share theirs.
#[derive(Debug, Default)]
pub(super) struct RouteTables(Vec<(Arc<Vec<WantedRoute>>, Arc<Routes>)>);

impl RouteTables {
    pub(super) fn get(&mut self, wanted: &Arc<Vec<WantedRoute>>) -> Arc<Routes> {
        let same = |made: &&(Arc<Vec<WantedRoute>>, _)| Arc::ptr_eq(&made.0, wanted);
        if let Some((_, table)) = self.0.iter().find(same) {
            return Arc::clone(table);
        }
        let table = Arc::new(Routes::new(wanted.iter().map(route_spec)));
        self.0.push((Arc::clone(wanted), Arc::clone(&table)));
        table
    }
}

fn route_spec(route: &WantedRoute) -> RouteSpec {
    RouteSpec {
        address: route.prefix.addr(),
        len: route.prefix.prefix_len(),
        route: match (route.network, route.via) {
            (Some(vni), Some(via)) => Route::Via(vni, via),
            (Some(vni), None) => Route::Connected(vni),
            (None, _) => Route::Local,
        },
    }
}

impl Fabric {
    /// Tells the switch which subnets are the cluster's.
    pub(super) fn apply_subnets(&self, wanted: &Wanted) {
        if wanted.subnets == self.applied.subnets {
            return;
        }
        let inside = wanted.subnets.iter().map(|subnet| RouteSpec {
            address: subnet.addr(),
            len: subnet.prefix_len(),
            route: Route::Local,
        });
        self.switch.set_subnets(Arc::new(Routes::new(inside)));
    }

    /// Tells the switch whose MAC each address has.
    pub(super) fn apply_neighbors(&self, wanted: &Wanted) {
        for key @ (vni, ip) in self.applied.neighbors.keys() {
            if !wanted.neighbors.contains_key(key) {
                self.switch.forget_neighbor(*vni, *ip);
            }
        }
        for (key @ (vni, ip), mac) in &wanted.neighbors {
            if self.applied.neighbors.get(key) != Some(mac) {
                self.switch.know_neighbor(*vni, *ip, *mac);
            }
        }
    }

    /// Forgets the addresses of a network whose VNI another one has now.
    pub(super) fn forget_neighbors(&mut self, vni: Vni) {
        self.applied.neighbors.retain(|(of, ip), _| {
            if *of == vni {
                self.switch.forget_neighbor(*of, *ip);
            }
            *of != vni
        });
    }
}
