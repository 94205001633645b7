//! How a node becomes a member: a token that is valid, a name and an underlay address that are free, a certificate.

use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use quinn::{Connection, VarInt};
use tokio::time::timeout;
use tracing::{info, warn};

use super::decide::node;
use super::session::{hello_bytes, read_hello, refuse};
use super::{Core, unix_now};
use crate::channel::messages::{JoinHello, JoinWelcome};
use crate::channel::{FRAME_PATIENCE, Refusal, close, send};
use crate::identity::TokenSecret;
use crate::identity::ca::Applicant;
use crate::model::NodeId;
use crate::store::TokenRecord;

/// Serves a node that isn't a member yet: one question, one answer.
pub(super) async fn serve(core: Arc<Core>, connection: Connection) {
    if let Err(why) = answer(&core, &connection).await {
        // What a stranger said is in it: quoted, so that it can't look like lines of ours.
        warn!(remote = %connection.remote_address(), "join refused: {why:?}");
    }
    connection.close(VarInt::from_u32(close::DONE), b"done");
}

async fn answer(core: &Core, connection: &Connection) -> Result<(), String> {
    let (bytes, mut to) = hello_bytes(connection).await?;
    let joined = match read_hello::<JoinHello>(&bytes) {
        Ok(hello) => core.join(hello).await,
        Err(refusal) => Err(refusal),
    };
    match joined {
        Ok(welcome) => {
            let answer: Result<JoinWelcome, Refusal> = Ok(welcome);
            send(&mut to, &answer)
                .await
                .map_err(|error| error.to_string())?;
            let _ = to.finish();
            // The node closes when it has its certificate.
            let _ = timeout(FRAME_PATIENCE, connection.closed()).await;
            Ok(())
        }
        Err(refusal) => {
            refuse::<JoinWelcome>(connection, to, &refusal).await;
            Err(refusal.message)
        }
    }
}

impl Core {
    /// A join that fails leaves the token as it was; one that is asked for again by the same key is answered again.
    async fn join(&self, hello: JoinHello) -> Result<JoinWelcome, Refusal> {
        let applicant =
            Applicant::from_csr(&hello.csr).map_err(|why| Refusal::new("bad_request", why))?;
        let node = applicant.node().clone();
        let _one_at_a_time = self.joining.lock().await;
        let mut token = self.find_token(&hello).await?;
        self.check_unused(&token, &node)?;
        let failed = |error| {
            tracing::error!(%error, "a node's certificate could not be made");
            Refusal::new(
                "certificate_failed",
                "the controller could not make the certificate",
            )
            .hint("see the controller's log")
        };
        let issued = self
            .authority
            .sign_node(applicant, &hello.node_name)
            .map_err(failed)?;
        token.used_by = Some(node.clone());
        let joined = (hello.node_name.as_str(), &hello.facts);
        self.ledger
            .decide_with_token(token, |map| node::join(map, &node, joined))
            .await?;
        info!(node = %hello.node_name, id = %node, underlay = %hello.facts.underlay, "node joined");
        Ok(JoinWelcome {
            cert: issued.cert.to_vec(),
            ca: issued.ca.to_vec(),
        })
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

    /// A token lets one node in. The same node may show it again, as long as it wasn't removed since.
    fn check_unused(&self, token: &TokenRecord, node: &NodeId) -> Result<(), Refusal> {
        let Some(used_by) = &token.used_by else {
            return Ok(());
        };
        let member = self
            .ledger
            .read(|map| map.nodes.get(used_by).map(|node| node.object.name.clone()));
        if used_by == node && member.is_some() {
            return Ok(());
        }
        let by = member.unwrap_or_else(|| used_by.to_string());
        Err(Refusal::new("token_used", format!("token {} was used by node {by}", token.id))
            .hint("a token lets in one node: make a new one with `weft controller token` on the controller"))
    }
}
