//! Addresses that were claimed for one endpoint each. They go back with it, so from the moment on when the controller may
//! have heard that it is gone they aren't this node's to give, until the map says whose they are.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Inner;
use super::ipam::Returning;
use crate::model::{Endpoint, EndpointId, NetworkId, NodeId};

impl Inner {
    /// Gives nothing from the addresses claimed for these endpoints from now on. Returns what could be given before.
    pub(super) fn stop_claims<'a>(
        &mut self,
        node: &NodeId,
        endpoints: impl IntoIterator<Item = &'a Endpoint>,
    ) -> Returning {
        let keys = endpoints.into_iter().flat_map(|endpoint| {
            let ips = endpoint.ips.iter();
            ips.map(|ip| (endpoint.network.clone(), IpNet::from(*ip)))
        });
        let ours = keys.filter(|key| {
            let claim = self.map.blocks.get(key);
            claim.is_some_and(|claim| claim.object.node == *node)
        });
        let claims: Returning = ours.filter(|key| !self.returning.contains(key)).collect();
        self.returning.extend(claims.iter().cloned());
        claims
    }

    /// The same for endpoints that the map still has of this node and that the next full report leaves out.
    pub(super) fn stop_claims_of_gone(&mut self, node: &NodeId) -> Returning {
        let known: BTreeSet<&EndpointId> = self.own_endpoints().map(|own| &own.id).collect();
        let used = self.own_endpoints().flat_map(|own| {
            let ips = own.ips.iter();
            ips.map(|ip| (own.network.clone(), *ip))
        });
        let used: BTreeSet<(NetworkId, IpAddr)> = used.collect();
        let mut gone: Vec<Endpoint> = self
            .map
            .endpoints
            .of_node(node)
            .filter(|endpoint| !known.contains(&endpoint.id))
            .cloned()
            .collect();
        for endpoint in &mut gone {
            // Connected anew with the same address while no controller answered.
            let network = &endpoint.network;
            endpoint
                .ips
                .retain(|ip| !used.contains(&(network.clone(), *ip)));
        }
        self.stop_claims(node, &gone)
    }

    /// The controller didn't hear of it.
    pub(super) fn resume_claims(&mut self, claims: &Returning) {
        self.returning.retain(|key| !claims.contains(key));
    }

    /// An address of the endpoint that was claimed for it, when the map doesn't know yet that this node uses it.
    pub(super) fn unknown_claim(&self, endpoint: &Endpoint) -> Option<IpAddr> {
        let mut ips = endpoint.ips.iter().copied();
        ips.find(|ip| {
            let key = (endpoint.network.clone(), IpNet::from(*ip));
            let mut users = self.map.endpoints.with_ip(&endpoint.network, *ip);
            self.map.blocks.contains_key(&key) && !users.any(|user| user.node == endpoint.node)
        })
    }

    /// Whether the map has other endpoints of this node than there are, but for those that the controller refused.
    pub(super) fn differs(&self, node: &NodeId) -> bool {
        let in_map = self.map.endpoints.of_node(node);
        let in_map: BTreeSet<_> = in_map.map(|endpoint| (&endpoint.id, endpoint.epoch)).collect();
        let ports = self.ports.values().filter(|port| port.trouble.is_none());
        let ports = ports.map(|port| &port.record.endpoint);
        let pending = self.pending.values().filter(|pending| pending.complete);
        let here = ports.chain(pending.map(|pending| &pending.endpoint));
        let here: BTreeSet<_> = here.map(|endpoint| (&endpoint.id, endpoint.epoch)).collect();
        in_map != here
    }
}
