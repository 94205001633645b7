//! Routers in the local API: what the controller decides about them, and how they are shown.

use std::net::IpAddr;

use super::{Agent, ApiError};
use crate::api;
use crate::channel::{Request, RouterChange};
use crate::model::{ClusterMap, Router};

impl Agent {
    /// `weft router ls`.
    pub(super) fn routers(&self) -> Vec<api::RouterInfo> {
        let inner = self.inner();
        let routers = inner.map.routers.values();
        let mut rows: Vec<_> = routers
            .map(|router| router_view(&inner.map, &router.object))
            .collect();
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        rows
    }

    /// `weft router create`.
    pub(super) async fn router_create(&self, name: String) -> Result<api::RouterInfo, ApiError> {
        self.router_change(name, RouterChange::Create).await
    }

    /// `weft router rm`.
    pub(super) async fn router_rm(&self, name: String) -> Result<(), ApiError> {
        let change = RouterChange::Remove;
        let request = Request::ChangeRouter { name, change };
        self.ask(request).await.map(drop)
    }

    /// `weft router connect`, `disconnect` and the routes: gives the router as it is then.
    pub(super) async fn router_change(
        &self,
        name: String,
        change: RouterChange,
    ) -> Result<api::RouterInfo, ApiError> {
        let request = Request::ChangeRouter {
            name: name.clone(),
            change,
        };
        self.ask(request).await?;
        let inner = self.inner();
        let router = inner.map.router_named(&name).ok_or_else(|| {
            let message = format!("router {name} was removed again by somebody else");
            ApiError::conflict("gone", message)
        })?;
        Ok(router_view(&inner.map, router))
    }

    /// `weft router inspect`.
    pub(super) async fn router_inspect(&self, name: &str) -> Result<api::RouterDetail, ApiError> {
        if self.inner().map.router_named(name).is_none() {
            // It may have been made elsewhere a moment ago.
            let _ = self.catch_up().await;
        }
        let networks = {
            let inner = self.inner();
            let router = inner.map.router_named(name);
            router.map(|router| router.networks.iter().cloned().collect::<Vec<_>>())
        };
        let map = self.map_with(&networks.unwrap_or_default()).await?;
        let router = map.router_named(name).ok_or_else(|| {
            ApiError::not_found("unknown_router", format!("router {name:?} is not known"))
                .hint("see `weft router ls`, or make it with `weft router create`")
        })?;
        Ok(api::RouterDetail {
            router: router_view(&map, router),
            table: table(&map, router),
        })
    }
}

fn router_view(map: &ClusterMap, router: &Router) -> api::RouterInfo {
    let networks = map.networks_of(router);
    let mut networks: Vec<String> = networks.map(|network| network.name.clone()).collect();
    networks.sort();
    api::RouterInfo {
        name: router.name.clone(),
        id: router.id.to_string(),
        networks,
        routes: router.routes.clone(),
    }
}

/// What the gateways of its networks do, as [`super::plan`] has it.
fn table(map: &ClusterMap, router: &Router) -> Vec<api::RouterRoute> {
    let mut rows = Vec::new();
    for network in map.networks_of(router) {
        rows.extend(network.subnets.iter().map(|subnet| api::RouterRoute {
            prefix: subnet.cidr,
            kind: "connected".to_owned(),
            network: network.name.clone(),
            via: None,
            gateway: Some(subnet.gateway),
            reachable: None,
        }));
    }
    for route in &router.routes {
        let mut networks = map.networks_of(router);
        let Some(network) = networks.find(|network| network.subnet_of(route.via).is_some()) else {
            continue;
        };
        let has = |ip: IpAddr| {
            let mut endpoints = map.endpoints_of(&network.id);
            endpoints.any(|endpoint| endpoint.ips.contains(&ip))
        };
        rows.push(api::RouterRoute {
            prefix: route.prefix,
            kind: "static".to_owned(),
            network: network.name.clone(),
            via: Some(route.via),
            gateway: None,
            reachable: Some(has(route.via)),
        });
    }
    rows.sort_by_key(|row| row.prefix);
    rows
}
