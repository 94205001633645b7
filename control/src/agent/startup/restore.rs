//! What survived the last agent: its ports, as far as the fd holder has kept them.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use tracing::info;
use weft_switch::port;

use super::AgentError;
use crate::agent::Agent;
use crate::agent::keeper::Keeper;
use crate::agent::state::PortRecord;
use crate::model::EndpointId;

impl Agent {
    /// Plugs in again what survived the last agent, and forgets what didn't.
    pub(super) async fn restore(
        self: &Arc<Self>,
        records: Vec<PortRecord>,
    ) -> Result<(), AgentError> {
        self.forget_half_made(&records).await?;
        // Networks and peers first: frames have been waiting in the ports' rings.
        self.reconcile();
        let total = records.len();
        let mut restored = 0;
        let mut orphaned = Vec::new();
        for record in records {
            let id = record.endpoint.id.clone();
            let (name, netns) = (record.endpoint.name.clone(), record.netns.clone());
            let dns = record.dns;
            let asked = id.clone();
            let fds = self
                .ask_keeper(move |keeper| keeper.fetch(&asked.0))
                .await?
                .map_err(|_| self.unanswered())?;
            if fds.first().is_none_or(|fd| is_gone(fd.as_fd())) {
                info!(port = %name, %netns, "port did not survive; its addresses are free again");
                self.keeper.forget(&id.0);
                if dns {
                    orphaned.push(netns);
                }
                continue;
            }
            let published = (!record.published.is_empty()).then(|| record.clone());
            // Were a living port left out, its record would go, and with it the way back to it.
            self.add_port(record, fds).map_err(|error| {
                AgentError::Invalid(format!(
                    "{}; the ports of the last agent stay as they are: raise what is short (file descriptors?), then start again",
                    error.reply.message
                ))
            })?;
            if let Some(record) = published {
                self.restore_published(&record);
            }
            restored += 1;
        }
        self.reconcile();
        if restored != total {
            // What is left of dead ports is dropped at the next start again.
            let _ = self.save_ports().await;
        }
        for netns in orphaned {
            self.follow_resolv_conf(&netns);
        }
        if total > 0 {
            info!(restored, lost = total - restored, "ports of the last agent");
        }
        Ok(())
    }

    /// Ports that the fd holder has and no record knows: the last agent ended while it made them.
    async fn forget_half_made(self: &Arc<Self>, records: &[PortRecord]) -> Result<(), AgentError> {
        let known: BTreeSet<EndpointId> = records
            .iter()
            .map(|record| record.endpoint.id.clone())
            .collect();
        // What a holder that can't be asked has is not known; where nothing is to be had from it, that is no matter.
        let names = if records.is_empty() {
            self.ask_keeper(Keeper::names_if_it_answers).await?
        } else {
            let names = self.ask_keeper(Keeper::names).await?;
            names.map_err(|_| self.unanswered())?
        };
        for name in names {
            if !known.contains(&EndpointId(name.clone())) {
                info!(port = name, "half-made port of the last agent destroyed");
                self.keeper.forget(&name);
            }
        }
        Ok(())
    }

    /// Asks the fd holder away from the runtime's threads: it may take its time.
    async fn ask_keeper<T: Send + 'static>(
        self: &Arc<Self>,
        ask: impl FnOnce(&Keeper) -> T + Send + 'static,
    ) -> Result<T, AgentError> {
        let agent = Arc::clone(self);
        let asked = tokio::task::spawn_blocking(move || ask(&agent.keeper)).await;
        asked.map_err(|error| AgentError::System {
            what: "ask the fd holder",
            source: io::Error::other(error),
        })
    }

    fn unanswered(&self) -> AgentError {
        AgentError::Invalid(format!(
            "the fd holder on {}, which has the ports of the last agent, doesn't answer (see the log for the cause); they stay as they are: find out what stops it (`fuser -v` shows who has the socket), or end it to give these ports up, then start again",
            self.keeper.socket().display()
        ))
    }
}

/// Whether the device behind a file descriptor went with its namespace.
pub(in crate::agent) fn is_gone(tap: BorrowedFd<'_>) -> bool {
    port::device_name(tap).is_err_and(|error| error.raw_os_error() == Some(libc::EBADFD))
}
