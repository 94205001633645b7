//! What the API shows of networks and nodes that this host has nothing to do with: asked of the controller when somebody
//! looks, and not kept. While no controller answers, what is known here is shown.

use std::collections::BTreeMap;

use super::views::{node_name, node_view};
use super::{Agent, ApiError};
use crate::api;
use crate::channel::{Reply, Request, RequestError};
use crate::model::{Change, ClusterMap, EndpointId, NetworkId, NodeId, Object};

/// A controller that is older than the request refuses it so; it has told this agent everything.
const OLDER: &str = "unsupported";

impl Agent {
    /// Asks how far the cluster is and waits until this agent is there, too.
    pub(super) async fn catch_up(&self) -> Result<(), ApiError> {
        match self.ask(Request::Newest).await {
            Err(error) if error.reply.code == OLDER => self.ask(Request::Presence).await.map(drop),
            other => other.map(drop),
        }
    }

    /// The map of this host, and with it what is on these networks.
    ///
    /// # Errors
    /// [`ApiError`]; this host doesn't have one of them, and no controller answers.
    pub(super) async fn map_with(&self, networks: &[NetworkId]) -> Result<ClusterMap, ApiError> {
        let (mut map, missing) = {
            let inner = self.inner();
            let missing = networks.iter();
            let missing = missing.filter(|network| !inner.interest.is_complete(network));
            (inner.map.clone(), missing.cloned().collect::<Vec<_>>())
        };
        for network in &missing {
            self.read_network(&mut map, network).await?;
        }
        Ok(map)
    }

    /// The same as far as it can be had.
    pub(super) async fn map_of_all(&self) -> ClusterMap {
        let networks: Vec<NetworkId> = self.inner().map.networks.keys().cloned().collect();
        match self.map_with(&networks).await {
            Ok(map) => map,
            Err(_) => self.inner().map.clone(),
        }
    }

    async fn read_network(
        &self,
        map: &mut ClusterMap,
        network: &NetworkId,
    ) -> Result<(), ApiError> {
        let mut after: Option<EndpointId> = None;
        loop {
            let network = network.clone();
            let asked = Request::ReadNetwork { network, after };
            let reply = match self.link.request(asked).await {
                Err(RequestError::Refused(refusal)) if refusal.code == OLDER => return Ok(()),
                other => other?,
            };
            after = reply.objects.iter().rev().find_map(|of| match &of.object {
                Object::Endpoint(endpoint) => Some(endpoint.id.clone()),
                Object::Node(_)
                | Object::Network(_)
                | Object::Block(_)
                | Object::Router(_)
                | Object::Credentials(..)
                | Object::Session(..) => None,
            });
            let (revision, more) = (map.revision, reply.more);
            for of in reply.objects {
                map.apply(of.revision, Change::Put(of.object));
            }
            map.revision = revision;
            if !more || after.is_none() {
                return Ok(());
            }
        }
    }

    /// `weft network ls`.
    pub(super) async fn networks(&self) -> Vec<api::NetworkInfo> {
        let mut rows: Vec<api::NetworkInfo> = {
            let inner = self.inner();
            let networks = inner.map.networks.values();
            let complete = |id: &NetworkId| inner.interest.is_complete(id);
            let view = |network| self.network_view(&inner.map, network, complete);
            networks.map(|network| view(&network.object)).collect()
        };
        self.count_endpoints(&mut rows).await;
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        rows
    }

    /// Fills in how many endpoints the networks have that this host doesn't have.
    pub(super) async fn count_endpoints(&self, rows: &mut [api::NetworkInfo]) {
        if rows.iter().all(|row| row.endpoints.is_some()) {
            return;
        }
        let Ok(reply) = self.link.request(Request::CountEndpoints).await else {
            return;
        };
        for row in rows.iter_mut().filter(|row| row.endpoints.is_none()) {
            let count = reply.counts.get(&row.id);
            row.endpoints = count.and_then(|count| usize::try_from(*count).ok());
        }
    }

    /// `weft nodes`: all nodes, and who is connected; those that are known here while no controller answers.
    pub(super) async fn nodes(&self) -> Vec<api::NodeInfo> {
        let mut rows = match self.read_nodes().await {
            Ok(rows) => rows,
            Err(_) => self.known_nodes().await,
        };
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        rows
    }

    async fn read_nodes(&self) -> Result<Vec<api::NodeInfo>, RequestError> {
        let (mut rows, mut after) = (Vec::new(), None);
        loop {
            let reply = self.link.request(Request::ReadNodes { after }).await?;
            let Reply {
                objects,
                counts,
                connected,
                more,
                ..
            } = reply;
            after = None;
            for node in objects.into_iter().filter_map(|of| match of.object {
                Object::Node(node) => Some(node),
                Object::Network(_)
                | Object::Block(_)
                | Object::Endpoint(_)
                | Object::Router(_)
                | Object::Credentials(..)
                | Object::Session(..) => None,
            }) {
                let endpoints = counts.get(&node.id.0).copied().unwrap_or_default();
                let endpoints = usize::try_from(endpoints).unwrap_or(usize::MAX);
                let state = Some(connected.contains(&node.id));
                rows.push(node_view(&node, endpoints, state, &self.facts.node));
                after = Some(node.id);
            }
            if !more || after.is_none() {
                return Ok(rows);
            }
        }
    }

    async fn known_nodes(&self) -> Vec<api::NodeInfo> {
        let asked = self.link.request(Request::Presence).await;
        let connected = asked.ok().map(|reply| reply.connected);
        let inner = self.inner();
        let mut endpoints: BTreeMap<&NodeId, usize> = BTreeMap::new();
        for endpoint in inner.map.endpoints.values() {
            *endpoints.entry(&endpoint.object.node).or_default() += 1;
        }
        let nodes = inner.map.nodes.values().map(|node| &node.object);
        let view = |node: &crate::model::Node| {
            let state = connected.as_ref().map(|ids| ids.contains(&node.id));
            let endpoints = endpoints.get(&node.id).copied().unwrap_or(0);
            node_view(node, endpoints, state, &self.facts.node)
        };
        nodes.map(view).collect()
    }

    /// `weft subnets`.
    pub(super) async fn subnets(&self) -> Vec<api::SubnetBlock> {
        let map = self.map_of_all().await;
        let networks = map.networks.values();
        let mut rows: Vec<api::SubnetBlock> = networks
            .flat_map(|network| super::views::block_views(&map, &network.object))
            .collect();
        rows.sort_by(|a, b| (&a.network, a.prefix).cmp(&(&b.network, b.prefix)));
        rows
    }

    /// `weft ipam ls`.
    pub(super) async fn all_leases(&self) -> Vec<api::Lease> {
        let map = self.map_of_all().await;
        self.leases(&map, &self.inner())
    }

    /// The node that has the endpoint of that name, as far as that can be had.
    pub(super) async fn node_of(&self, network: &str, name: &str) -> Option<String> {
        let network = self.inner().map.network_named(network)?.id.clone();
        let map = self.map_with(std::slice::from_ref(&network)).await.ok()?;
        let endpoint = map.endpoints.named(&network, name).next()?;
        Some(node_name(&map, &endpoint.node))
    }
}
