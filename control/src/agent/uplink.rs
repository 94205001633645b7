//! Uplinks: links of this host that are bridged into networks. They are this host's own business: the cluster doesn't
//! know of them, and a new agent takes them up again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use serde::{Deserialize, Serialize};
use tracing::info;
use weft_wire::PortId;

use super::plan::Wanted;
use super::{Agent, ApiError, Inner};
use crate::api;
use crate::model::NetworkId;

/// How often a link that can't be had is tried again.
const TRY_EVERY: Duration = Duration::from_secs(1);

/// An uplink as it survives the agent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct UplinkRecord {
    /// The network.
    pub(super) network: NetworkId,
    /// Its name when it was added, for people.
    pub(super) network_name: String,
    /// The link's name.
    pub(super) dev: String,
}

impl Agent {
    /// `weft uplink add`.
    ///
    /// # Errors
    /// [`ApiError`]; nothing is changed then.
    pub(super) async fn uplink_add(
        self: &Arc<Self>,
        wish: api::UplinkAdd,
    ) -> Result<api::Uplink, ApiError> {
        let network = self.find_network(&wish.network).await?;
        if if_nametoindex(wish.dev.as_str()).is_err() {
            return Err(ApiError::not_found(
                "no_such_link",
                format!("this host has no link {}", wish.dev),
            )
            .hint("see `ip link` in the namespace that the agent runs in"));
        }
        let _heard = self.hear_of(&network).await?;
        let record = UplinkRecord {
            network: network.id,
            network_name: network.name,
            dev: wish.dev,
        };
        {
            let mut inner = self.inner();
            // One link in two networks would join them; the same link twice would double every frame.
            if let Some(other) = inner.uplinks.iter().find(|other| other.dev == record.dev) {
                return Err(ApiError::conflict(
                    "link_taken",
                    format!(
                        "{} is an uplink of network {} already",
                        record.dev, other.network_name
                    ),
                )
                .hint(format!(
                    "`weft uplink rm {} --dev {}` ends that",
                    other.network_name, other.dev
                )));
            }
            if inner
                .ports
                .values()
                .any(|port| port.record.netns == "host" && port.record.ifname == record.dev)
            {
                return Err(ApiError::conflict(
                    "link_taken",
                    format!(
                        "{} is this host's own port (`weft expose`): it would be bridged with itself",
                        record.dev
                    ),
                ));
            }
            inner.uplinks.insert(record.clone());
        }
        if let Err(error) = self.save_ports().await {
            self.inner().uplinks.remove(&record);
            return Err(error);
        }
        info!(network = %record.network_name, dev = %record.dev, "uplink added");
        self.follow_uplinks().await?;
        self.uplink_view(&record)
    }

    /// `weft uplink rm`.
    ///
    /// # Errors
    /// [`ApiError`]; it is no uplink, or that can't be written down.
    pub(super) async fn uplink_rm(
        self: &Arc<Self>,
        network: &str,
        dev: &str,
    ) -> Result<api::Uplink, ApiError> {
        let fits = |record: &&UplinkRecord| record.network_name == network && record.dev == dev;
        let found = self.inner().uplinks.iter().find(fits).cloned();
        let Some(record) = found else {
            return Err(ApiError::not_found(
                "no_such_uplink",
                format!("{dev} is no uplink of network {network} on this host"),
            )
            .hint("see `weft uplink ls`"));
        };
        let view = self.uplink_view(&record)?;
        self.inner().uplinks.remove(&record);
        if let Err(error) = self.save_ports().await {
            self.inner().uplinks.insert(record);
            return Err(error);
        }
        info!(network, dev, "uplink removed");
        self.follow_uplinks().await?;
        Ok(view)
    }

    /// Makes the fabric follow, before the answer says that it does.
    async fn follow_uplinks(self: &Arc<Self>) -> Result<(), ApiError> {
        let agent = Arc::clone(self);
        super::attach::blocking(move || {
            agent.reconcile();
            Ok(())
        })
        .await
    }

    /// `weft uplink ls`.
    pub(super) fn uplinks(&self) -> Vec<api::Uplink> {
        let records: Vec<UplinkRecord> = self.inner().uplinks.iter().cloned().collect();
        let views = records.iter().map(|record| self.uplink_view(record));
        views.filter_map(Result::ok).collect()
    }

    fn uplink_view(&self, record: &UplinkRecord) -> Result<api::Uplink, ApiError> {
        let inner = self.inner();
        let fabric = self.fabric();
        let network = inner.map.network(&record.network);
        let (state, traffic) = match (network, fabric.uplink(record)) {
            (None, _) => (
                "the network was removed".to_owned(),
                api::Traffic::default(),
            ),
            (Some(_), Some(Ok(port))) => ("up".to_owned(), fabric.port_traffic(*port)),
            (Some(_), Some(Err(why))) => (why.clone(), api::Traffic::default()),
            (Some(_), None) => ("starting".to_owned(), api::Traffic::default()),
        };
        Ok(api::Uplink {
            network: record.network_name.clone(),
            vni: network.map(|network| network.vni),
            dev: record.dev.clone(),
            state,
            traffic,
        })
    }

    /// A port of the switch is gone: if it is an uplink it is tried again. False if it is none.
    pub(super) fn uplink_gone(&self, port: PortId) -> bool {
        self.fabric().lose_uplink(port)
    }
}

/// Tries again what can't be had, until the agent stops.
pub(super) async fn watch(agent: Arc<Agent>) {
    loop {
        tokio::time::sleep(TRY_EVERY).await;
        if agent.fabric().lacks_uplinks() {
            agent.changed.notify_one();
        }
    }
}

/// Adds the uplinks to what is wanted. The gateway of a network with an uplink is a router of that LAN: ours would answer
/// in its place.
pub(super) fn plan_uplinks(inner: &Inner, wanted: &mut Wanted) {
    let mut uplinked = BTreeSet::new();
    for record in &inner.uplinks {
        if let Some(network) = inner.map.network(&record.network) {
            uplinked.insert(network.vni);
            wanted.uplinks.insert(record.clone(), network.vni);
        }
    }
    for vni in uplinked {
        if let Some(network) = wanted.networks.get_mut(&vni) {
            network.gateways.clear();
        }
    }
}
