//! The specification's result: what a container got. Read from `prevResult` and from IPAM plugins, written in the form
//! of each version. Pure.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value, json};
use weft_control::api::Route;

use super::version::Version;

/// A result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CniResult {
    /// Interfaces, on the host and in the container.
    pub(crate) interfaces: Vec<Interface>,
    /// Addresses.
    pub(crate) ips: Vec<Ip>,
    /// Routes.
    pub(crate) routes: Vec<Route>,
    /// Name resolution.
    pub(crate) dns: Dns,
}

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    /// Its name.
    pub(crate) name: String,
    /// Its MAC as text; empty for one without.
    pub(crate) mac: String,
    /// The container's namespace; empty for an interface of the host.
    pub(crate) sandbox: String,
    /// Its MTU in bytes (1.1.0).
    pub(crate) mtu: Option<u64>,
    /// Of a vhost-user port and the like (1.1.0).
    pub(crate) socket_path: String,
    /// Of a device (1.1.0).
    pub(crate) pci_id: String,
}

/// An address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ip {
    /// With its prefix length.
    pub(crate) address: IpNet,
    /// Of its subnet.
    pub(crate) gateway: Option<IpAddr>,
    /// Index into the interfaces.
    pub(crate) interface: Option<usize>,
}

/// Name resolution.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dns {
    /// Servers, by priority.
    pub(crate) nameservers: Vec<String>,
    /// The local domain.
    pub(crate) domain: String,
    /// Domains to search.
    pub(crate) search: Vec<String>,
    /// For the resolver.
    pub(crate) options: Vec<String>,
}

impl Dns {
    /// Nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Reads the specification's `dns` object.
    ///
    /// # Errors
    /// A sentence that says where it isn't of the expected shape.
    pub(crate) fn parse(value: &Value) -> Result<Self, String> {
        let object = Fields::of("dns", value)?;
        Ok(Self {
            nameservers: object.texts("nameservers")?,
            domain: object.text("domain")?,
            search: object.texts("search")?,
            options: object.texts("options")?,
        })
    }

    fn to_json(&self) -> Value {
        let mut object = Map::new();
        let mut list = |key: &str, texts: &[String]| {
            if !texts.is_empty() {
                object.insert(key.to_owned(), json!(texts));
            }
        };
        list("nameservers", &self.nameservers);
        list("search", &self.search);
        list("options", &self.options);
        put_text(&mut object, "domain", &self.domain);
        Value::Object(object)
    }
}

impl CniResult {
    /// Reads a result of any version that the plugin speaks: they differ only in what they leave out.
    ///
    /// # Errors
    /// A sentence that says where it isn't of the expected shape.
    pub(crate) fn parse(value: &Value) -> Result<Self, String> {
        let object = Fields::of("result", value)?;
        let result = Self {
            interfaces: object.list("interfaces", Interface::parse)?,
            ips: object.list("ips", Ip::parse)?,
            routes: object.list("routes", parse_route)?,
            dns: match object.0.get("dns") {
                None | Some(Value::Null) => Dns::default(),
                Some(dns) => Dns::parse(dns)?,
            },
        };
        let count = result.interfaces.len();
        let beyond = |ip: &&Ip| {
            ip.interface
                .is_some_and(|index| index >= count && count > 0)
        };
        match result.ips.iter().find(beyond) {
            Some(ip) => Err(format!(
                "address {} is of interface {:?}, but there are only {count}",
                ip.address, ip.interface
            )),
            None => Ok(result),
        }
    }

    /// This result with another behind it, as a chained plugin returns it: indexes follow, and name resolution is the
    /// later one's if it has any.
    pub(crate) fn followed_by(mut self, mut other: Self) -> Self {
        let shift = self.interfaces.len();
        for ip in &mut other.ips {
            ip.interface = ip.interface.map(|index| index + shift);
        }
        self.interfaces.append(&mut other.interfaces);
        self.ips.append(&mut other.ips);
        self.routes.append(&mut other.routes);
        if !other.dns.is_empty() {
            self.dns = other.dns;
        }
        self
    }

    /// In the form of one version of the specification.
    pub(crate) fn to_json(&self, version: Version) -> Value {
        let interfaces = self.interfaces.iter().map(|i| i.to_json(version));
        let ips = self.ips.iter().map(|ip| ip.to_json(version));
        let routes = self.routes.iter().map(|route| route_json(route, version));
        let mut object = Map::new();
        object.insert("cniVersion".to_owned(), json!(version.as_str()));
        for (key, list) in [
            ("interfaces", interfaces.collect::<Vec<_>>()),
            ("ips", ips.collect()),
            ("routes", routes.collect()),
        ] {
            if !list.is_empty() {
                object.insert(key.to_owned(), Value::Array(list));
            }
        }
        object.insert("dns".to_owned(), self.dns.to_json());
        Value::Object(object)
    }
}

impl Interface {
    fn parse(value: &Value) -> Result<Self, String> {
        let object = Fields::of("interfaces", value)?;
        Ok(Self {
            name: object.text("name")?,
            mac: object.text("mac")?,
            sandbox: object.text("sandbox")?,
            mtu: object.number("mtu")?,
            socket_path: object.text("socketPath")?,
            pci_id: object.text("pciID")?,
        })
    }

    fn to_json(&self, version: Version) -> Value {
        let mut object = Map::new();
        object.insert("name".to_owned(), json!(self.name));
        put_text(&mut object, "mac", &self.mac);
        put_text(&mut object, "sandbox", &self.sandbox);
        if version >= Version::V1_1_0 {
            if let Some(mtu) = self.mtu {
                object.insert("mtu".to_owned(), json!(mtu));
            }
            put_text(&mut object, "socketPath", &self.socket_path);
            put_text(&mut object, "pciID", &self.pci_id);
        }
        Value::Object(object)
    }
}

impl Ip {
    fn parse(value: &Value) -> Result<Self, String> {
        let object = Fields::of("ips", value)?;
        let address = object.text("address")?;
        Ok(Self {
            address: address
                .parse()
                .map_err(|_| format!("ips: {address:?} is no address with prefix length"))?,
            gateway: object.address("gateway")?,
            interface: match object.0.get("interface") {
                // Early plugins wrote -1 for none.
                Some(Value::Number(number)) if number.as_i64().is_some_and(|n| n < 0) => None,
                _ => object.number("interface")?.map(index),
            },
        })
    }

    fn to_json(&self, version: Version) -> Value {
        let mut object = Map::new();
        if version < Version::V1_0_0 {
            let family = if self.address.addr().is_ipv4() {
                "4"
            } else {
                "6"
            };
            object.insert("version".to_owned(), json!(family));
        }
        object.insert("address".to_owned(), json!(self.address.to_string()));
        if let Some(gateway) = self.gateway {
            object.insert("gateway".to_owned(), json!(gateway.to_string()));
        }
        if let Some(interface) = self.interface {
            object.insert("interface".to_owned(), json!(interface));
        }
        Value::Object(object)
    }
}

/// An index that no list has is as good as any other too large one.
fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// Reads a route of a result or of the `ipam` section.
///
/// # Errors
/// A sentence that says where it isn't of the expected shape.
pub(crate) fn parse_route(value: &Value) -> Result<Route, String> {
    let object = Fields::of("routes", value)?;
    let dst = object.text("dst")?;
    let mut route = Route::new(
        dst.parse()
            .map_err(|_| format!("routes: {dst:?} is no network such as 10.0.0.0/8"))?,
        object.address("gw")?,
    );
    route.mtu = object.small("mtu")?;
    route.advmss = object.small("advmss")?;
    route.priority = object.small("priority")?;
    route.table = object.small("table")?;
    route.scope = object.small("scope")?;
    Ok(route)
}

fn route_json(route: &Route, version: Version) -> Value {
    let mut object = Map::new();
    object.insert("dst".to_owned(), json!(route.dst.to_string()));
    if let Some(gateway) = route.gateway {
        object.insert("gw".to_owned(), json!(gateway.to_string()));
    }
    if version >= Version::V1_1_0 {
        for (key, value) in [
            ("mtu", route.mtu),
            ("advmss", route.advmss),
            ("priority", route.priority),
            ("table", route.table),
            ("scope", route.scope.map(u32::from)),
        ] {
            if let Some(value) = value {
                object.insert(key.to_owned(), json!(value));
            }
        }
    }
    Value::Object(object)
}

fn put_text(object: &mut Map<String, Value>, key: &str, text: &str) {
    if !text.is_empty() {
        object.insert(key.to_owned(), json!(text));
    }
}

/// The fields of an object, read with the object's name in every complaint. What is null isn't there.
pub(super) struct Fields<'a>(pub(super) &'a Map<String, Value>, &'a str);

impl<'a> Fields<'a> {
    pub(super) fn of(name: &'a str, value: &'a Value) -> Result<Self, String> {
        let object = value.as_object();
        object
            .map(|object| Self(object, name))
            .ok_or_else(|| format!("{name}: an object is expected, not {value}"))
    }

    /// Plugins in Go read keys in any case, and containerd relies on it: it writes `HostPort` and `IngressRate`.
    fn field(&self, key: &str) -> Option<&'a Value> {
        let in_any_case = || {
            let mut all = self.0.iter();
            all.find(|(name, _)| name.eq_ignore_ascii_case(key))
        };
        let found = self.0.get(key);
        let found = found.or_else(|| in_any_case().map(|(_, value)| value));
        found.filter(|value| !value.is_null())
    }

    fn wrong(&self, key: &str, want: &str, value: &Value) -> String {
        format!("{}: {key:?} wants {want}, not {value}", self.1)
    }

    /// A text; empty when it isn't there.
    pub(super) fn text(&self, key: &str) -> Result<String, String> {
        match self.field(key) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(other) => Err(self.wrong(key, "text", other)),
        }
    }

    /// A list of texts; empty when it isn't there.
    pub(super) fn texts(&self, key: &str) -> Result<Vec<String>, String> {
        let want = "a list of texts";
        let Some(value) = self.field(key) else {
            return Ok(Vec::new());
        };
        let list = value
            .as_array()
            .ok_or_else(|| self.wrong(key, want, value))?;
        list.iter()
            .map(|item| {
                let text = item.as_str();
                text.map(str::to_owned)
                    .ok_or_else(|| self.wrong(key, want, item))
            })
            .collect()
    }

    fn list<T>(
        &self,
        key: &str,
        parse: impl Fn(&Value) -> Result<T, String>,
    ) -> Result<Vec<T>, String> {
        match self.field(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(parse).collect(),
            Some(other) => Err(self.wrong(key, "a list", other)),
        }
    }

    /// True or false, if it is there.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, String> {
        match self.field(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.wrong(key, "true or false", other)),
        }
    }

    /// A number, if it is there.
    pub(super) fn number(&self, key: &str) -> Result<Option<u64>, String> {
        match self.field(key) {
            None => Ok(None),
            Some(value) => {
                let number = value.as_u64();
                let number = number.ok_or_else(|| self.wrong(key, "a whole number", value))?;
                Ok(Some(number))
            }
        }
    }

    /// A number that fits its type, if it is there.
    pub(super) fn small<T: TryFrom<u64>>(&self, key: &str) -> Result<Option<T>, String> {
        let Some(number) = self.number(key)? else {
            return Ok(None);
        };
        let fits = T::try_from(number);
        fits.map(Some)
            .map_err(|_| self.wrong(key, "a smaller number", &json!(number)))
    }

    /// An address, if it is there.
    fn address(&self, key: &str) -> Result<Option<IpAddr>, String> {
        let text = self.text(key)?;
        if text.is_empty() {
            return Ok(None);
        }
        let address = text.parse();
        address
            .map(Some)
            .map_err(|_| self.wrong(key, "an IP address", &json!(text)))
    }

    /// What [`Self::texts`] reads, or one text by itself.
    pub(super) fn text_or_texts(&self, key: &str) -> Result<Vec<String>, String> {
        match self.field(key) {
            Some(Value::String(text)) => Ok(vec![text.clone()]),
            _ => self.texts(key),
        }
    }

    /// Any value, if it is there.
    pub(super) fn value(&self, key: &str) -> Option<&'a Value> {
        self.field(key)
    }

    /// Routes, of this object's list of that name.
    pub(super) fn routes(&self, key: &str) -> Result<Vec<Route>, String> {
        self.list(key, parse_route)
    }
}

#[cfg(test)]
mod tests;
