//! The inside ports: what networks' gateways hear by.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::mpsc;
use tracing::warn;
use weft_switch::port::{Queue, service_pair};
use weft_wire::{PortId, Vni};

use super::Fabric;
use crate::model::NetworkId;

/// The inside ports: one for each network with a gateway that has ports here.
#[derive(Debug, Default)]
pub(super) struct Services {
    /// Who gets the other ends; none are made before somebody wants them.
    to: Option<mpsc::UnboundedSender<ServicePort>>,
    ports: BTreeMap<NetworkId, PortId>,
}

/// The services' end of a network's inside port. When the network goes, or this host's last port on it, the switch closes
/// its end: reading says [`Gone`](weft_switch::port::RecvError::Gone).
#[derive(Debug)]
pub(in crate::agent) struct ServicePort {
    /// The network.
    pub(in crate::agent) network: NetworkId,
    /// Frames from this host's ports for the network's gateway, and to them.
    pub(in crate::agent) queue: Queue,
}

impl Fabric {
    /// From now on services hear what ports have for the gateways of their networks, at what comes out of the channel.
    pub(in crate::agent) fn services(&mut self) -> mpsc::UnboundedReceiver<ServicePort> {
        let (to, ends) = mpsc::unbounded_channel();
        self.services.to = Some(to);
        self.make_services();
        ends
    }

    /// Gives each network with a gateway and ports here an inside port, and takes it from all others.
    pub(super) fn make_services(&mut self) {
        let Some(to) = &self.services.to else { return };
        let here: BTreeSet<Vni> = self.ports.values().map(|(_, vni)| *vni).collect();
        let networks = self.applied.networks.iter();
        let served: BTreeMap<&NetworkId, Vni> = networks
            .filter(|(vni, network)| here.contains(vni) && !network.gateways.is_empty())
            .map(|(vni, network)| (&network.id, *vni))
            .collect();
        self.services.ports.retain(|network, port| {
            let stays = served.contains_key(network);
            if !stays {
                self.switch.remove_port(*port);
            }
            stays
        });
        for (network, vni) in served {
            if self.services.ports.contains_key(network) {
                continue;
            }
            match service_pair() {
                Ok((ours, queue)) => {
                    let port = self.switch.add_services(vni, ours);
                    self.services.ports.insert(network.clone(), port);
                    let network = network.clone();
                    // Without services any more the agent stops.
                    let _ = to.send(ServicePort { network, queue });
                }
                Err(error) => warn!(%error, %vni, "the network's gateway has no services"),
            }
        }
    }
}
