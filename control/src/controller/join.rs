//! How a node becomes a member: a token that is valid, a name and an underlay address that are free, a certificate.

use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use quinn::{Connection, VarInt};
use tokio::time::timeout;
use tracing::info;

use super::decide::{enumerate, node, node_name};
use super::ledger::TOKEN_CHANGED;
use super::refusals::Turned;
use super::session::{hello_bytes, read_hello, refuse};
use super::{Core, unix_now};
use crate::channel::codec;
use crate::channel::messages::{JoinHello, JoinWelcome, RenewHello};
use crate::channel::{FRAME_PATIENCE, Refusal, close, send};
use crate::identity::TokenSecret;
use crate::identity::ca::Applicant;
use crate::model::{ClusterMap, NodeId};
use crate::store::{TokenRecord, TokenWrite};

/// What a caller without a certificate wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// To become a member, by a token.
    Join,
    /// A new certificate: it is a member, and its certificate ended.
    Renew,
}

/// Serves a node that has no certificate to show: one question, one answer.
pub(super) async fn serve(core: Arc<Core>, connection: Connection, wish: Wish) {
    if let Err(turned) = answer(&core, &connection, wish).await {
        let remote = connection.remote_address();
        core.refusals.note(&turned.reason, remote, &turned.why);
    }
    connection.close(VarInt::from_u32(close::DONE), b"done");
}

async fn answer(core: &Core, connection: &Connection, wish: Wish) -> Result<(), Turned> {
    let (bytes, mut to) = hello_bytes(connection, codec::MAX_STRANGER_BYTES).await?;
    let issued = match wish {
        Wish::Join => match read_hello::<JoinHello>(&bytes) {
            Ok(hello) => core.join(hello).await,
            Err(refusal) => Err(refusal),
        },
        Wish::Renew => match read_hello::<RenewHello>(&bytes) {
            Ok(hello) => core.renew_by_key(&hello.csr),
            Err(refusal) => Err(refusal),
        },
    };
    match issued {
        Ok(welcome) => {
            let answer: Result<JoinWelcome, Refusal> = Ok(welcome);
            send(&mut to, &answer).await?;
            let _ = to.finish();
            // The node closes when it has its certificate.
            let _ = timeout(FRAME_PATIENCE, connection.closed()).await;
            Ok(())
        }
        Err(refusal) => {
            refuse::<JoinWelcome>(connection, to, &refusal).await;
            Err(refusal.into())
        }
    }
}

/// Another controller that takes a node by the same token comes first: the token is looked at again this often.
const TRIES: usize = 8;

impl Core {
    /// A join that fails leaves the token as it was; one that is asked for again by the same key is answered again.
    async fn join(&self, hello: JoinHello) -> Result<JoinWelcome, Refusal> {
        let _one_at_a_time = self.joining.lock().await;
        for _ in 1..TRIES {
            match self.try_join(&hello).await {
                Err(refusal) if refusal.code == TOKEN_CHANGED => {}
                answer => return answer,
            }
        }
        self.try_join(&hello).await
    }

    async fn try_join(&self, hello: &JoinHello) -> Result<JoinWelcome, Refusal> {
        let applicant = applicant(&hello.csr)?;
        let node = applicant.node().clone();
        let before = self.find_token(hello).await?;
        let welcome = self.issue(applicant, &hello.node_name)?;
        let joined = (hello.node_name.as_str(), &hello.facts);
        self.ledger
            .decide_with_token(|map| {
                // On the map that is decided on: a node that is being removed doesn't come back by a token it has used.
                let token = use_up(map, before.clone(), &node)?;
                Ok((node::join(map, &node, joined)?, token))
            })
            .await?;
        info!(node = %hello.node_name, id = %node, underlay = %hello.facts.underlay, "node joined");
        Ok(welcome)
    }

    fn issue(&self, applicant: Applicant, name: &str) -> Result<JoinWelcome, Refusal> {
        let issued = self
            .authorities
            .load()
            .issue(applicant, (name, self.cert_ttl));
        let issued = issued.map_err(|error| {
            tracing::error!(%error, "a node's certificate could not be made");
            Refusal::new(
                "certificate_failed",
                "the controller could not make the certificate",
            )
            .hint("see the controller's log")
        })?;
        Ok(JoinWelcome::of(&issued))
    }

    /// A member's new certificate; the request must be signed with the key of `node`.
    pub(super) fn renew(&self, node: &NodeId, csr: &[u8]) -> Result<JoinWelcome, Refusal> {
        let applicant = applicant(csr)?;
        if applicant.node() != node {
            let message = format!(
                "node {node} asks for a certificate of node {}",
                applicant.node()
            );
            return Err(Refusal::new("identity_mismatch", message)
                .hint("restore the state directory's identity from one backup"));
        }
        self.renew_by_key(csr)
    }

    /// A new certificate for whoever is a member by that key. A copy of the request does nobody good: the certificate is
    /// of no use without the key.
    fn renew_by_key(&self, csr: &[u8]) -> Result<JoinWelcome, Refusal> {
        let applicant = applicant(csr)?;
        let node = applicant.node().clone();
        let name = self
            .ledger
            .read(|map| map.nodes.get(&node).map(|node| node.object.name.clone()));
        let name = name.ok_or_else(|| node::removed(&node))?;
        let welcome = self.issue(applicant, &name)?;
        info!(node = %name, "certificate renewed");
        Ok(welcome)
    }

    async fn find_token(&self, hello: &JoinHello) -> Result<TokenRecord, Refusal> {
        let fresh = "make a new one with `weft controller token` on the controller";
        let id = hello.token_id.as_str();
        let wrong = || {
            Refusal::new(
                "bad_token",
                format!("the controller knows no such token ({id:.16})"),
            )
            .hint(format!(
                "copy the whole line that `weft controller token` printed, or {fresh}"
            ))
        };
        let record = self.ledger.token(id.to_owned()).await?.ok_or_else(wrong)?;
        let secret = TokenSecret::from_hex(&hello.secret).ok_or_else(wrong)?;
        let (given, kept) = (secret.digest(), record.secret_digest.as_bytes());
        verify_slices_are_equal(given.as_bytes(), kept).map_err(|_| wrong())?;
        if record.revoked {
            return Err(
                Refusal::new("token_revoked", format!("token {id} was revoked")).hint(fresh),
            );
        }
        let now = unix_now();
        if record.expires <= now {
            let ago = std::time::Duration::from_secs(now - record.expires);
            let ago = humantime::format_duration(ago);
            return Err(
                Refusal::new("token_expired", format!("token {id} expired {ago} ago")).hint(fresh),
            );
        }
        Ok(record)
    }
}

/// A token lets so many nodes in. One of them may show it again, as long as it wasn't removed since.
fn use_up(map: &ClusterMap, before: TokenRecord, node: &NodeId) -> Result<TokenWrite, Refusal> {
    let mut after = before.clone();
    let has_used = before.used_by.contains(node);
    if !(has_used && map.nodes.contains_key(node)) {
        let uses = before.uses as usize;
        if before.used_by.len() >= uses || has_used {
            let names: Vec<_> = before.used_by.iter().map(|id| node_name(map, id)).collect();
            let for_how_many = if uses == 1 {
                "a token lets in one node".to_owned()
            } else {
                format!("it lets in {uses} nodes")
            };
            return Err(Refusal::new(
                "token_used",
                format!("token {} was used by node {}", before.id, enumerate(&names)),
            )
            .hint(format!(
                "{for_how_many}: make a new one with `weft controller token` on the controller"
            )));
        }
        after.used_by.push(node.clone());
    }
    Ok(TokenWrite {
        before: Some(before),
        after,
    })
}

fn applicant(csr: &[u8]) -> Result<Applicant, Refusal> {
    Applicant::from_csr(csr).map_err(|why| Refusal::new("bad_request", why))
}

#[cfg(test)]
mod tests {
    use weft_wire::Mtu;

    use super::*;
    use crate::model::{Change, Key, Node, Object, Transport};

    #[test]
    fn a_spent_token_serves_its_node_again_and_not_after_its_removal() {
        let id = NodeId("a".to_owned());
        let node = Node {
            id: id.clone(),
            name: "host1".to_owned(),
            underlay: [192, 0, 2, 1].into(),
            underlay_mtu: Mtu::new(1500).unwrap(),
            vxlan_port: 4789,
            encrypted_port: None,
            transports: vec![Transport::Vxlan],
            version: String::new(),
        };
        let mut map = ClusterMap::default();
        map.apply(1, Change::Put(Object::Node(node)));
        let record = TokenRecord {
            id: "0123456789abcdef".to_owned(),
            secret_digest: String::new(),
            expires: u64::MAX,
            uses: 1,
            used_by: vec![id.clone()],
            revoked: false,
        };
        let again = use_up(&map, record.clone(), &id).unwrap();
        assert_eq!(again.before, Some(again.after));
        map.apply(2, Change::Delete(Key::Node(id.clone())));
        let refusal = use_up(&map, record, &id).unwrap_err();
        assert_eq!(refusal.code, "token_used");
    }
}
