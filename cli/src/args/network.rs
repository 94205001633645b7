//! `weft network`: overlay networks and what is connected to them, in docker's words.

use std::net::IpAddr;

use clap::builder::NonEmptyStringValueParser;
use clap::{ArgGroup, Args, Subcommand};
use ipnet::IpNet;
use weft_control::api::{NetnsArg, PublishRange};
use weft_control::model::Egress;
use weft_wire::{MacAddr, Mtu, Vni};

use super::port::RateFlags;
use super::values;

/// What can be done with networks.
#[derive(Debug, Subcommand)]
pub(crate) enum Network {
    /// Create a network; without --subnet it is plain L2: no addresses, no gateway, no spoof check
    Create(Create),
    /// List networks
    #[command(visible_alias = "list")]
    Ls {
        /// Only their names, one per line
        #[arg(short, long)]
        quiet: bool,
    },
    /// Print all that is known of networks, as a JSON array
    Inspect(Names),
    /// Remove networks that nothing is connected to
    #[command(visible_alias = "remove")]
    Rm(Names),
    /// Remove all networks that nothing is connected to
    Prune,
    /// Change a network
    Set(Set),
    /// Connect a network namespace: gives it an interface and addresses
    Connect(Connect),
    /// Disconnect a network namespace or endpoint
    Disconnect(Disconnect),
    /// Static VTEPs: tunnel ends that no agent runs (kernel VXLAN device, hardware switch, OVS)
    #[command(subcommand)]
    Vtep(Vtep),
}

/// One or more networks.
#[derive(Debug, Args)]
pub(crate) struct Names {
    /// Names of the networks
    #[arg(required = true, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) names: Vec<String>,
}

/// Flags of `weft network create`.
#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Its name, unique in the cluster
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) name: String,
    /// Address range, IPv4 or IPv6; repeat for several
    #[arg(long = "subnet", value_name = "CIDR")]
    pub(crate) subnets: Vec<IpNet>,
    /// Part of a subnet that automatic addresses are taken from
    #[arg(long = "ip-range", value_name = "CIDR", requires = "subnets")]
    pub(crate) ip_ranges: Vec<IpNet>,
    /// Gateway address of a subnet [default: its first address]
    #[arg(long = "gateway", value_name = "IP", requires = "subnets")]
    pub(crate) gateways: Vec<IpAddr>,
    /// Address of a subnet that no endpoint gets, and whose it is; repeat for several
    #[arg(long = "aux-address", value_name = "NAME=IP", requires = "subnets")]
    #[arg(value_parser = values::named_address)]
    pub(crate) aux_addresses: Vec<(String, IpAddr)>,
    /// VXLAN network identifier, 1 to 16777215 [default: a free one]
    #[arg(long, value_name = "N")]
    pub(crate) vni: Option<Vni>,
    /// Frames between hosts travel encrypted, or not at all
    #[arg(long)]
    pub(crate) encrypted: bool,
    /// No way out: endpoints get no default route
    #[arg(long)]
    pub(crate) internal: bool,
    /// Endpoints reach the gateway and what is behind it, not each other
    #[arg(long, requires = "subnets")]
    pub(crate) isolate: bool,
    /// How endpoints reach the outside: by sockets of their host (nat), by the host's own port on the network, so that
    /// its kernel routes (kernel; see `weft expose`), or not at all (off)
    #[arg(long, value_name = "nat|kernel|off", default_value = "nat", value_parser = values::egress)]
    pub(crate) egress: Egress,
    /// MTU inside the network, in bytes [default: follows the underlay]
    #[arg(long, value_name = "N")]
    pub(crate) mtu: Option<Mtu>,
    /// Seconds after which a learned MAC is forgotten [default: 300]
    #[arg(long, value_name = "SECS")]
    pub(crate) ageing: Option<u32>,
}

/// Flags of `weft network set`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("change").args(["mtu", "ageing", "egress"]).required(true).multiple(true))]
pub(crate) struct Set {
    /// Name of the network
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) name: String,
    /// MTU inside the network, in bytes
    #[arg(long, value_name = "N")]
    pub(crate) mtu: Option<Mtu>,
    /// Seconds after which a learned MAC is forgotten
    #[arg(long, value_name = "SECS")]
    pub(crate) ageing: Option<u32>,
    /// How endpoints reach the outside: by sockets of their host (nat), by the host's own port on the network, so that
    /// its kernel routes (kernel; see `weft expose`), or not at all (off)
    #[arg(long, value_name = "nat|kernel|off", value_parser = values::egress)]
    pub(crate) egress: Option<Egress>,
}

/// Flags of `weft network connect`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("container").args(["netns", "pid"]).required(true))]
pub(crate) struct Connect {
    /// Name of the network
    #[arg(value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) network: String,
    /// The container's namespace: a name as `ip netns` has it, or a path
    #[arg(long, value_name = "NAME|PATH", value_parser = values::netns)]
    pub(crate) netns: Option<NetnsArg>,
    /// The namespace of this process
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) pid: Option<u32>,
    /// Fixed address, one per subnet at most; repeat for several
    #[arg(long = "ip", value_name = "IP")]
    pub(crate) ips: Vec<IpAddr>,
    /// Fixed MAC address
    #[arg(long)]
    pub(crate) mac: Option<MacAddr>,
    /// Name of the interface in the container [default: eth0, or the next free ethN]
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) ifname: Option<String>,
    /// Name of the endpoint, unique in the network [default: made from the namespace]
    #[arg(long = "name", value_name = "N", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) endpoint: Option<String>,
    /// Further name of the endpoint; repeat for several
    #[arg(long = "alias", value_name = "A", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) aliases: Vec<String>,
    /// Let it send from any address: for a VM with more of them, or a container that routes
    #[arg(long)]
    pub(crate) allow_spoof: bool,
    /// Connect clients of a port of this host with a port of the container, /tcp or /udp; ranges, and options
    /// ,proxy=v1|v2 (PROXY protocol) and ,source=client (clients keep their addresses); repeat for several
    #[arg(short, long, value_name = "[IP:]HOSTPORT:PORT")]
    pub(crate) publish: Vec<PublishRange>,
    /// A plain TAP: frames exactly as on the wire, slower
    #[arg(long)]
    pub(crate) no_offload: bool,
    /// Write /etc/netns/NAME/resolv.conf, so that programs run by `ip netns exec` ask the network's name server
    #[arg(long)]
    pub(crate) dns: bool,
    /// Leave the interface without addresses and routes: the namespace asks for them by DHCP
    #[arg(long)]
    pub(crate) dhcp: bool,
    /// No faster than this, both ways
    #[command(flatten)]
    pub(crate) rate: RateFlags,
}

/// Flags of `weft expose`.
#[derive(Debug, Args)]
pub(crate) struct Expose {
    /// Name of the network
    #[arg(value_name = "NETWORK", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) network: String,
    /// Fixed address, one per subnet at most; repeat for several
    #[arg(long = "ip", value_name = "IP")]
    pub(crate) ips: Vec<IpAddr>,
    /// Name of the interface [default: weft- and the network's name, as far as it fits]
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) ifname: Option<String>,
    /// Name of the endpoint, unique in the network [default: the node's name]
    #[arg(long = "name", value_name = "N", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) endpoint: Option<String>,
    /// Further name of the endpoint; repeat for several
    #[arg(long = "alias", value_name = "A", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) aliases: Vec<String>,
}

/// `weft hide`.
#[derive(Debug, Args)]
pub(crate) struct Hide {
    /// Name of the network
    #[arg(value_name = "NETWORK", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) network: String,
}

/// Flags of `weft network disconnect`.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("container").args(["netns", "pid", "endpoint"]).required(true))]
pub(crate) struct Disconnect {
    /// Name of the network
    #[arg(value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) network: String,
    /// The container's namespace: a name as `ip netns` has it, or a path
    #[arg(long, value_name = "NAME|PATH", value_parser = values::netns)]
    pub(crate) netns: Option<NetnsArg>,
    /// The namespace of this process
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) pid: Option<u32>,
    /// Name of the endpoint
    #[arg(long = "name", value_name = "N", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) endpoint: Option<String>,
}

/// What can be done with static VTEPs.
#[derive(Debug, Subcommand)]
pub(crate) enum Vtep {
    /// Add a static VTEP to a network
    Add(VtepOf),
    /// Remove a static VTEP from a network
    #[command(visible_alias = "remove")]
    Rm(VtepOf),
    /// List the static VTEPs of a network
    #[command(visible_alias = "list")]
    Ls {
        /// Name of the network
        #[arg(value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
        network: String,
    },
}

/// One static VTEP of a network.
#[derive(Debug, Args)]
pub(crate) struct VtepOf {
    /// Name of the network
    #[arg(value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) network: String,
    /// Underlay address of the VTEP
    #[arg(value_name = "IP")]
    pub(crate) address: IpAddr,
}
