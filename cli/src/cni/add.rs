//! ADD: connect a container.

use std::net::IpAddr;
use std::path::Path;

use hyper::Method;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use weft_control::api::{Connect, NetnsArg, NetworkInfo, Port, Route};
use weft_control::netns::{Netns, NetnsError};

use super::Call;
use super::config::{Config, Ipam};
use super::error::{CniError, Code};
use super::lock::ContainerLock;
use super::network;
use super::result::{CniResult, Dns, Interface, Ip};
use crate::client::{ApiPath, Client};
use crate::failure::Failure;

/// Characters of a container's ID that its endpoint is named by when the runtime tells no name: what people see of it.
const SHORT_ID: usize = 12;

/// # Errors
/// Nothing of the container is left connected then.
pub(super) fn add(call: &Call<'_>) -> Result<CniResult, CniError> {
    let netns = call.netns()?;
    check_netns(netns, call.env.own_netns_is_fine)?;
    let _lock = ContainerLock::take(&call.config.socket, &call.env.container)?;
    let client = call.client()?;
    let network = network::find_or_make(call, &client)?;
    let delegate = call.delegate()?;
    if delegate.is_some() {
        // Else what comes next would end in giving back the addresses that it has.
        refuse_attached(call, &client)?;
    }
    let given = match &delegate {
        Some(delegate) => match delegate.add() {
            Ok(given) => Some(given),
            Err(error) => {
                // It may have kept something all the same; what it says now matters less.
                let _ = delegate.tell("DEL");
                return Err(error);
            }
        },
        None => None,
    };
    let wish = wish(call, netns, &network, given.as_ref());
    let path = ApiPath::new("networks")
        .segment(&call.config.network.name)
        .segment("connect");
    let port: Port = match client.send(Method::POST, &path, &wish) {
        Ok(port) => port,
        Err(failure) => {
            if let Some(delegate) = &delegate {
                let _ = delegate.tell("DEL");
            }
            return Err(unseen(failure).into());
        }
    };
    let ours = result(call, netns, &port, given);
    Ok(match call.config.prev.clone() {
        Some(prev) => prev.followed_by(ours),
        None => ours,
    })
}

/// A container that is connected already keeps what it has.
fn refuse_attached(call: &Call<'_>, client: &Client) -> Result<(), CniError> {
    let attachment = call.attachment();
    let path = ApiPath::new("attachments")
        .query("owner", &attachment.owner)
        .and_query("container", &attachment.container);
    let ports: Vec<Port> = client.get(&path)?;
    if ports
        .iter()
        .all(|port| port.attachment.as_ref() != Some(&attachment))
    {
        return Ok(());
    }
    let message = format!(
        "container {} is connected already by {}",
        call.env.container, call.env.ifname
    );
    Err(CniError::new(Code::InterfaceExists, message)
        .hint("DEL it first, or give another CNI_IFNAME"))
}

/// A namespace that isn't there is found here, before anything is done for it.
fn check_netns(path: &Path, own_is_fine: bool) -> Result<(), CniError> {
    let netns = Netns::open(&NetnsArg::Path(path.to_owned())).map_err(netns_error)?;
    let own = Netns::open(&NetnsArg::Path("/proc/self/ns/net".into())).map_err(netns_error)?;
    if own.id() == netns.id() && !own_is_fine {
        return Err(CniError::environment(
            "CNI_NETNS",
            format_args!(
                "{} is the host's own namespace, not a container's",
                path.display()
            ),
        )
        .hint("CNI_NETNS_OVERRIDE=1 says that it is meant"));
    }
    Ok(())
}

fn netns_error(error: NetnsError) -> CniError {
    let message = format!("CNI_NETNS: {error}");
    match error {
        NetnsError::NoSuchNamespace { .. } | NetnsError::NoSuchProcess { .. } => {
            CniError::new(Code::UnknownContainer, message)
        }
        NetnsError::NotANamespace { .. } => CniError::new(Code::InvalidEnvironment, message),
        NetnsError::Permission { .. } | NetnsError::System { .. } => {
            CniError::new(Code::Io, message)
        }
    }
}

/// We have just seen the namespace: an agent that doesn't looks at other mounts.
fn unseen(failure: Failure) -> Failure {
    if failure.code == "bad_netns" {
        return Failure::new("unseen_netns", format!("the agent does not see it: {}", failure.message)).hint(
            "agent and container runtime must see the same mounts of /run/netns: in a container mount it with HostToContainer propagation",
        );
    }
    failure
}

fn wish(
    call: &Call<'_>,
    netns: &Path,
    network: &NetworkInfo,
    given: Option<&CniResult>,
) -> Connect {
    let (env, config) = (call.env, call.config);
    let asked = &config.wish;
    let mut connect = Connect {
        netns: NetnsArg::Path(std::path::absolute(netns).unwrap_or_else(|_| netns.to_owned())),
        ips: asked.ips.clone(),
        mac: asked.mac,
        ifname: Some(env.ifname.clone()),
        name: None,
        base_name: Some(
            asked
                .name
                .clone()
                .unwrap_or_else(|| env.container.chars().take(SHORT_ID).collect()),
        ),
        attachment: Some(call.attachment()),
        addresses: Vec::new(),
        routes: config.routes.clone(),
        default_route: config.default_route,
        aliases: asked.aliases.clone(),
        limits: asked.limits,
        publish: asked.publish.clone(),
        allow_spoof: config.allow_spoof,
        no_offload: config.no_offload,
        dhcp: false,
        dns: false,
    };
    match given {
        Some(given) => take_over(&mut connect, config, network, given),
        None => {
            let gateways = network.subnets.iter().map(|subnet| subnet.gateway);
            through(&mut connect.routes, &gateways.collect::<Vec<_>>());
        }
    }
    connect
}

/// What an IPAM plugin chose: addresses and routes.
fn take_over(connect: &mut Connect, config: &Config, network: &NetworkInfo, given: &CniResult) {
    let gateways: Vec<IpAddr> = given.ips.iter().filter_map(|ip| ip.gateway).collect();
    connect.routes.clone_from(&given.routes);
    if config.default_route == Some(true) {
        let missing = gateways.iter().map(|gateway| default_route(*gateway));
        let missing = missing.filter(|route| !given.routes.iter().any(|r| r.dst == route.dst));
        connect.routes.extend(missing);
    }
    through(&mut connect.routes, &gateways);
    // Whoever chooses addresses says where they lead.
    connect.default_route = Some(false);
    let addresses = given.ips.iter().map(|ip| ip.address);
    if network.subnets.is_empty() {
        connect.addresses = addresses.collect();
    } else {
        connect.ips = addresses.map(|address| address.addr()).collect();
    }
}

/// Routes without a next hop lead through the gateway of their family, where there is one.
fn through(routes: &mut [Route], gateways: &[IpAddr]) {
    for route in routes {
        let fits = |gateway: &&IpAddr| gateway.is_ipv4() == route.dst.addr().is_ipv4();
        route.gateway = route
            .gateway
            .or_else(|| gateways.iter().find(fits).copied());
    }
}

fn default_route(gateway: IpAddr) -> Route {
    let everything = match gateway {
        IpAddr::V4(_) => IpNet::V4(Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(Ipv6Net::default()),
    };
    Route::new(everything, Some(gateway))
}

/// What weft did, by itself. What an IPAM plugin said is passed on as it said it.
fn result(call: &Call<'_>, netns: &Path, port: &Port, given: Option<CniResult>) -> CniResult {
    let interface = Interface {
        name: port.ifname.clone(),
        mac: port.mac.to_string(),
        sandbox: netns.display().to_string(),
        mtu: Some(u64::from(port.mtu.value())),
        ..Interface::default()
    };
    let said = given.unwrap_or_default();
    let gateway_of = |address: &IpNet| {
        let said = said
            .ips
            .iter()
            .find(|ip| ip.address.addr() == address.addr());
        match said {
            Some(said) => said.gateway,
            None => {
                let mut gateways = port.gateways.iter().copied();
                gateways.find(|gateway| address.contains(gateway))
            }
        }
    };
    let ips = port.addresses.iter().map(|address| Ip {
        address: *address,
        gateway: gateway_of(address),
        interface: Some(0),
    });
    CniResult {
        ips: ips.collect(),
        interfaces: vec![interface],
        routes: if call.config.ipam == Ipam::Weft {
            port.routes.clone()
        } else {
            said.routes
        },
        dns: match &call.config.dns {
            dns if !dns.is_empty() => dns.clone(),
            _ if call.config.ipam == Ipam::Weft && call.config.gateway_dns => Dns {
                nameservers: port.gateways.iter().map(IpAddr::to_string).collect(),
                ..Dns::default()
            },
            _ => said.dns,
        },
    }
}
