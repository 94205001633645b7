//! A Docker network as the cluster is asked for it, and whether the network that is there already is that one.

#![deny(clippy::disallowed_methods)]

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::options::Options;
use super::wire::CreateNetwork;
use crate::api::NetworkCreate;
use crate::model::{Network, Transport};

/// What a Docker network is to be in the cluster. It is kept, so that a network that was removed elsewhere while it had no
/// containers can be made again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// As it is asked for when it isn't there.
    pub create: NetworkCreate,
    /// What must be so if it is there; `None` leaves it.
    pub encrypted: Option<bool>,
    /// The same.
    pub internal: Option<bool>,
    /// The same: containers don't talk to each other.
    #[serde(default)]
    pub isolate: Option<bool>,
    /// Default route and published ports are weft's.
    #[serde(default)]
    pub gateway: bool,
}

impl Wish {
    /// From what Docker was told. `ip_ranges` are the parts of the ranges that addresses come from, which Docker tells the
    /// IPAM driver only.
    ///
    /// # Errors
    /// A sentence: there is neither a name nor a range to make one from.
    pub fn of(
        call: &CreateNetwork,
        options: &Options,
        ip_ranges: Vec<IpNet>,
    ) -> Result<Self, String> {
        let subnets: Vec<IpNet> = call.ranges.iter().map(|range| range.cidr).collect();
        let name = match (&options.network, subnets.first()) {
            (Some(name), _) => name.clone(),
            (None, Some(first)) => derived_name(*first),
            (None, None) => {
                return Err("a network without a subnet needs a name for the overlay that it is on: give -o weft.network=NAME".to_owned());
            }
        };
        let internal = match (call.internal, options.internal) {
            (true, Some(false)) => {
                return Err("--internal and -o internal=false contradict each other".to_owned());
            }
            (true, _) => Some(true),
            (false, option) => option,
        };
        let gateways: Vec<IpAddr> = call
            .ranges
            .iter()
            .filter_map(|range| range.gateway)
            .collect();
        Ok(Self {
            create: NetworkCreate {
                name,
                subnets,
                ip_ranges,
                gateways,
                vni: options.vni,
                encrypted: options.encrypted.unwrap_or_default(),
                internal: internal.unwrap_or_default(),
                isolate: options.isolate.unwrap_or_default(),
                mtu: options.mtu,
                ..NetworkCreate::default()
            },
            encrypted: options.encrypted,
            internal,
            isolate: options.isolate,
            gateway: options.gateway.unwrap_or_default(),
        })
    }

    /// Whether `network` is what is wished.
    ///
    /// # Errors
    /// A sentence that names the first difference and what to do about it.
    pub fn check(&self, network: &Network) -> Result<(), String> {
        let name = &network.name;
        let differs = |what: &str, is: String, asked: String| {
            Err(format!(
                "network {name} is in the cluster already and its {what} is {is}, not {asked}: give the same on every host, or another -o weft.network (`weft network inspect {name}` shows it)"
            ))
        };
        let mut have: Vec<IpNet> = network.subnets.iter().map(|subnet| subnet.cidr).collect();
        let mut want = self.create.subnets.clone();
        have.sort();
        want.sort();
        if have != want {
            return differs("subnet", list(&have), list(&want));
        }
        for subnet in &network.subnets {
            let asked = |ip: &&IpAddr| subnet.cidr.contains(*ip);
            if let Some(asked) = self.create.gateways.iter().find(asked)
                && *asked != subnet.gateway
            {
                return differs("gateway", subnet.gateway.to_string(), asked.to_string());
            }
            let asked = |range: &&IpNet| subnet.cidr.contains(*range);
            if let Some(asked) = self.create.ip_ranges.iter().find(asked)
                && *asked != subnet.pool()
            {
                return differs("IP range", subnet.pool().to_string(), asked.to_string());
            }
        }
        if let Some(asked) = self.create.vni.filter(|vni| *vni != network.vni) {
            return differs("VNI", network.vni.to_string(), asked.to_string());
        }
        if self.create.mtu.is_some() && self.create.mtu != network.mtu {
            let text = |mtu: Option<weft_wire::Mtu>| {
                mtu.map_or_else(
                    || "not set (it follows the path)".to_owned(),
                    |mtu| mtu.to_string(),
                )
            };
            return differs("MTU", text(network.mtu), text(self.create.mtu));
        }
        let encrypted = network.transport == Transport::Quic;
        let flags = [
            ("encryption", self.encrypted, encrypted),
            ("being internal", self.internal, network.internal),
            ("isolation", self.isolate, network.isolate),
        ];
        for (what, asked, is) in flags {
            if let Some(asked) = asked.filter(|asked| *asked != is) {
                return differs(what, yes(is), yes(asked));
            }
        }
        Ok(())
    }
}

/// The name of an overlay whose Docker network doesn't say one: the same on every host that names the same range.
pub fn derived_name(range: IpNet) -> String {
    let text = range.to_string();
    let text = text.replace("::", "-").replace([':', '/'], "-");
    format!("net-{text}")
}

fn list(subnets: &[IpNet]) -> String {
    let texts: Vec<String> = subnets.iter().map(IpNet::to_string).collect();
    match texts.as_slice() {
        [] => "none".to_owned(),
        _ => texts.join(", "),
    }
}

fn yes(flag: bool) -> String {
    if flag { "on" } else { "off" }.to_owned()
}

#[cfg(test)]
mod tests;
