//! What survived the last agent: its ports, as far as the fd holder has kept them.

use std::collections::BTreeSet;
use std::sync::Arc;

use tracing::info;

use super::AgentError;
use crate::agent::Agent;
use crate::agent::state::PortRecord;
use crate::model::EndpointId;

impl Agent {
    /// Plugs in again what survived the last agent, and forgets what didn't.
    pub(super) async fn restore(
        self: &Arc<Self>,
        records: Vec<PortRecord>,
    ) -> Result<(), AgentError> {
        let known: BTreeSet<EndpointId> = records
            .iter()
            .map(|record| record.endpoint.id.clone())
            .collect();
        for name in self.keeper.names() {
            if !known.contains(&EndpointId(name.clone())) {
                info!(port = name, "half-made port of the last agent destroyed");
                self.keeper.forget(&name);
            }
        }
        // Networks and peers first: frames have been waiting in the ports' rings.
        self.reconcile();
        let total = records.len();
        let mut restored = 0;
        for record in records {
            let id = record.endpoint.id.clone();
            let (name, netns) = (record.endpoint.name.clone(), record.netns.clone());
            let fds = self.keeper.fetch(&id.0);
            if !fds.is_empty() && self.add_port(record, fds).is_ok() {
                restored += 1;
            } else {
                info!(port = %name, %netns, "port did not survive; its addresses are free again");
                self.keeper.forget(&id.0);
            }
        }
        self.reconcile();
        if restored != total {
            self.save_ports()
                .await
                .map_err(|error| AgentError::Invalid(error.reply.message))?;
        }
        if total > 0 {
            info!(restored, lost = total - restored, "ports of the last agent");
        }
        Ok(())
    }
}
