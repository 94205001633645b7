//! What the runtime says in the environment: which command, for which container. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use weft_wire::MacAddr;

use super::error::{CniError, Code};

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Connect a container.
    Add,
    /// Disconnect it.
    Del,
    /// Is it connected as it was told?
    Check,
    /// Disconnect all containers of the network but these.
    Gc,
    /// Can containers be added?
    Status,
    /// Which versions of the specification are spoken?
    Version,
}

/// The environment as far as it counts for the command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Env {
    /// `CNI_COMMAND`.
    pub(crate) command: Command,
    /// `CNI_CONTAINERID`; empty where the command is about no container.
    pub(crate) container: String,
    /// `CNI_NETNS`.
    pub(crate) netns: Option<PathBuf>,
    /// `CNI_IFNAME`; empty where the command is about no container.
    pub(crate) ifname: String,
    /// `CNI_ARGS`.
    pub(crate) args: Args,
    /// `CNI_PATH`: where plugins are.
    pub(crate) path: Vec<PathBuf>,
    /// `CNI_NETNS_OVERRIDE`: the runtime means it when it names the plugin's own namespace.
    pub(crate) own_netns_is_fine: bool,
}

/// `CNI_ARGS`: wishes for one container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Args {
    /// `IP`.
    pub(crate) ips: Vec<IpAddr>,
    /// `MAC`.
    pub(crate) mac: Option<MacAddr>,
    /// `K8S_POD_NAME`: what people call the container; podman passes the container's name.
    pub(crate) pod_name: Option<String>,
}

/// Keys that runtimes pass and that mean nothing to us.
const IGNORED_ARGS: [&str; 4] = [
    "IGNOREUNKNOWN",
    "K8S_POD_NAMESPACE",
    "K8S_POD_INFRA_CONTAINER_ID",
    "K8S_POD_UID",
];

impl Env {
    /// Reads the environment through `var`; an empty variable is one that isn't there.
    ///
    /// # Errors
    /// Code 4: what the command needs isn't there or can't be used.
    pub(crate) fn read(var: impl Fn(&str) -> Option<String>) -> Result<Self, CniError> {
        let var = |name: &str| var(name).filter(|value| !value.is_empty());
        let command = command(var("CNI_COMMAND").as_deref())?;
        let about_container = matches!(command, Command::Add | Command::Del | Command::Check);
        let needed: &[&str] = match command {
            Command::Add | Command::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
            Command::Del => &["CNI_CONTAINERID", "CNI_IFNAME"],
            Command::Gc | Command::Status | Command::Version => &[],
        };
        let missing: Vec<&str> = needed
            .iter()
            .copied()
            .filter(|name| var(name).is_none())
            .collect();
        if !missing.is_empty() {
            return Err(CniError::environment(
                &missing.join(", "),
                "required environment variables are missing",
            )
            .hint("the container runtime sets them; to try the plugin by hand see docs/cni.md"));
        }
        let of_container = |name| var(name).filter(|_| about_container).unwrap_or_default();
        let env = Self {
            command,
            container: of_container("CNI_CONTAINERID"),
            netns: var("CNI_NETNS")
                .filter(|_| about_container)
                .map(PathBuf::from),
            ifname: of_container("CNI_IFNAME"),
            // What was wrong with it at ADD must not stand in the way of DEL.
            args: match (command, var("CNI_ARGS")) {
                (Command::Add, Some(text)) => Args::parse(&text)?,
                _ => Args::default(),
            },
            path: var("CNI_PATH")
                .map(|path| std::env::split_paths(&path).collect())
                .unwrap_or_default(),
            own_netns_is_fine: var("CNI_NETNS_OVERRIDE")
                .is_some_and(|value| value == "1" || value.eq_ignore_ascii_case("true")),
        };
        if about_container {
            check_container(&env.container)?;
            check_ifname(&env.ifname)?;
        }
        Ok(env)
    }
}

fn command(text: Option<&str>) -> Result<Command, CniError> {
    match text {
        Some("ADD") => Ok(Command::Add),
        Some("DEL") => Ok(Command::Del),
        Some("CHECK") => Ok(Command::Check),
        Some("GC") => Ok(Command::Gc),
        Some("STATUS") => Ok(Command::Status),
        Some("VERSION") => Ok(Command::Version),
        Some(other) => Err(CniError::environment(
            "CNI_COMMAND",
            format_args!("unknown command {other:?}"),
        )
        .hint("known commands: ADD, DEL, CHECK, GC, STATUS, VERSION")),
        None => Err(CniError::environment("CNI_COMMAND", "it is not set")),
    }
}

/// The specification's form: alphanumeric first, then alphanumeric, `_`, `.` or `-`.
fn check_container(id: &str) -> Result<(), CniError> {
    if is_identifier(id) {
        return Ok(());
    }
    Err(CniError::environment(
        "CNI_CONTAINERID",
        format_args!(
            "{id:?} is no container ID: it takes letters, digits, '_', '.' and '-', the first a letter or digit"
        ),
    ))
}

/// Whether a text has the form that the specification wants of container IDs and network names.
pub(crate) fn is_identifier(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    text.bytes().all(good) && text.starts_with(|c: char| c.is_ascii_alphanumeric())
}

fn check_ifname(ifname: &str) -> Result<(), CniError> {
    let good = ifname.len() <= 15
        && !matches!(ifname, "." | "..")
        && ifname
            .chars()
            .all(|c| !matches!(c, '/' | ':') && !c.is_whitespace() && !c.is_control());
    if good {
        return Ok(());
    }
    Err(CniError::environment(
        "CNI_IFNAME",
        format_args!(
            "{ifname:?} is no interface name: it takes up to 15 bytes without '/', ':' or space, and not \".\" or \"..\""
        ),
    ))
}

impl Args {
    /// Reads `K=V;K=V`. Unknown keys are refused unless `IgnoreUnknown` is set (CNI conventions).
    fn parse(text: &str) -> Result<Self, CniError> {
        let mut pairs = BTreeMap::new();
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(CniError::environment(
                    "CNI_ARGS",
                    format_args!("{pair:?} is no KEY=VALUE"),
                ));
            };
            pairs.insert(key.to_ascii_uppercase(), value);
        }
        let ignore_unknown = pairs
            .get("IGNOREUNKNOWN")
            .is_some_and(|value| *value == "1" || value.eq_ignore_ascii_case("true"));
        let mut args = Self::default();
        for (key, value) in pairs {
            let wrong = |what: &str| {
                CniError::environment("CNI_ARGS", format_args!("{key}={value}: no {what}"))
            };
            match key.as_str() {
                "IP" => {
                    for ip in value.split(',').filter(|ip| !ip.is_empty()) {
                        args.ips
                            .push(address(ip).ok_or_else(|| wrong("IP address"))?);
                    }
                }
                "MAC" => args.mac = Some(value.parse().map_err(|_| wrong("MAC address"))?),
                "K8S_POD_NAME" => args.pod_name = Some(value.to_owned()).filter(|n| !n.is_empty()),
                key if IGNORED_ARGS.contains(&key) || ignore_unknown => {}
                key => {
                    return Err(CniError::new(
                        Code::InvalidEnvironment,
                        format!("CNI_ARGS: unknown key {key}"),
                    )
                    .hint("known keys: IP, MAC, K8S_POD_NAME; IgnoreUnknown=1 lets others pass"));
                }
            }
        }
        Ok(args)
    }
}

/// An address with or without a prefix length.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    match text.split_once('/') {
        Some(_) => text.parse::<ipnet::IpNet>().ok().map(|net| net.addr()),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests;
