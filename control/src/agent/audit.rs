//! `weft ipam audit`: compares the books (`ipam::audit`) and, if told to, mends what this node can.
//!
//! A block is given back in three steps, so that a crash after any of them gives no address twice: first this node gives
//! nothing from it any more, then that is on disk, then the controller is told.

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::sync::Arc;

use ipnet::IpNet;
use tracing::{info, warn};

use super::ipam::audit::{Books, Cure, Found, OwnPort, audit};
use super::startup::is_gone;
use super::{Agent, ApiError, Inner};
use crate::api;
use crate::channel::messages::STORE_FAILED;
use crate::channel::{Request, RequestError};
use crate::model::{Change, Key, NetworkId, NodeId, Object, Revision};

impl Agent {
    /// Compares the books.
    pub(super) async fn audit(&self) -> api::Audit {
        let connected = self.connected_nodes().await;
        let findings = self.compare(connected.as_ref());
        self.audit_view(findings.into_iter().map(|(finding, _)| finding).collect())
    }

    /// Mends what can be mended, and says what it was.
    pub(super) async fn audit_and_fix(self: &Arc<Self>) -> Result<api::Audit, ApiError> {
        let connected = self.connected_nodes().await;
        let before = self.compare(connected.as_ref());
        for (_, cure) in &before {
            if let Cure::TakeDown(id) = cure {
                self.take_down(id).await;
            }
        }
        if before.iter().any(|(_, cure)| *cure == Cure::Tell) {
            self.tell_now().await;
        }
        for (_, cure) in &before {
            if let Cure::GiveBack(network, prefix) = cure {
                self.give_back(network, *prefix).await?;
            }
        }
        let after = self.compare(connected.as_ref());
        let left: BTreeSet<_> = after.iter().map(|(finding, _)| name_of(finding)).collect();
        let mut findings: Vec<api::Finding> = before.into_iter().map(|(found, _)| found).collect();
        for finding in &mut findings {
            finding.fixed = finding.fixable && !left.contains(&name_of(finding));
        }
        Ok(self.audit_view(findings))
    }

    fn audit_view(&self, findings: Vec<api::Finding>) -> api::Audit {
        let leases = {
            let inner = self.inner();
            self.leases(&inner.map, &inner)
        };
        let held = leases.iter().filter(|lease| lease.kind == "endpoint");
        api::Audit {
            leases: held.count(),
            findings,
        }
    }

    /// Who is connected to the controller; `None` if it doesn't say.
    async fn connected_nodes(&self) -> Option<BTreeSet<NodeId>> {
        let reply = self.link.request(Request::Presence).await.ok()?;
        // What the map shows must not be older than the answer.
        self.wait_revision(reply.revision).await.ok()?;
        Some(reply.connected)
    }

    fn compare(&self, connected: Option<&BTreeSet<NodeId>>) -> Vec<Found> {
        let inner = self.inner();
        let ports = inner.ports.values().map(|port| OwnPort {
            endpoint: &port.record.endpoint,
            alive: port.fds.first().is_some_and(|fd| !is_gone(fd.as_fd())),
            refused: port.trouble.as_deref(),
        });
        let pending = inner.pending.values().map(|pending| &pending.endpoint);
        audit(&Books {
            map: &inner.map,
            node: &self.facts.node,
            ports: ports
                .filter(|port| !inner.leaving.contains_key(&port.endpoint.id))
                .collect(),
            under_way: pending.chain(inner.leaving.values()).collect(),
            returning: &inner.returning,
            connected,
        })
    }

    /// Tells the controller of all endpoints, and waits until the map shows what came of it.
    async fn tell_now(self: &Arc<Self>) {
        self.inner().channel.told = false;
        if let Err(error) = self.tell_endpoints().await {
            warn!(%error, "the controller couldn't be told of this node's endpoints");
            return;
        }
        // The newest revision there is has it.
        let _ = self.connected_nodes().await;
    }

    /// Gives a block back that nobody here uses.
    async fn give_back(
        self: &Arc<Self>,
        network: &NetworkId,
        prefix: IpNet,
    ) -> Result<(), ApiError> {
        let key = (network.clone(), prefix);
        if !self.inner().stop_giving(&key) {
            return Ok(());
        }
        if let Err(error) = self.save_ports().await {
            self.inner().returning.remove(&key);
            return Err(error);
        }
        let request = self.inner().giving_back(key.clone());
        match self.link.request(request).await {
            Ok(reply) => {
                info!(%network, %prefix, "block given back");
                // Until the map shows it, nothing is given from it.
                self.wait_revision(reply.revision).await
            }
            Err(RequestError::Refused(refusal)) if refusal.code != STORE_FAILED => {
                warn!(%network, %prefix, code = %refusal.code, "a block can't be given back: {}", refusal.message);
                self.inner().returning.remove(&key);
                Ok(())
            }
            // It may have been given back or not: the map will say.
            Err(_) => Ok(()),
        }
    }
}

impl Inner {
    /// From now on nothing is given from that block; false if something was, a moment ago.
    fn stop_giving(&mut self, key: &(NetworkId, IpNet)) -> bool {
        !self.is_given_from(key) && self.returning.insert(key.clone())
    }

    /// Whether an endpoint here has its address from that block.
    pub(super) fn is_given_from(&self, (network, prefix): &(NetworkId, IpNet)) -> bool {
        self.own_endpoints().any(|endpoint| {
            let of_it = |ip| {
                let block = self.map.block_of(network, ip);
                block.is_some_and(|block| block.prefix == *prefix)
            };
            endpoint.network == *network && endpoint.ips.iter().any(|ip| of_it(*ip))
        })
    }

    /// Follows a change of the map: what was given back has gone, or is ours again.
    pub(super) fn note_block(&mut self, node: &NodeId, (revision, change): (Revision, &Change)) {
        if let Change::Delete(Key::Block(network, prefix)) = change {
            let key = (network.clone(), *prefix);
            if self.returning.remove(&key) {
                self.returned.insert(key, revision);
            }
        }
        if let Change::Put(Object::Block(block)) = change
            && block.node == *node
        {
            self.returned.remove(&(block.network.clone(), block.prefix));
        }
    }

    /// Notes which blocks the map doesn't show as this node's any more.
    pub(super) fn note_returned(&mut self, node: &NodeId) {
        let map = &self.map;
        let is_ours = |key: &(NetworkId, IpNet)| {
            let block = map.blocks.get(key);
            block.is_some_and(|block| block.object.node == *node)
        };
        let (ours, gone) = std::mem::take(&mut self.returning)
            .into_iter()
            .partition::<BTreeSet<_>, _>(is_ours);
        self.returning = ours;
        let gone = gone.into_iter().map(|key| (key, map.revision));
        self.returned.extend(gone);
    }

    /// The map of that revision is on disk: what it doesn't show needn't be remembered.
    pub(super) fn forget_returned(&mut self, on_disk: Revision) {
        self.returned.retain(|_, since| *since > on_disk);
    }
}

fn name_of(finding: &api::Finding) -> (String, String, String) {
    let api::Finding {
        kind,
        network,
        what,
        ..
    } = finding;
    (kind.clone(), network.clone(), what.clone())
}
