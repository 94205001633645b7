//! The fields of one request's object, read one by one so that a wrong one is answered by its name.

#![deny(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value};
use weft_wire::MacAddr;

use crate::model::brief;

use super::{
    BadCall, CreateEndpoint, CreateNetwork, EndpointRef, PortBinding, Range, RequestAddress,
    RequestPool, Side,
};

/// Options of a network as the user gave them with `-o`.
const GENERIC: &str = "com.docker.network.generic";
/// `docker network create --internal`.
const INTERNAL: &str = "com.docker.network.internal";
/// `docker run --publish`.
const PORT_MAP: &str = "com.docker.network.portmap";
/// What an address is for.
const ADDRESS_TYPE: &str = "RequestAddressType";
/// The gateway's.
const GATEWAY_TYPE: &str = "com.docker.network.gateway";
/// Docker's own ids have 64 bytes; what is longer isn't kept.
const ID_MAX_LEN: usize = 256;
/// Prefix length of the range that Docker's `null` IPAM driver gives: there are no addresses.
const NULL_POOL_LEN: u8 = 0;

/// A request's object, with what its errors need to say.
pub(super) struct Fields<'a> {
    method: &'a str,
    side: Side,
    map: Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(super) fn read(method: &'a str, side: Side, body: &[u8]) -> Result<Self, BadCall> {
        let empty = body.iter().all(u8::is_ascii_whitespace);
        let value = match empty {
            true => Value::Null,
            false => serde_json::from_slice(body).map_err(|error| {
                BadCall::Field(side, format!("{method}: the body is no JSON: {error}"))
            })?,
        };
        let map = match value {
            Value::Object(map) => map,
            Value::Null => Map::new(),
            other @ (Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
                let what = kind(&other);
                return Err(BadCall::Field(
                    side,
                    format!("{method}: the body is {what}, not an object"),
                ));
            }
        };
        Ok(Self { method, side, map })
    }

    pub(super) fn bad(&self, field: &str, why: &str) -> BadCall {
        BadCall::Field(self.side, format!("{}: field {field} {why}", self.method))
    }

    fn wrong(&self, field: &str, wanted: &str, found: &Value) -> BadCall {
        self.bad(field, &format!("is {}, not {wanted}", kind(found)))
    }

    /// Text that isn't empty.
    pub(super) fn text(&self, field: &str) -> Result<Option<String>, BadCall> {
        self.text_in(&self.map, field, field)
    }

    fn text_in(
        &self,
        map: &Map<String, Value>,
        key: &str,
        field: &str,
    ) -> Result<Option<String>, BadCall> {
        match map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(self.wrong(field, "text", other)),
        }
    }

    pub(super) fn id(&self, field: &str) -> Result<String, BadCall> {
        match self.text(field)? {
            Some(id) if id.len() <= ID_MAX_LEN => Ok(id),
            Some(_) => Err(self.bad(field, "is longer than any id")),
            None => Err(self.bad(field, "is missing")),
        }
    }

    fn flag(&self, map: &Map<String, Value>, key: &str, field: &str) -> Result<bool, BadCall> {
        match map.get(key) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(Value::String(text)) if text == "true" => Ok(true),
            Some(Value::String(text)) if text == "false" => Ok(false),
            Some(other) => Err(self.wrong(field, "true or false", other)),
        }
    }

    fn object(
        &self,
        map: &Map<String, Value>,
        key: &str,
        field: &str,
    ) -> Result<Map<String, Value>, BadCall> {
        match map.get(key) {
            None | Some(Value::Null) => Ok(Map::new()),
            Some(Value::Object(map)) => Ok(map.clone()),
            Some(other) => Err(self.wrong(field, "an object", other)),
        }
    }

    fn texts(
        &self,
        map: &Map<String, Value>,
        key: &str,
        field: &str,
    ) -> Result<BTreeMap<String, String>, BadCall> {
        let object = self.object(map, key, field)?;
        let texts = object.into_iter().map(|(name, value)| match value {
            Value::String(text) => Ok((name, text)),
            Value::Bool(flag) => Ok((name, flag.to_string())),
            Value::Number(number) => Ok((name, number.to_string())),
            Value::Null => Ok((name, String::new())),
            other @ (Value::Array(_) | Value::Object(_)) => {
                Err(self.wrong(&format!("{field}[{:?}]", brief(&name)), "text", &other))
            }
        });
        texts.collect()
    }

    /// An address, alone or with the prefix length of its subnet.
    pub(super) fn address(&self, field: &str) -> Result<Option<IpAddr>, BadCall> {
        self.address_in(&self.map, field, field)
    }

    fn address_in(
        &self,
        map: &Map<String, Value>,
        key: &str,
        field: &str,
    ) -> Result<Option<IpAddr>, BadCall> {
        let Some(text) = self.text_in(map, key, field)? else {
            return Ok(None);
        };
        self.parse_address(&text, field).map(Some)
    }

    fn parse_address(&self, text: &str, field: &str) -> Result<IpAddr, BadCall> {
        let bare = text.parse::<IpAddr>().ok();
        let with_prefix = || text.parse::<IpNet>().ok().map(|net| net.addr());
        bare.or_else(with_prefix).ok_or_else(|| {
            self.bad(
                field,
                &format!("is {:?}, which is no IP address", brief(text)),
            )
        })
    }

    fn cidr_in(
        &self,
        map: &Map<String, Value>,
        key: &str,
        field: &str,
    ) -> Result<Option<IpNet>, BadCall> {
        let Some(text) = self.text_in(map, key, field)? else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|_| {
            self.bad(
                field,
                &format!(
                    "is {:?}, which is no range such as 10.40.0.0/16",
                    brief(&text)
                ),
            )
        })
    }

    pub(super) fn endpoint(&self) -> Result<EndpointRef, BadCall> {
        Ok(EndpointRef {
            network: self.id("NetworkID")?,
            endpoint: self.id("EndpointID")?,
        })
    }

    pub(super) fn create_network(&self) -> Result<CreateNetwork, BadCall> {
        let network = self.id("NetworkID")?;
        let options = self.object(&self.map, "Options", "Options")?;
        let mut ranges = self.ranges("IPv4Data")?;
        ranges.extend(self.ranges("IPv6Data")?);
        Ok(CreateNetwork {
            network,
            internal: self.flag(&options, INTERNAL, INTERNAL)?,
            options: self.texts(&options, GENERIC, GENERIC)?,
            ranges,
        })
    }

    fn ranges(&self, field: &str) -> Result<Vec<Range>, BadCall> {
        let list = match self.map.get(field) {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(list)) => list,
            Some(other) => return Err(self.wrong(field, "a list", other)),
        };
        let mut ranges = Vec::new();
        for (index, item) in list.iter().enumerate() {
            let place = format!("{field}[{index}]");
            let Value::Object(item) = item else {
                return Err(self.wrong(&place, "an object", item));
            };
            ranges.extend(self.range(item, &place)?);
        }
        Ok(ranges)
    }

    fn range(&self, item: &Map<String, Value>, place: &str) -> Result<Option<Range>, BadCall> {
        let pool = format!("{place}.Pool");
        let Some(cidr) = self.cidr_in(item, "Pool", &pool)? else {
            return Err(self.bad(&pool, "is missing"));
        };
        if cidr.prefix_len() == NULL_POOL_LEN {
            return Ok(None);
        }
        let names = self.texts(item, "AuxAddresses", &format!("{place}.AuxAddresses"))?;
        let aux = names.into_iter().map(|(name, text)| {
            let field = format!("{place}.AuxAddresses[{:?}]", brief(&name));
            Ok((name, self.parse_address(&text, &field)?))
        });
        Ok(Some(Range {
            space: self
                .text_in(item, "AddressSpace", &format!("{place}.AddressSpace"))?
                .unwrap_or_default(),
            cidr: cidr.trunc(),
            gateway: self.address_in(item, "Gateway", &format!("{place}.Gateway"))?,
            aux: aux.collect::<Result<_, _>>()?,
        }))
    }

    pub(super) fn create_endpoint(&self) -> Result<CreateEndpoint, BadCall> {
        let of = self.endpoint()?;
        let interface = self.object(&self.map, "Interface", "Interface")?;
        let v4 = self.address_in(&interface, "Address", "Interface.Address")?;
        let v6 = self.address_in(&interface, "AddressIPv6", "Interface.AddressIPv6")?;
        let mac = self.text_in(&interface, "MacAddress", "Interface.MacAddress")?;
        let mac = mac.map(|text| {
            text.parse::<MacAddr>().map_err(|_| {
                self.bad(
                    "Interface.MacAddress",
                    &format!("is {:?}, which is no MAC address", brief(&text)),
                )
            })
        });
        Ok(CreateEndpoint {
            of,
            ips: v4.into_iter().chain(v6).collect(),
            mac: mac.transpose()?,
        })
    }

    pub(super) fn publish(&self) -> Result<Vec<PortBinding>, BadCall> {
        let options = self.object(&self.map, "Options", "Options")?;
        match options.get(PORT_MAP) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(ports)) => ports.iter().map(|port| self.port_binding(port)).collect(),
            Some(other) => Err(self.wrong(PORT_MAP, "a list", other)),
        }
    }

    fn port_binding(&self, port: &Value) -> Result<PortBinding, BadCall> {
        let Value::Object(map) = port else {
            return Err(self.wrong(PORT_MAP, "a list of objects", port));
        };
        let host_port = self.small(map, "HostPort")?;
        let end: u16 = self.small(map, "HostPortEnd")?;
        Ok(PortBinding {
            protocol: self.small(map, "Proto")?,
            port: self.small(map, "Port")?,
            host_ip: self.address_in(map, "HostIP", PORT_MAP)?,
            host_port,
            host_port_end: end.max(host_port),
        })
    }

    /// A number of a port binding; 0 when it isn't there.
    fn small<T: TryFrom<u64> + Default>(
        &self,
        map: &Map<String, Value>,
        key: &str,
    ) -> Result<T, BadCall> {
        match map.get(key) {
            None | Some(Value::Null) => Ok(T::default()),
            Some(value) => {
                let number = value.as_u64().and_then(|number| T::try_from(number).ok());
                number.ok_or_else(|| {
                    let value = brief(&value.to_string());
                    self.bad(PORT_MAP, &format!("has {key} {value}, which can't be"))
                })
            }
        }
    }

    pub(super) fn request_pool(&self) -> Result<RequestPool, BadCall> {
        let pool = self.cidr_in(&self.map, "Pool", "Pool")?;
        Ok(RequestPool {
            pool,
            sub_pool: self.cidr_in(&self.map, "SubPool", "SubPool")?,
            options: self.texts(&self.map, "Options", "Options")?,
            v6: self.flag(&self.map, "V6", "V6")?
                || pool.is_some_and(|pool| matches!(pool, IpNet::V6(_))),
        })
    }

    pub(super) fn request_address(&self) -> Result<RequestAddress, BadCall> {
        let options = self.texts(&self.map, "Options", "Options")?;
        Ok(RequestAddress {
            pool: self.id("PoolID")?,
            address: self.address("Address")?,
            gateway: options
                .get(ADDRESS_TYPE)
                .is_some_and(|of| of == GATEWAY_TYPE),
        })
    }
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
