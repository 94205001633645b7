//! What a runtime asks for one container by capability (`runtimeConfig`; CNI conventions).

use serde_json::Value;
use weft_control::api::{Limits, PortProtocol, Publish, RateLimit};

use super::super::error::CniError;
use super::super::result::Fields;
use super::{Ipam, invalid};

/// A list, or, as podman has it, lists by the networks' names.
pub(super) fn aliases(asked: &Fields<'_>) -> Result<Vec<String>, CniError> {
    match asked.value("aliases") {
        Some(Value::Object(networks)) => {
            let mut all = Vec::new();
            for name in networks.keys() {
                let of = Fields::of(
                    "runtimeConfig.aliases",
                    asked.value("aliases").unwrap_or(&Value::Null),
                );
                all.extend(of.and_then(|of| of.texts(name)).map_err(invalid)?);
            }
            Ok(all)
        }
        _ => asked.texts("aliases").map_err(invalid),
    }
}

/// Rates are in bits per second, bursts in bits; ingress is what the container gets (CNI conventions).
pub(super) fn bandwidth(asked: &Fields<'_>) -> Result<Limits, CniError> {
    let Some(bandwidth) = asked.value("bandwidth") else {
        return Ok(Limits::default());
    };
    let asked = Fields::of("runtimeConfig.bandwidth", bandwidth).map_err(invalid)?;
    let limit = |rate: &str, burst: &str| -> Result<Option<RateLimit>, CniError> {
        let rate = asked.number(rate).map_err(invalid)?.unwrap_or(0);
        let burst = asked.number(burst).map_err(invalid)?.unwrap_or(0);
        Ok((rate > 0).then_some(RateLimit {
            bits_per_sec: rate,
            burst_bytes: (burst > 0).then(|| burst.div_ceil(8)),
        }))
    };
    Ok(Limits {
        to_port: limit("ingressRate", "ingressBurst")?,
        from_port: limit("egressRate", "egressBurst")?,
    })
}

/// Ports of the host. A mapping without a port of the host is a note of what the container serves, as in the reference
/// plugin.
pub(super) fn port_mappings(asked: &Fields<'_>) -> Result<Vec<Publish>, CniError> {
    let mappings = match asked.value("portMappings") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(mappings)) => mappings,
        Some(other) => {
            return Err(CniError::config(
                "portMappings",
                format_args!("{other} is no list"),
            ));
        }
    };
    let all = mappings.iter().map(port_mapping);
    all.filter_map(Result::transpose).collect()
}

fn port_mapping(mapping: &Value) -> Result<Option<Publish>, CniError> {
    let wrong = |why: String| CniError::config("portMappings", format_args!("{mapping}: {why}"));
    let fields = Fields::of("runtimeConfig.portMappings", mapping).map_err(wrong)?;
    let port = |key: &str| {
        let number = fields.number(key).map_err(wrong)?.unwrap_or(0);
        u16::try_from(number).map_err(|_| wrong(format!("{key} {number} is no port")))
    };
    let host_port = port("hostPort")?;
    if host_port == 0 {
        return Ok(None);
    }
    let protocol = match fields
        .text("protocol")
        .map_err(wrong)?
        .to_lowercase()
        .as_str()
    {
        "" | "tcp" => PortProtocol::Tcp,
        "udp" => PortProtocol::Udp,
        other => {
            return Err(
                CniError::unsupported("runtimeConfig.portMappings", mapping).hint(format!(
                    "weft publishes tcp and udp; for {other} chain the plugin \"portmap\""
                )),
            );
        }
    };
    let ip = match fields.text("hostIP").map_err(wrong)?.as_str() {
        "" => None,
        text => Some(
            text.parse()
                .map_err(|_| wrong(format!("hostIP {text:?} is no IP address")))?,
        ),
    };
    let publish = Publish {
        ip,
        host_port,
        port: port("containerPort")?,
        protocol,
        proxy: None,
        keep_source: false,
    };
    publish.check().map_err(wrong)?;
    Ok(Some(publish))
}

/// Capabilities that the configuration claims for weft, that the runtime therefore uses, and that weft doesn't have.
pub(super) fn refuse_unsupported(asked: &Fields<'_>, ipam: &Ipam) -> Result<(), CniError> {
    let wanted = |key: &str| {
        let value = asked.value(key)?;
        let nothing = match value {
            Value::Array(list) => list.is_empty(),
            Value::Object(object) => object.is_empty(),
            Value::String(text) => text.is_empty(),
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        };
        (!nothing).then_some(value)
    };
    if let Some(value) = wanted("deviceID") {
        return Err(CniError::unsupported("runtimeConfig.deviceID", value).hint(
            "weft makes the interface itself: take this capability out of its configuration",
        ));
    }
    if *ipam == Ipam::Weft
        && let Some(value) = wanted("ipRanges")
    {
        return Err(CniError::unsupported("runtimeConfig.ipRanges", value)
            .hint("a network's range is given when it is made (\"ipRange\"); or use the IPAM plugin \"host-local\""));
    }
    Ok(())
}
