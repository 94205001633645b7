//! From a member's request to a decision to a reply.

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;
use tracing::info;

use super::decide::block::Claim;
use super::decide::endpoint::Claims;
use super::decide::{Decision, block, endpoint, network, node, router};
use super::{Core, audience};
use crate::api::NetworkCreate;
use crate::channel::{Answer, Ask, Interest, Refusal, Reply, Request, RouterChange};
use crate::model::{
    Change, ClusterMap, Credentials, Endpoint, NetworkId, NodeId, Revision, RouterId,
};

/// Nodes keep their word for a minute (`agent::reconcile`); the rest is for the grant to be written.
const YIELD_KEPT: Duration = Duration::from_secs(30);

/// Who asks.
#[derive(Clone, Copy)]
pub(super) struct Asker<'a> {
    pub(super) node: &'a NodeId,
    /// Whether the session in which it asks is still its newest one here.
    pub(super) is_current: &'a (dyn Fn() -> bool + Send + Sync),
    /// What it leaves to the controller.
    pub(super) claims: Claims,
}

impl Core {
    /// Does what a node asks.
    pub(super) async fn handle(&self, from: Asker<'_>, request: Request) -> Decision<Reply> {
        // A node that was removed asks in vain while its connection is being closed.
        self.ledger.read(|map| member(map, from.node))?;
        let kind = request.kind();
        let revision = match request {
            Request::CreateNetwork { create } => self.create_network(from, &create).await?,
            Request::ChangeNetwork { name, change } => {
                self.change(from, |map| network::change(map, &name, &change))
                    .await?
            }
            Request::RemoveNetwork { name } => {
                let done = self.change(from, |map| network::remove(map, &name)).await?;
                info!(network = %name, "network removed");
                done
            }
            Request::PruneNetworks => return self.prune_networks(from).await,
            Request::AddVtep { network, address } => {
                self.change(from, |map| network::add_vtep(map, &network, address))
                    .await?
            }
            Request::RemoveVtep { network, address } => {
                self.change(from, |map| network::remove_vtep(map, &network, address))
                    .await?
            }
            Request::ChangeRouter { name, change } => {
                self.change_router(from, (&name, &change)).await?
            }
            Request::RemoveNode { name } => self.remove_node(from, &name).await?,
            Request::Presence => return self.presence().await,
            Request::ReadNetwork { network, after } => {
                return Ok(self.read_network(&network, after.as_ref()));
            }
            Request::ReadNodes { after } => return Ok(self.read_nodes(after.as_ref())),
            Request::CountEndpoints => return Ok(self.count_endpoints()),
            Request::Newest => {
                self.ledger.refresh().await?;
                self.ledger.revision()
            }
            Request::AllocateBlock { .. }
            | Request::ReturnBlock { .. }
            | Request::ClaimAddress { .. }
            | Request::PutEndpoint { .. }
            | Request::DeleteEndpoint { .. }
            | Request::SyncEndpoints { .. }
            | Request::Renew { .. }
            | Request::NoteCredentials { .. }
            | Request::Watch { .. } => return self.handle_own(from, request).await,
        };
        tracing::debug!(kind, revision, "request done");
        Ok(Reply {
            revision,
            ..Reply::default()
        })
    }

    async fn prune_networks(&self, from: Asker<'_>) -> Decision<Reply> {
        let (revision, names) = self.decide(from, |map| Ok(network::prune(map))).await?;
        info!(networks = ?names, "networks pruned");
        Ok(Reply {
            revision,
            names,
            ..Reply::default()
        })
    }

    async fn create_network(&self, from: Asker<'_>, create: &NetworkCreate) -> Decision<Revision> {
        let id = NetworkId(format!("{:016x}", rand::random::<u64>()));
        let decide = |map: &ClusterMap| network::create(map, create, id.clone());
        let done = self.change(from, decide).await?;
        info!(network = %create.name, "network created");
        Ok(done)
    }

    async fn change_router(
        &self,
        from: Asker<'_>,
        (name, change): (&str, &RouterChange),
    ) -> Decision<Revision> {
        let new = RouterId(format!("{:016x}", rand::random::<u64>()));
        let decide = |map: &ClusterMap| router::change(map, name, change, new.clone());
        let done = self.change(from, decide).await?;
        info!(router = name, ?change, "router changed");
        Ok(done)
    }

    /// What a node asks for itself. It must still be a member: its removal may have come first.
    async fn handle_own(&self, from: Asker<'_>, request: Request) -> Decision<Reply> {
        let revision = match request {
            Request::AllocateBlock { network, subnet } => {
                let decide = |map: &ClusterMap| block::allocate(map, from.node, (&network, subnet));
                let (revision, block) = self.decide(from, decide).await?;
                return Ok(Reply {
                    revision,
                    block: Some(block),
                    ..Reply::default()
                });
            }
            Request::ReturnBlock {
                network,
                prefix,
                revision,
            } => {
                let meant = (&network, prefix, revision);
                self.change(from, |map| block::give_back(map, from.node, meant))
                    .await?
            }
            Request::ClaimAddress { network, ip } => {
                return self.claim(from, (network, ip)).await;
            }
            Request::PutEndpoint { endpoint } => {
                self.change(from, |map| endpoint::put(map, from.node, &endpoint))
                    .await?
            }
            Request::DeleteEndpoint { id } => {
                let gone = (&id, from.claims);
                self.change(from, |map| endpoint::delete(map, from.node, gone))
                    .await?
            }
            Request::SyncEndpoints { endpoints } => return self.sync(from, &endpoints).await,
            Request::Watch { networks, wish } => self.watch(from, Interest { networks, wish })?,
            Request::Renew { csr } => return self.renewed(from.node, &csr),
            Request::NoteCredentials { credentials } => {
                self.note_credentials(from, &credentials).await?
            }
            Request::CreateNetwork { .. }
            | Request::ChangeNetwork { .. }
            | Request::RemoveNetwork { .. }
            | Request::PruneNetworks
            | Request::AddVtep { .. }
            | Request::RemoveVtep { .. }
            | Request::ChangeRouter { .. }
            | Request::RemoveNode { .. }
            | Request::ReadNetwork { .. }
            | Request::ReadNodes { .. }
            | Request::CountEndpoints
            | Request::Newest
            | Request::Presence => self.ledger.revision(),
        };
        Ok(Reply {
            revision,
            ..Reply::default()
        })
    }

    /// Who is connected, here or at another controller, and the newest revision that any of them has told.
    async fn presence(&self) -> Decision<Reply> {
        self.ledger.refresh().await?;
        let mut connected = self.sessions.connected();
        connected.extend(self.fellows.connected());
        Ok(Reply {
            revision: self.ledger.revision(),
            connected,
            ..Reply::default()
        })
    }

    fn watch(&self, from: Asker<'_>, interest: Interest) -> Decision<Revision> {
        audience::check(Some(&interest.networks))?;
        if self.sessions.watch(from, interest) {
            Ok(self.ledger.revision())
        } else {
            Err(moved())
        }
    }

    fn renewed(&self, from: &NodeId, csr: &[u8]) -> Decision<Reply> {
        Ok(Reply {
            revision: self.ledger.revision(),
            issued: Some(self.renew(from, csr)?),
            ..Reply::default()
        })
    }

    async fn note_credentials(
        &self,
        from: Asker<'_>,
        credentials: &Credentials,
    ) -> Decision<Revision> {
        let noted = self.change(from, |map| {
            node::note_credentials(map, from.node, credentials)
        });
        let revision = noted.await?;
        // It may be the last one that was waited for.
        self.rotated.notify_one();
        Ok(revision)
    }

    /// A full report.
    async fn sync(&self, from: Asker<'_>, endpoints: &[Endpoint]) -> Decision<Reply> {
        let decide = |map: &ClusterMap| {
            let sync = endpoint::sync(map, from.node, (endpoints, from.claims));
            Ok((sync.changes, sync.rejected))
        };
        let (revision, rejected) = self.decide(from, decide).await?;
        Ok(Reply {
            revision,
            rejected,
            ..Reply::default()
        })
    }

    async fn change(
        &self,
        from: Asker<'_>,
        decide: impl Fn(&ClusterMap) -> Decision<Vec<Change>>,
    ) -> Decision<Revision> {
        let decided = self.decide(from, |map| Ok((decide(map)?, ()))).await;
        decided.map(|(revision, ())| revision)
    }

    /// Decides what a node asks while it is a member and has its session here. What it asked in an older session mustn't
    /// undo what it told in a newer one, here or at another controller.
    async fn decide<T>(
        &self,
        from: Asker<'_>,
        decide: impl Fn(&ClusterMap) -> Decision<(Vec<Change>, T)>,
    ) -> Decision<(Revision, T)> {
        let decide = |map: &ClusterMap| {
            member(map, from.node)?;
            if !(from.is_current)() || self.has_moved(map, from.node) {
                return Err(moved());
            }
            decide(map)
        };
        self.ledger.decide(decide).await
    }

    /// Whether a node has a newer session at another controller.
    pub(super) fn has_moved(&self, map: &ClusterMap, node: &NodeId) -> bool {
        let name = self.fellows.name();
        name.is_some_and(|name| !node::has_session(map, node, name))
    }

    async fn remove_node(&self, from: Asker<'_>, name: &str) -> Decision<Revision> {
        let decide = |map: &ClusterMap| node::remove(map, from.node, name);
        let (revision, id) = self.decide(from, decide).await?;
        info!(node = %name, "node removed");
        self.sessions.expel(&id);
        Ok(revision)
    }

    /// Gives one address to a node; when it is in another node's block, that node is asked to yield it.
    async fn claim(&self, from: Asker<'_>, (network, ip): (NetworkId, IpAddr)) -> Decision<Reply> {
        let claim = |map: &ClusterMap| block::claim(map, from.node, (&network, ip));
        let mut looked = self.ledger.read(claim);
        if !matches!(looked, Ok(Claim::Yours(_) | Claim::Free(..))) {
            // Another controller may have changed that.
            self.ledger.refresh().await?;
            looked = self.ledger.read(claim);
        }
        let asked = Instant::now();
        let yielded = match looked? {
            Claim::Yours(_) | Claim::Free(..) => None,
            Claim::Ask { owner, block } => {
                self.ask_to_yield((&network, ip), (&owner, block)).await?;
                Some(owner)
            }
        };
        let keeps_word = |owner: &NodeId| yielded.as_ref() == Some(owner) && is_recent(asked);
        let decide = |map: &ClusterMap| match claim(map)? {
            Claim::Yours(prefix) => Ok((Vec::new(), prefix)),
            Claim::Free(changes, prefix) => Ok((changes, prefix)),
            Claim::Ask { owner, .. } if keeps_word(&owner) => {
                Ok(block::grant(&network, from.node, ip))
            }
            Claim::Ask { .. } => Err(Refusal::new(
                "busy",
                format!("the address block with {ip} was just given to another node"),
            )
            .hint("try again")),
        };
        let (revision, prefix) = self.decide(from, decide).await?;
        Ok(Reply {
            revision,
            block: Some(prefix),
            ..Reply::default()
        })
    }

    async fn ask_to_yield(
        &self,
        (network, ip): (&NetworkId, IpAddr),
        (owner, block): (&NodeId, ipnet::IpNet),
    ) -> Decision<()> {
        let (owner_name, network_name) = self.ledger.read(|map| {
            let name = map.nodes.get(owner).map(|node| node.object.name.clone());
            let network_name = map.network(network).map(|network| network.name.clone());
            (
                name.unwrap_or_else(|| owner.to_string()),
                network_name.unwrap_or_default(),
            )
        });
        let away = |why: &str| {
            let message = format!(
                "address {ip} of network {network_name} is in block {block} of node {owner_name}, which {why}"
            );
            Refusal::new("owner_offline", message).hint(format!(
                "choose another --ip, start the agent of {owner_name}, or remove it with `weft nodes rm {owner_name}` if it is gone"
            ))
        };
        let ask = Ask::Yield {
            network: network.clone(),
            ip,
        };
        let asked = match self.sessions.ask(owner, ask.clone()).await {
            None => self.fellows.ask(owner, ask).await,
            here => here,
        };
        match asked {
            None => Err(away("is not connected")),
            Some(Err(why)) => Err(away(&format!("doesn't answer ({why})"))),
            // None of ours answers that.
            Some(Ok(Answer::Renewed)) => Err(away("doesn't answer (it answered something else)")),
            Some(Ok(Answer::Yielded)) => Ok(()),
            Some(Ok(Answer::InUse { endpoint })) => Err(Refusal::new(
                "ip_taken",
                format!("address {ip} of network {network_name} is taken by endpoint {endpoint} on node {owner_name}"),
            )
            .hint("choose another --ip, or leave it out")),
        }
    }
}

/// Whether a node that yielded an address then doesn't give it to others yet.
fn is_recent(yielded: Instant) -> bool {
    yielded.elapsed() < YIELD_KEPT
}

/// Code of the refusal of what a node asked before it went to another controller.
pub(super) const MOVED: &str = "session_moved";

fn moved() -> Refusal {
    Refusal::new(MOVED, "the node is connected to another controller now").hint("try again")
}

/// A node's removal may have come before its request.
fn member(map: &ClusterMap, node: &NodeId) -> Decision<()> {
    if map.nodes.contains_key(node) {
        Ok(())
    } else {
        Err(node::removed(node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_address_is_granted_only_while_its_yielder_keeps_it_free() {
        let asked = Instant::now();
        tokio::time::sleep(YIELD_KEPT - Duration::from_millis(1)).await;
        assert!(is_recent(asked));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(!is_recent(asked));
    }
}
