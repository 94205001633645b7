//! From a member's request to a decision to a reply.

use std::net::IpAddr;
use std::sync::PoisonError;
use std::time::Instant;

use tracing::info;

use super::Core;
use super::decide::block::Claim;
use super::decide::{Decision, block, endpoint, network, node, router};
use crate::api::NetworkCreate;
use crate::channel::{Answer, Ask, Interest, Refusal, Reply, Request, RouterChange};
use crate::model::{
    Change, ClusterMap, Credentials, Endpoint, NetworkId, NodeId, Revision, RouterId,
};

impl Core {
    /// Does what the node `from` asks.
    pub(super) async fn handle(&self, from: &NodeId, request: Request) -> Decision<Reply> {
        // A node that was removed asks in vain while its connection is being closed.
        self.ledger.read(|map| member(map, from))?;
        let kind = request.kind();
        let revision = match request {
            Request::CreateNetwork { create } => self.create_network(&create).await?,
            Request::ChangeNetwork { name, change } => {
                self.change(|map| network::change(map, &name, &change))
                    .await?
            }
            Request::RemoveNetwork { name } => {
                let done = self.change(|map| network::remove(map, &name)).await?;
                info!(network = %name, "network removed");
                done
            }
            Request::PruneNetworks => {
                let (revision, names) = self.ledger.decide(|map| Ok(network::prune(map))).await?;
                info!(networks = ?names, "networks pruned");
                return Ok(Reply {
                    revision,
                    names,
                    ..Reply::default()
                });
            }
            Request::AddVtep { network, address } => {
                self.change(|map| network::add_vtep(map, &network, address))
                    .await?
            }
            Request::RemoveVtep { network, address } => {
                self.change(|map| network::remove_vtep(map, &network, address))
                    .await?
            }
            Request::ChangeRouter { name, change } => self.change_router(&name, &change).await?,
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

    async fn create_network(&self, create: &NetworkCreate) -> Decision<Revision> {
        let id = NetworkId(format!("{:016x}", rand::random::<u64>()));
        let decide = |map: &ClusterMap| network::create(map, create, id.clone());
        let done = self.change(decide).await?;
        info!(network = %create.name, "network created");
        Ok(done)
    }

    async fn change_router(&self, name: &str, change: &RouterChange) -> Decision<Revision> {
        let new = RouterId(format!("{:016x}", rand::random::<u64>()));
        let decide = |map: &ClusterMap| router::change(map, name, change, new.clone());
        let done = self.change(decide).await?;
        info!(router = name, ?change, "router changed");
        Ok(done)
    }

    /// What a node asks for itself. It must still be a member: its removal may have come first.
    async fn handle_own(&self, from: &NodeId, request: Request) -> Decision<Reply> {
        let revision = match request {
            Request::AllocateBlock { network, subnet } => {
                let decide = |map: &ClusterMap| {
                    member(map, from)?;
                    block::allocate(map, from, (&network, subnet))
                };
                let (revision, block) = self.ledger.decide(decide).await?;
                self.note_claim(network, block);
                return Ok(Reply {
                    revision,
                    block: Some(block),
                    ..Reply::default()
                });
            }
            Request::ReturnBlock { network, prefix } => {
                self.change(|map| block::give_back(map, from, (&network, prefix)))
                    .await?
            }
            Request::ClaimAddress { network, ip } => {
                return self.claim(from, (network, ip)).await;
            }
            Request::PutEndpoint { endpoint } => {
                let decide = |map: &ClusterMap| {
                    member(map, from)?;
                    endpoint::put(map, from, &endpoint)
                };
                self.change(decide).await?
            }
            Request::DeleteEndpoint { id } => {
                self.change(|map| endpoint::delete(map, from, &id)).await?
            }
            Request::SyncEndpoints { endpoints } => return self.sync(from, &endpoints).await,
            Request::Watch { networks, wish } => self.watch(from, Interest { networks, wish }),
            Request::Renew { csr } => return self.renewed(from, &csr),
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

    fn watch(&self, from: &NodeId, interest: Interest) -> Revision {
        self.sessions.watch(from, interest);
        self.ledger.revision()
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
        from: &NodeId,
        credentials: &Credentials,
    ) -> Decision<Revision> {
        let noted = self.change(|map| node::note_credentials(map, from, credentials));
        let revision = noted.await?;
        // It may be the last one that was waited for.
        self.rotated.notify_one();
        Ok(revision)
    }

    /// A full report.
    async fn sync(&self, from: &NodeId, endpoints: &[Endpoint]) -> Decision<Reply> {
        let decide = |map: &ClusterMap| {
            member(map, from)?;
            let sync = endpoint::sync(map, from, endpoints);
            Ok((sync.changes, sync.rejected))
        };
        let (_, rejected) = self.ledger.decide(decide).await?;
        self.give_up_claims(Some(from)).await;
        let revision = self.ledger.revision();
        Ok(Reply {
            revision,
            rejected,
            ..Reply::default()
        })
    }

    async fn change(
        &self,
        decide: impl Fn(&ClusterMap) -> Decision<Vec<Change>>,
    ) -> Decision<Revision> {
        let decided = self.ledger.decide(|map| Ok((decide(map)?, ()))).await;
        decided.map(|(revision, ())| revision)
    }

    async fn remove_node(&self, from: &NodeId, name: &str) -> Decision<Revision> {
        let decide = |map: &ClusterMap| node::remove(map, from, name);
        let (revision, id) = self.ledger.decide(decide).await?;
        info!(node = %name, "node removed");
        self.sessions.expel(&id);
        Ok(revision)
    }

    /// Gives one address to a node; when it is in another node's block, that node is asked to yield it.
    async fn claim(&self, from: &NodeId, (network, ip): (NetworkId, IpAddr)) -> Decision<Reply> {
        let claim = |map: &ClusterMap| {
            member(map, from)?;
            block::claim(map, from, (&network, ip))
        };
        let yielded = match self.ledger.read(claim)? {
            Claim::Yours(_) | Claim::Free(..) => None,
            Claim::Ask { owner, block } => {
                self.ask_to_yield((&network, ip), (&owner, block)).await?;
                Some(owner)
            }
        };
        let decide = |map: &ClusterMap| match claim(map)? {
            Claim::Yours(prefix) => Ok((Vec::new(), prefix)),
            Claim::Free(changes, prefix) => Ok((changes, prefix)),
            Claim::Ask { owner, .. } if Some(&owner) == yielded.as_ref() => {
                Ok(block::grant(&network, from, ip))
            }
            Claim::Ask { .. } => Err(Refusal::new(
                "busy",
                format!("the address block with {ip} was just given to another node"),
            )
            .hint("try again")),
        };
        let (revision, prefix) = self.ledger.decide(decide).await?;
        self.note_claim(network, prefix);
        Ok(Reply {
            revision,
            block: Some(prefix),
            ..Reply::default()
        })
    }

    fn note_claim(&self, network: NetworkId, prefix: ipnet::IpNet) {
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        claims.note(network, prefix, Instant::now());
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

/// A node's removal may have come before its request.
fn member(map: &ClusterMap, node: &NodeId) -> Decision<()> {
    if map.nodes.contains_key(node) {
        Ok(())
    } else {
        Err(node::removed(node))
    }
}
