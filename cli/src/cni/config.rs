//! The network configuration that the runtime hands over on standard input. Pure: what is missing or wrong is found
//! here, before anything is done.

mod runtime;

use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::Value;
use weft_control::api::{self, Limits, NetworkCreate, Publish, Route};
use weft_wire::MacAddr;

use super::env::{Args, Command, address, is_identifier};
use super::error::{CniError, Code};
use super::result::{CniResult, Dns, Fields};
use super::version::Version;

/// Who chooses addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ipam {
    /// The cluster: each node from its own blocks.
    Weft,
    /// The plugin of that name.
    Delegated(String),
}

/// A configuration that makes sense by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// Of the specification.
    pub(crate) version: Version,
    /// The configuration's name: whose attachments these are.
    pub(crate) name: String,
    /// The weft network, and how it is made when it isn't there; without subnets it isn't made.
    pub(crate) network: NetworkCreate,
    /// The agent's socket.
    pub(crate) socket: PathBuf,
    /// Default routes: as the network is when `None`.
    pub(crate) default_route: Option<bool>,
    /// A plain TAP instead of one with offloads.
    pub(crate) no_offload: bool,
    /// The container may send from other addresses than its own.
    pub(crate) allow_spoof: bool,
    /// The network's gateways are name servers, and the result says so where nobody says otherwise.
    pub(crate) gateway_dns: bool,
    /// Who chooses addresses.
    pub(crate) ipam: Ipam,
    /// Routes of the `ipam` section, when weft itself chooses addresses.
    pub(crate) routes: Vec<Route>,
    /// What is asked for this container.
    pub(crate) wish: Wish,
    /// `dns`, of the runtime or of the configuration.
    pub(crate) dns: Dns,
    /// What the plugins before this one did; at CHECK and DEL what the whole chain did.
    pub(crate) prev: Option<CniResult>,
    /// At GC: containers and interfaces that stay.
    pub(crate) valid: Option<Vec<(String, String)>>,
}

/// What is asked for one container, by `runtimeConfig`, `args` or `CNI_ARGS`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wish {
    /// Fixed addresses.
    pub(crate) ips: Vec<IpAddr>,
    /// Fixed MAC.
    pub(crate) mac: Option<MacAddr>,
    /// Further names.
    pub(crate) aliases: Vec<String>,
    /// What to call it.
    pub(crate) name: Option<String>,
    /// How fast it may be.
    pub(crate) limits: Limits,
    /// Ports of the host that lead to it.
    pub(crate) publish: Vec<Publish>,
}

impl Config {
    /// Reads a configuration for one command.
    ///
    /// # Errors
    /// Code 6 when it is no JSON object, 1 for a version that isn't spoken or lacks the command, 7 for what is missing
    /// or wrong, 2 for what isn't supported.
    pub(crate) fn read(bytes: &[u8], command: Command, args: &Args) -> Result<Self, CniError> {
        let value: Value = serde_json::from_slice(bytes).map_err(|error| {
            CniError::new(
                Code::Decode,
                format!("the network configuration on standard input is no JSON: {error}"),
            )
        })?;
        let object = Fields::of("network configuration", &value)
            .map_err(|what| CniError::new(Code::Decode, what))?;
        let version = version_of(&object, command)?;
        let name = object.text("name").map_err(invalid)?;
        if !is_identifier(&name) {
            return Err(CniError::config(
                "name",
                match name.as_str() {
                    "" => "it is missing".to_owned(),
                    name => format!(
                        "{name:?} is no name: it takes letters, digits, '_', '.' and '-', the first a letter or digit"
                    ),
                },
            ));
        }
        if command == Command::Add {
            known(&object)?;
        }
        let network = network(&object, &name)?;
        let (ipam, routes) = ipam(&object)?;
        let wish = match command {
            Command::Add => wish(&object, args, &ipam)?,
            Command::Del | Command::Check | Command::Gc | Command::Status | Command::Version => {
                Wish::default()
            }
        };
        Ok(Self {
            version,
            name,
            network,
            socket: match object.text("socket").map_err(invalid)?.as_str() {
                "" => PathBuf::from(api::DEFAULT_SOCKET),
                path => PathBuf::from(path),
            },
            default_route: object.flag("defaultRoute").map_err(invalid)?,
            no_offload: object.flag("offload").map_err(invalid)? == Some(false),
            allow_spoof: object.flag("allowSpoof").map_err(invalid)?.unwrap_or(false),
            gateway_dns: object.flag("gatewayDns").map_err(invalid)?.unwrap_or(true),
            ipam,
            routes,
            wish,
            dns: dns(&object)?,
            prev: prev(&object, command)?,
            valid: match command {
                Command::Gc => Some(valid(&object)?),
                Command::Add
                | Command::Del
                | Command::Check
                | Command::Status
                | Command::Version => None,
            },
        })
    }

    /// The mark of this configuration's ports.
    pub(crate) fn owner(&self) -> String {
        format!("cni:{}", self.name)
    }
}

/// What a configuration may hold by the specification and its conventions.
const STANDARD_KEYS: [&str; 14] = [
    "cniVersion",
    "cniVersions",
    "name",
    "type",
    "args",
    "capabilities",
    "runtimeConfig",
    "prevResult",
    "ipMasq",
    "ipam",
    "dns",
    "disableCheck",
    "disableGC",
    "loadOnlyInlinedPlugins",
];
/// What it may hold for weft.
const OWN_KEYS: [&str; 14] = [
    "network",
    "subnet",
    "ipRange",
    "gateway",
    "vni",
    "encrypted",
    "internal",
    "isolate",
    "mtu",
    "socket",
    "defaultRoute",
    "offload",
    "allowSpoof",
    "gatewayDns",
];

/// A key that nobody knows is refused, so that `"encryptd": true` isn't taken for encryption.
fn known(object: &Fields<'_>) -> Result<(), CniError> {
    let mut keys = object.0.iter();
    // Those of runtimes have a name of their own in front.
    let known = |key: &str| STANDARD_KEYS.contains(&key) || OWN_KEYS.contains(&key);
    let unknown = keys.find(|(key, _)| !known(key) && !key.contains(['/', '.']));
    match unknown {
        Some((key, value)) => {
            Err(CniError::unsupported(key, value)
                .hint(format!("weft knows: {}", OWN_KEYS.join(", "))))
        }
        None => Ok(()),
    }
}

/// The version that a configuration names, whatever else it holds: for errors and for VERSION.
pub(crate) fn version_text(bytes: &[u8]) -> Option<String> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    Some(value.get("cniVersion")?.as_str()?.to_owned())
}

fn invalid(what: String) -> CniError {
    CniError::new(Code::InvalidConfig, what)
}

fn version_of(object: &Fields<'_>, command: Command) -> Result<Version, CniError> {
    let text = object
        .text("cniVersion")
        .map_err(|what| CniError::new(Code::Decode, what))?;
    let spoken = format!("weft speaks {}", Version::list());
    let version = Version::parse(&text).ok_or_else(|| {
        let what = match text.as_str() {
            "" => "\"cniVersion\" is missing in the network configuration (which means 0.1.0)"
                .to_owned(),
            text => format!("CNI version {text:?} is not supported"),
        };
        CniError::new(Code::IncompatibleVersion, what).hint(&spoken)
    })?;
    let (word, since) = match command {
        Command::Check => ("CHECK", Version::V0_4_0),
        Command::Gc => ("GC", Version::V1_1_0),
        Command::Status => ("STATUS", Version::V1_1_0),
        Command::Add | Command::Del | Command::Version => return Ok(version),
    };
    if version < since {
        let what = format!("CNI version {version} has no {word}: it came with {since}");
        return Err(CniError::new(Code::IncompatibleVersion, what).hint(spoken));
    }
    Ok(version)
}

fn network(object: &Fields<'_>, name: &str) -> Result<NetworkCreate, CniError> {
    let parsed = |key: &str, want: &str| -> Result<Vec<String>, CniError> {
        let texts = object.text_or_texts(key).map_err(invalid)?;
        match texts.iter().any(String::is_empty) {
            true => Err(CniError::config(key, format_args!("it wants {want}"))),
            false => Ok(texts),
        }
    };
    let network = object.text("network").map_err(invalid)?;
    let create = NetworkCreate {
        name: if network.is_empty() {
            name.to_owned()
        } else {
            network
        },
        subnets: each(
            "subnet",
            "a network such as 10.32.0.0/16",
            parsed("subnet", "a network")?,
        )?,
        ip_ranges: each(
            "ipRange",
            "a network such as 10.32.8.0/21",
            parsed("ipRange", "a network")?,
        )?,
        gateways: each(
            "gateway",
            "an IP address",
            parsed("gateway", "an IP address")?,
        )?,
        vni: match object.small::<u32>("vni").map_err(invalid)? {
            None => None,
            Some(vni) => {
                Some(weft_wire::Vni::new(vni).map_err(|error| CniError::config("vni", error))?)
            }
        },
        encrypted: object.flag("encrypted").map_err(invalid)?.unwrap_or(false),
        internal: object.flag("internal").map_err(invalid)?.unwrap_or(false),
        isolate: object.flag("isolate").map_err(invalid)?.unwrap_or(false),
        mtu: match object.small::<u32>("mtu").map_err(invalid)? {
            None => None,
            Some(mtu) => {
                Some(weft_wire::Mtu::new(mtu).map_err(|error| CniError::config("mtu", error))?)
            }
        },
        ..NetworkCreate::default()
    };
    Ok(create)
}

fn each<T: std::str::FromStr>(
    key: &str,
    want: &str,
    texts: Vec<String>,
) -> Result<Vec<T>, CniError> {
    let wrong = |text: &str| CniError::config(key, format_args!("{text:?} is not {want}"));
    texts
        .into_iter()
        .map(|text| text.parse().map_err(|_| wrong(&text)))
        .collect()
}

fn ipam(object: &Fields<'_>) -> Result<(Ipam, Vec<Route>), CniError> {
    let Some(value) = object.value("ipam") else {
        return Ok((Ipam::Weft, Vec::new()));
    };
    let section = Fields::of("ipam", value).map_err(invalid)?;
    let kind = section.text("type").map_err(invalid)?;
    match kind.as_str() {
        "" if section.0.is_empty() => Ok((Ipam::Weft, Vec::new())),
        "" => Err(CniError::config("ipam", "\"type\" is missing")
            .hint("\"weft\", or the name of an IPAM plugin such as \"host-local\"")),
        "weft" => Ok((Ipam::Weft, section.routes("routes").map_err(invalid)?)),
        // A name becomes a file's: it must not lead elsewhere.
        kind if is_identifier(kind) => Ok((Ipam::Delegated(kind.to_owned()), Vec::new())),
        kind => Err(CniError::config(
            "ipam",
            format_args!("\"type\": {kind:?} is no name of a plugin"),
        )),
    }
}

fn dns(object: &Fields<'_>) -> Result<Dns, CniError> {
    if let Some(runtime) = object.value("runtimeConfig")
        && let Some(asked) = Fields::of("runtimeConfig", runtime)
            .map_err(invalid)?
            .value("dns")
    {
        // The capability has words of its own (CNI conventions).
        let asked = Fields::of("runtimeConfig.dns", asked).map_err(invalid)?;
        let dns = Dns {
            nameservers: asked.texts("servers").map_err(invalid)?,
            domain: String::new(),
            search: asked.texts("searches").map_err(invalid)?,
            options: asked.texts("options").map_err(invalid)?,
        };
        if !dns.is_empty() {
            return Ok(dns);
        }
    }
    match object.value("dns") {
        None => Ok(Dns::default()),
        Some(dns) => Dns::parse(dns).map_err(invalid),
    }
}

fn prev(object: &Fields<'_>, command: Command) -> Result<Option<CniResult>, CniError> {
    let read = match object.value("prevResult") {
        None if command == Command::Check => {
            return Err(CniError::config(
                "prevResult",
                "it is missing: CHECK compares with it",
            ));
        }
        None => return Ok(None),
        Some(value) => CniResult::parse(value),
    };
    match read {
        Ok(result) => Ok(Some(result)),
        // DEL must not fail for what it doesn't need.
        Err(_) if command == Command::Del => Ok(None),
        Err(what) => Err(CniError::new(Code::Decode, format!("prevResult: {what}"))),
    }
}

/// The key was `cni.dev/attachments` in a draft; libcni writes both.
fn valid(object: &Fields<'_>) -> Result<Vec<(String, String)>, CniError> {
    const KEY: &str = "cni.dev/valid-attachments";
    let value = object
        .value(KEY)
        .or_else(|| object.value("cni.dev/attachments"));
    let list = value.and_then(Value::as_array).ok_or_else(|| {
        CniError::config(KEY, "GC wants the list of attachments that stay")
            .hint("an empty list takes all of this network's away")
    })?;
    let read = |item: &Value| -> Result<(String, String), String> {
        let item = Fields::of(KEY, item)?;
        Ok((item.text("containerID")?, item.text("ifname")?))
    };
    list.iter()
        .map(read)
        .collect::<Result<_, _>>()
        .map_err(invalid)
}

/// `runtimeConfig` before `args` before `CNI_ARGS` (CNI conventions).
fn wish(object: &Fields<'_>, env: &Args, ipam: &Ipam) -> Result<Wish, CniError> {
    let empty = Value::Object(serde_json::Map::new());
    let runtime = object.value("runtimeConfig").unwrap_or(&empty);
    let asked = Fields::of("runtimeConfig", runtime).map_err(invalid)?;
    runtime::refuse_unsupported(&asked, ipam)?;
    let args = object.value("args").and_then(|args| args.get("cni"));
    let args = Fields::of("args.cni", args.unwrap_or(&empty)).map_err(invalid)?;
    let ips = first_of([asked.texts("ips"), args.texts("ips")])?;
    let addresses = ips
        .iter()
        .map(|text| {
            address(text).ok_or_else(|| {
                CniError::config("ips", format_args!("{text:?} is not an IP address"))
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let mac = [asked.text("mac"), args.text("mac")]
        .into_iter()
        .collect::<Result<Vec<_>, _>>()
        .map_err(invalid)?;
    let mac = mac.into_iter().find(|mac| !mac.is_empty());
    let mac = mac.map(|text| {
        text.parse()
            .map_err(|_| CniError::config("mac", format_args!("{text:?} is not a MAC address")))
    });
    Ok(Wish {
        ips: if addresses.is_empty() {
            env.ips.clone()
        } else {
            addresses
        },
        mac: mac.transpose()?.or(env.mac),
        aliases: runtime::aliases(&asked)?,
        name: env.pod_name.clone(),
        limits: runtime::bandwidth(&asked)?,
        publish: runtime::port_mappings(&asked)?,
    })
}

fn first_of(lists: [Result<Vec<String>, String>; 2]) -> Result<Vec<String>, CniError> {
    let [first, second] = lists;
    let first = first.map_err(invalid)?;
    if first.is_empty() {
        second.map_err(invalid)
    } else {
        Ok(first)
    }
}

#[cfg(test)]
mod tests;
