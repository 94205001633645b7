//! `weft network`: overlay networks and what is connected to them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use hyper::Method;
use serde_json::json;
use weft_control::api::{
    Connect, Disconnect, NetnsArg, NetworkChange, NetworkCreate, NetworkDetail, NetworkInfo, Port,
    Pruned,
};

use super::Session;
use crate::args::network::{self as args, Network, Vtep};
use crate::args::port::Direction;
use crate::client::ApiPath;
use crate::failure::Failure;
use crate::render;

/// # Errors
/// No agent answers, or what was asked is refused; `rm` and `inspect` go on after a failure.
pub(super) fn run(session: &Session, verb: Network) -> Result<(), Vec<Failure>> {
    match verb {
        Network::Create(flags) => Ok(create(session, flags)?),
        Network::Ls { quiet } => Ok(list(session, quiet)?),
        Network::Inspect(args::Names { names }) => session.inspect::<NetworkDetail>(&names, of),
        Network::Rm(args::Names { names }) => session.remove_each("networks", &names),
        Network::Prune => Ok(prune(session)?),
        Network::Set(flags) => Ok(set(session, &flags)?),
        Network::Connect(flags) => Ok(connect(session, flags)?),
        Network::Disconnect(flags) => Ok(disconnect(session, flags)?),
        Network::Vtep(verb) => Ok(vtep(session, &verb)?),
    }
}

fn of(network: &str) -> ApiPath {
    ApiPath::new("networks").segment(network)
}

fn create(session: &Session, flags: args::Create) -> Result<(), Failure> {
    let wish = NetworkCreate {
        name: flags.name,
        subnets: flags.subnets,
        ip_ranges: flags.ip_ranges,
        gateways: flags.gateways,
        aux_addresses: by_name(flags.aux_addresses)?,
        vni: flags.vni,
        encrypted: flags.encrypted,
        internal: flags.internal,
        isolate: flags.isolate,
        egress: flags.egress,
        mtu: flags.mtu,
        ageing_secs: flags.ageing,
        made_by: None,
    };
    let made: NetworkInfo = session
        .client
        .send(Method::POST, &ApiPath::new("networks"), &wish)?;
    render::show(session.json, &made, |made| render::line(&made.name))
}

/// One address for each name.
fn by_name(pairs: Vec<(String, IpAddr)>) -> Result<BTreeMap<String, IpAddr>, Failure> {
    let mut addresses = BTreeMap::new();
    for (name, ip) in pairs {
        if let Some(before) = addresses.insert(name.clone(), ip) {
            let message = format!("--aux-address {name} is given twice: {before} and {ip}");
            return Err(Failure::new("usage", message).hint("take a name for each address"));
        }
    }
    Ok(addresses)
}

fn list(session: &Session, quiet: bool) -> Result<(), Failure> {
    let networks: Vec<NetworkInfo> = session.client.get(&ApiPath::new("networks"))?;
    if quiet {
        let names: Vec<_> = networks.into_iter().map(|network| network.name).collect();
        return render::show(session.json, &names, |names| render::lines(names));
    }
    render::show(session.json, &networks, |networks| {
        render::network::table(networks)
    })
}

fn prune(session: &Session) -> Result<(), Failure> {
    let pruned: Pruned = session
        .client
        .request(Method::POST, &ApiPath::new("networks-prune"))?;
    render::removed(session.json, &pruned.removed)
}

fn set(session: &Session, flags: &args::Set) -> Result<(), Failure> {
    let change = NetworkChange {
        mtu: flags.mtu,
        ageing_secs: flags.ageing,
        egress: flags.egress,
    };
    let now: NetworkInfo = session
        .client
        .send(Method::PATCH, &of(&flags.name), &change)?;
    render::show(session.json, &now, |now| render::line(&now.name))
}

fn connect(session: &Session, flags: args::Connect) -> Result<(), Failure> {
    let container = flags.netns.or(flags.pid.map(NetnsArg::Pid));
    let Some(netns) = container else {
        return Err(Failure::new("usage", "connect wants --netns or --pid"));
    };
    let wish = Connect {
        netns,
        ips: flags.ips,
        mac: flags.mac,
        ifname: flags.ifname,
        name: flags.endpoint,
        base_name: None,
        attachment: None,
        addresses: Vec::new(),
        routes: Vec::new(),
        default_route: None,
        aliases: flags.aliases,
        no_offload: flags.no_offload,
        dhcp: flags.dhcp,
        dns: flags.dns,
        limits: super::port::limits(flags.rate, Direction::Both),
        publish: flags
            .publish
            .into_iter()
            .flat_map(|range| range.0)
            .collect(),
        allow_spoof: flags.allow_spoof,
    };
    let path = of(&flags.network).segment("connect");
    let port: Port = session.client.send(Method::POST, &path, &wish)?;
    render::show(session.json, &port, render::port::connected)
}

fn disconnect(session: &Session, flags: args::Disconnect) -> Result<(), Failure> {
    let wish = Disconnect {
        netns: flags.netns.or(flags.pid.map(NetnsArg::Pid)),
        name: flags.endpoint,
    };
    let path = of(&flags.network).segment("disconnect");
    let port: Port = session.client.send(Method::POST, &path, &wish)?;
    render::show(session.json, &port, |port| render::line(&port.name))
}

fn vtep(session: &Session, verb: &Vtep) -> Result<(), Failure> {
    let (method, vtep) = match verb {
        Vtep::Add(vtep) => (Method::PUT, vtep),
        Vtep::Rm(vtep) => (Method::DELETE, vtep),
        Vtep::Ls { network } => {
            let vteps: Vec<IpAddr> = session.client.get(&of(network).segment("vteps"))?;
            return render::show(session.json, &vteps, |vteps| render::lines(vteps));
        }
    };
    let path = of(&vtep.network).segment("vteps").segment(vtep.address);
    session.client.request::<serde_json::Value>(method, &path)?;
    let done = json!({ "network": vtep.network, "address": vtep.address });
    render::show(session.json, &done, |_| render::line(vtep.address))
}
