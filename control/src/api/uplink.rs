//! Links of this host that are bridged into networks.

use serde::{Deserialize, Serialize};
use weft_wire::Vni;

use super::Traffic;

/// A link to be bridged into a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkAdd {
    /// The network's name.
    pub network: String,
    /// The link's name in the agent's namespace.
    pub dev: String,
}

/// A link of this host that is bridged into a network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Uplink {
    /// The network's name.
    pub network: String,
    /// VNI of the network, while it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<Vni>,
    /// The link's name.
    pub dev: String,
    /// `up`, or what is wrong with it. It is tried again every second.
    pub state: String,
    /// Counters from the link's side: `rx` came in by it.
    #[serde(flatten)]
    pub traffic: Traffic,
}
