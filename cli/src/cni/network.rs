//! The weft network of a configuration: found, or made when the configuration says how; never another one than it asks
//! for.

use std::fmt::Display;

use hyper::Method;
use ipnet::IpNet;
use weft_control::api::{NetworkCreate, NetworkDetail, NetworkInfo};

use super::Call;
use super::error::CniError;
use crate::client::{ApiPath, Client};
use crate::failure::Failure;

/// # Errors
/// There is none and the configuration doesn't say how it is made, or it isn't as the configuration says.
pub(super) fn find_or_make(call: &Call<'_>, client: &Client) -> Result<NetworkInfo, CniError> {
    let create = &call.config.network;
    let path = ApiPath::new("networks").segment(&create.name);
    let found = match client.get::<NetworkDetail>(&path) {
        Ok(found) => Ok(found.network),
        Err(failure) if failure.code == "unknown_network" && !create.subnets.is_empty() => {
            match client.send(Method::POST, &ApiPath::new("networks"), create) {
                // Somebody else was first.
                Err(failure) if failure.code == "name_taken" => client
                    .get::<NetworkDetail>(&path)
                    .map(|found| found.network),
                made => made,
            }
        }
        Err(failure) => Err(missing(failure)),
    };
    let network = found.map_err(CniError::from)?;
    check(create, &network)?;
    Ok(network)
}

fn missing(failure: Failure) -> Failure {
    if failure.code == "unknown_network" {
        return failure.hint("make it with `weft network create`, or say in the network configuration how it is to be made (\"subnet\")");
    }
    failure
}

/// Whether a network is what the configuration asks for, in every key that it has. What it doesn't mention may be as it
/// is: a network that is encrypted is so for those who didn't ask, too.
fn check(asked: &NetworkCreate, network: &NetworkInfo) -> Result<(), CniError> {
    let differs = |key: &str, is: &dyn Display, asked: &dyn Display| {
        let why = format_args!(
            "network {} is there, and has {is}, not {asked}",
            network.name
        );
        let hint = format!("correct \"{key}\", or leave it out to take the network as it is");
        Err(CniError::config(key, why).hint(hint))
    };
    let has: Vec<IpNet> = network.subnets.iter().map(|subnet| subnet.cidr).collect();
    let mut wanted = asked.subnets.iter();
    if let Some(other) = wanted.find(|subnet| !has.contains(&subnet.trunc())) {
        return differs("subnet", &list(&has), other);
    }
    let gateways: Vec<_> = network
        .subnets
        .iter()
        .map(|subnet| subnet.gateway)
        .collect();
    if let Some(other) = asked.gateways.iter().find(|ip| !gateways.contains(ip)) {
        return differs("gateway", &list(&gateways), other);
    }
    let ranges: Vec<_> = network
        .subnets
        .iter()
        .map(|subnet| subnet.ip_range.unwrap_or(subnet.cidr))
        .collect();
    let mut wanted = asked.ip_ranges.iter();
    if let Some(other) = wanted.find(|range| !ranges.contains(&range.trunc())) {
        return differs("ipRange", &list(&ranges), other);
    }
    if let Some(vni) = asked.vni.filter(|vni| *vni != network.vni) {
        return differs("vni", &network.vni, &vni);
    }
    if let Some(mtu) = asked.mtu
        && !(network.mtu_set && network.mtu == mtu)
    {
        return match network.mtu_set {
            true => differs("mtu", &network.mtu, &mtu),
            false => differs("mtu", &"one that follows the path", &mtu),
        };
    }
    for (key, asked, is) in [
        ("encrypted", asked.encrypted, network.encrypted),
        ("internal", asked.internal, network.internal),
        ("isolate", asked.isolate, network.isolate),
    ] {
        if asked && !is {
            return differs(key, &is, &asked);
        }
    }
    Ok(())
}

fn list<T: ToString>(items: &[T]) -> String {
    let texts: Vec<String> = items.iter().map(ToString::to_string).collect();
    match texts.as_slice() {
        [] => "none".to_owned(),
        _ => texts.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn there() -> NetworkInfo {
        serde_json::from_value(json!({
            "name": "pods", "id": "1", "vni": 4096,
            "subnets": [{ "cidr": "10.46.0.0/16", "gateway": "10.46.0.1" }],
            "transport": "vxlan", "encrypted": false, "internal": false,
            "mtu": 1450, "mtu_set": false, "ageing_secs": 300, "vteps": [], "endpoints": 0,
        }))
        .unwrap()
    }

    #[test]
    fn a_network_that_is_less_than_was_asked_for_is_refused() {
        let create = |more: serde_json::Value| -> NetworkCreate {
            let mut create = json!({ "name": "pods" });
            for (key, value) in more.as_object().unwrap() {
                create[key] = value.clone();
            }
            serde_json::from_value(create).unwrap()
        };
        for (more, key) in [
            (json!({ "subnets": ["10.47.0.0/16"] }), "subnet"),
            (json!({ "gateways": ["10.46.0.9"] }), "gateway"),
            (json!({ "ip_ranges": ["10.46.1.0/24"] }), "ipRange"),
            (json!({ "vni": 4097 }), "vni"),
            (json!({ "mtu": 1450 }), "mtu"),
            (json!({ "encrypted": true }), "encrypted"),
            (json!({ "internal": true }), "internal"),
            (json!({ "isolate": true }), "isolate"),
        ] {
            let error = check(&create(more.clone()), &there()).unwrap_err();
            assert!(error.message.contains(key), "{more}: {}", error.message);
            assert!(!error.details.is_empty());
        }
        for fine in [
            json!({}),
            json!({ "subnets": ["10.46.3.0/16"], "gateways": ["10.46.0.1"], "vni": 4096 }),
            json!({ "encrypted": false }),
        ] {
            check(&create(fine), &there()).unwrap();
        }
    }
}
