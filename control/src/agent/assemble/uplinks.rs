//! Physical interfaces in networks (`weft uplink add`).

use tracing::{info, warn};
use weft_switch::Place;
use weft_switch::port::{link_mac, open_link};
use weft_wire::PortId;

use super::Fabric;
use crate::agent::uplink::UplinkRecord;

impl Fabric {
    /// Plugs in the links that are wanted, and pulls out those that aren't any more.
    pub(super) fn make_uplinks(&mut self) {
        let wanted = &self.applied.uplinks;
        self.uplinks.retain(|record, port| {
            let stays = wanted.contains_key(record);
            if let (false, Ok(port)) = (stays, port) {
                self.switch.remove_port(*port);
            }
            stays
        });
        for (record, vni) in wanted {
            if let Some(Ok(_)) = self.uplinks.get(record) {
                continue;
            }
            let port = match open_link(&record.dev) {
                Ok(queue) => {
                    let port = self.switch.add_uplink(*vni, queue);
                    // What is for the host itself is known to be there, and isn't looked for.
                    if let Some(mac) = link_mac(&record.dev) {
                        self.switch.own_mac(*vni, mac, Place::Port(port), 0);
                    }
                    Ok(port)
                }
                Err(error) => Err(format!("{} can't be had: {error}", record.dev)),
            };
            let before = self.uplinks.insert(record.clone(), port.clone());
            match port {
                Ok(_) => info!(dev = %record.dev, network = %record.network_name, "uplink is up"),
                // Said once, tried every second.
                Err(why) if before != Some(Err(why.clone())) => {
                    warn!(network = %record.network_name, "uplink: {why}");
                }
                Err(_) => {}
            }
        }
    }

    /// The port of an uplink, or why it has none.
    pub(in crate::agent) fn uplink(
        &self,
        record: &UplinkRecord,
    ) -> Option<&Result<PortId, String>> {
        self.uplinks.get(record)
    }

    /// The link behind a port, if it is an uplink's.
    pub(in crate::agent) fn uplink_behind(&self, port: PortId) -> Option<&UplinkRecord> {
        let of = self.uplinks.iter().find(|(_, of)| **of == Ok(port))?;
        Some(of.0)
    }

    /// Whether an uplink can't be had at the moment.
    pub(in crate::agent) fn lacks_uplinks(&self) -> bool {
        self.uplinks.values().any(Result::is_err)
    }

    /// The link behind a port is down or gone: pulls the port out. False if it is no uplink.
    pub(in crate::agent) fn lose_uplink(&mut self, port: PortId) -> bool {
        let lost = self.uplinks.iter_mut().find(|(_, of)| **of == Ok(port));
        let Some((record, of)) = lost else {
            return false;
        };
        *of = Err(format!("{} is down or gone", record.dev));
        warn!(dev = %record.dev, network = %record.network_name, "uplink is down or gone");
        self.switch.remove_port(port);
        true
    }
}
