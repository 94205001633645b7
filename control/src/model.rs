//! What a cluster knows: nodes, networks, subnet blocks and endpoints, and the map that holds them.
//!
//! The controller owns the map and gives every change a revision; agents hold a copy. An object carries the revision
//! that last changed it. Nothing here does IO: both sides apply the same [`Change`]s to the same [`ClusterMap`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use weft_wire::{MacAddr, Mtu, Vni};

mod blocks;
mod endpoints;
mod excerpt;
mod router;

pub use blocks::Blocks;
pub use endpoints::Endpoints;
pub use excerpt::Coverage;
pub use router::{Router, StaticRoute};

/// Counts the changes of a cluster: 0 is the empty map, each accepted change has the next number.
pub type Revision = u64;

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub String);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id! {
    /// A cluster: 32 hexadecimal digits, minted by its first controller. Two cluster ids never merge.
    ClusterId
}
text_id! {
    /// A node: the first 16 bytes of the SHA-256 of its public key (SubjectPublicKeyInfo), in hexadecimal.
    NodeId
}
text_id! {
    /// A network: 16 hexadecimal digits, minted by the controller; a network made anew under an old name has a new id.
    NetworkId
}
text_id! {
    /// An endpoint: 16 hexadecimal digits, minted by the agent that has its port.
    EndpointId
}

text_id! {
    /// A router: 16 hexadecimal digits, minted by the controller.
    RouterId
}

/// How frames travel between hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// VXLAN over UDP in clear (RFC 7348).
    Vxlan,
    /// ESP in UDP (RFC 4303, RFC 3948), keyed by a QUIC session with mutual TLS (RFC 9000).
    Quic,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Vxlan => "vxlan",
            Self::Quic => "quic",
        })
    }
}

/// How a network's endpoints reach the outside.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Egress {
    /// By sockets of each endpoint's own host.
    #[default]
    Nat,
    /// By the kernel of each endpoint's own host, through the port that the host has on the network: the operator's
    /// routes, and his address translation, if any.
    Kernel,
    /// Not at all: what they send there is refused.
    Off,
}

impl fmt::Display for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nat => "nat",
            Self::Kernel => "kernel",
            Self::Off => "off",
        })
    }
}

/// A host that runs an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// From its key.
    pub id: NodeId,
    /// Unique in the cluster.
    pub name: String,
    /// Where its tunnels end; unique in the cluster.
    pub underlay: IpAddr,
    /// MTU of the link that has `underlay`, in bytes.
    pub underlay_mtu: Mtu,
    /// UDP port on which it takes VXLAN.
    pub vxlan_port: u16,
    /// UDP port on which it takes encrypted tunnels, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted_port: Option<u16>,
    /// What its agent can carry.
    pub transports: Vec<Transport>,
    /// Version of its agent, for people.
    pub version: String,
}

impl Node {
    /// The UDP port on which it takes encrypted tunnels; `None` if its agent can't protect a network.
    pub fn takes_encrypted(&self) -> Option<u16> {
        self.encrypted_port
            .filter(|_| self.transports.contains(&Transport::Quic))
    }
}

/// One address range of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// The range; its host bits are zero.
    pub cidr: IpNet,
    /// Where blocks are taken from; all of `cidr` when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_range: Option<IpNet>,
    /// Inside `cidr`, never given to an endpoint.
    pub gateway: IpAddr,
    /// Addresses that are somebody else's (a router's, a printer's), by name: never given to an endpoint either.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub aux_addresses: BTreeMap<String, IpAddr>,
}

impl Subnet {
    /// For whom an address is kept.
    pub fn reserved_for(&self, ip: IpAddr) -> Option<&str> {
        let mut reserved = self.aux_addresses.iter();
        reserved.find_map(|(name, reserved)| (*reserved == ip).then_some(name.as_str()))
    }

    /// What an address of the range that no endpoint may have is instead.
    pub fn role_of(&self, ip: IpAddr) -> String {
        match self.reserved_for(ip) {
            _ if ip == self.gateway => "the gateway".to_owned(),
            Some(name) => format!("reserved for {name} (--aux-address)"),
            None => "the network or broadcast address".to_owned(),
        }
    }

    /// Where automatic addresses come from.
    pub fn pool(&self) -> IpNet {
        self.ip_range.unwrap_or(self.cidr)
    }

    /// Whether an endpoint may have `ip`: inside the range and none of network, broadcast, gateway and reserved address.
    pub fn is_host_address(&self, ip: IpAddr) -> bool {
        if !self.cidr.contains(&ip) || ip == self.gateway || self.reserved_for(ip).is_some() {
            return false;
        }
        match (self.cidr, ip) {
            (IpNet::V4(net), IpAddr::V4(ip)) => {
                net.prefix_len() >= 31 || (ip != net.network() && ip != net.broadcast())
            }
            // The all-zeros host part is the subnet-router anycast address (RFC 4291 section 2.6.1).
            (IpNet::V6(net), IpAddr::V6(ip)) => net.prefix_len() >= 127 || ip != net.network(),
            (IpNet::V4(_), IpAddr::V6(_)) | (IpNet::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// Seconds after which a learned address is forgotten when nobody says otherwise (IEEE 802.1D's default).
pub const DEFAULT_AGEING_SECS: u32 = 300;

/// An overlay network: one Ethernet segment across hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Minted by the controller.
    pub id: NetworkId,
    /// Unique in the cluster.
    pub name: String,
    /// Unique in the cluster.
    pub vni: Vni,
    /// Address ranges; none makes it plain L2: no IPAM, no gateway, no spoof check.
    pub subnets: Vec<Subnet>,
    /// How its frames travel between hosts.
    pub transport: Transport,
    /// Has no way out: endpoints get no default route.
    pub internal: bool,
    /// How endpoints reach the outside, if the network isn't internal.
    #[serde(default)]
    pub egress: Egress,
    /// As the operator set it; `None` follows the underlay.
    pub mtu: Option<Mtu>,
    /// Seconds after which a learned address is forgotten.
    pub ageing_secs: u32,
    /// Static VTEPs: tunnel ends that no agent runs (a kernel VXLAN device, a hardware switch, OVS).
    pub vteps: BTreeSet<IpAddr>,
    /// Its endpoints reach the gateway and what lies behind it, not each other.
    #[serde(default)]
    pub isolate: bool,
    /// What made it by itself, and removes it when it has no more use for it: `docker`; `None` for an operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_by: Option<String>,
}

impl Network {
    /// Whether its frames may leave a host only encrypted.
    pub fn is_encrypted(&self) -> bool {
        match self.transport {
            Transport::Vxlan => false,
            Transport::Quic => true,
        }
    }

    /// A network without a subnet is a plain learning switch.
    pub fn is_plain_l2(&self) -> bool {
        self.subnets.is_empty()
    }

    /// Whether endpoints have IPv6 addresses.
    pub fn has_ipv6(&self) -> bool {
        self.subnets
            .iter()
            .any(|subnet| matches!(subnet.cidr, IpNet::V6(_)))
    }

    /// How endpoints reach the outside: not at all if the network is internal.
    pub fn way_out(&self) -> Egress {
        if self.internal {
            Egress::Off
        } else {
            self.egress
        }
    }

    /// The subnet that contains `ip`.
    pub fn subnet_of(&self, ip: IpAddr) -> Option<&Subnet> {
        self.subnets.iter().find(|subnet| subnet.cidr.contains(&ip))
    }
}

/// A part of a network's addresses that one node gives out by itself. Blocks may nest: the most specific block that
/// contains an address says whose it is (a fixed address claimed by another node is a block of one address).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// The network.
    pub network: NetworkId,
    /// The addresses.
    pub prefix: IpNet,
    /// Who gives them out.
    pub node: NodeId,
}

/// One interface of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Minted by its agent.
    pub id: EndpointId,
    /// The network it is on.
    pub network: NetworkId,
    /// The node that has its port.
    pub node: NodeId,
    /// Unique in its network.
    pub name: String,
    /// Further names; several endpoints may share one.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Its interface's address; unique in its network. Behind a port of a plain L2 network other addresses may appear.
    pub mac: MacAddr,
    /// Its addresses, each unique in its network; none in a plain L2 network.
    pub ips: Vec<IpAddr>,
    /// Grows with each new owner of the address: in the FDB the newest owner wins.
    pub epoch: u64,
}

/// What a node can prove, as far as replacing the cluster's authority has to know. Agents aren't told of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// The authorities that it trusts, by the names of their keys (`identity::cert::authority_id`).
    #[serde(default)]
    pub trusts: Vec<String>,
    /// The one that signed its certificate; empty when the certificate doesn't say.
    #[serde(default)]
    pub issuer: String,
    /// When its certificate ends, in seconds since 1970.
    #[serde(default)]
    pub expires: u64,
}

/// Which controller has a node's session, where several share a store: what the node asked of another one before comes
/// too late. Agents aren't told of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// The controller's name for itself, another one at each start.
    pub controller: String,
}

/// Names one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    /// A node.
    Node(NodeId),
    /// A network.
    Network(NetworkId),
    /// A subnet block.
    Block(NetworkId, IpNet),
    /// An endpoint.
    Endpoint(EndpointId),
    /// A router.
    Router(RouterId),
    /// A node's credentials.
    Credentials(NodeId),
    /// A node's session.
    Session(NodeId),
}

/// Any object of the map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Object {
    /// A node.
    Node(Node),
    /// A network.
    Network(Network),
    /// A subnet block.
    Block(Block),
    /// An endpoint.
    Endpoint(Endpoint),
    /// A router.
    Router(Router),
    /// A node's credentials.
    Credentials(NodeId, Credentials),
    /// A node's session.
    Session(NodeId, Session),
}

impl Object {
    /// What names it.
    pub fn key(&self) -> Key {
        match self {
            Self::Node(node) => Key::Node(node.id.clone()),
            Self::Network(network) => Key::Network(network.id.clone()),
            Self::Block(block) => Key::Block(block.network.clone(), block.prefix),
            Self::Endpoint(endpoint) => Key::Endpoint(endpoint.id.clone()),
            Self::Router(router) => Key::Router(router.id.clone()),
            Self::Credentials(node, _) => Key::Credentials(node.clone()),
            Self::Session(node, _) => Key::Session(node.clone()),
        }
    }
}

/// One step from a revision to the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The object is new or replaces the one of the same key.
    Put(Object),
    /// The object is gone.
    Delete(Key),
}

/// An object with the revision that last changed it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versioned<T> {
    /// The revision of the change.
    pub revision: Revision,
    /// The object.
    pub object: T,
}

/// All that a cluster knows at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterMap {
    /// The newest change in it.
    pub revision: Revision,
    /// By id.
    pub nodes: BTreeMap<NodeId, Versioned<Node>>,
    /// By id.
    pub networks: BTreeMap<NetworkId, Versioned<Network>>,
    /// By network and prefix.
    pub blocks: Blocks,
    /// By id.
    pub endpoints: Endpoints,
    /// By id.
    #[serde(default)]
    pub routers: BTreeMap<RouterId, Versioned<Router>>,
    /// By node; controllers only.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub credentials: BTreeMap<NodeId, Versioned<Credentials>>,
    /// By node; controllers only.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sessions: BTreeMap<NodeId, Versioned<Session>>,
}

impl ClusterMap {
    /// Carries out one change. Changes of an older revision than the map's are the caller's mistake; they're applied.
    pub fn apply(&mut self, revision: Revision, change: Change) {
        self.revision = self.revision.max(revision);
        match change {
            Change::Put(Object::Node(object)) => {
                self.nodes
                    .insert(object.id.clone(), Versioned { revision, object });
            }
            Change::Put(Object::Network(object)) => {
                self.networks
                    .insert(object.id.clone(), Versioned { revision, object });
            }
            Change::Put(Object::Block(object)) => {
                self.blocks.insert(Versioned { revision, object });
            }
            Change::Put(Object::Endpoint(object)) => {
                self.endpoints.insert(Versioned { revision, object });
            }
            Change::Put(Object::Credentials(node, object)) => {
                self.credentials
                    .insert(node, Versioned { revision, object });
            }
            Change::Delete(Key::Credentials(node)) => {
                self.credentials.remove(&node);
            }
            Change::Put(Object::Session(node, object)) => {
                self.sessions.insert(node, Versioned { revision, object });
            }
            Change::Delete(Key::Session(node)) => {
                self.sessions.remove(&node);
            }
            Change::Put(Object::Router(object)) => {
                self.routers
                    .insert(object.id.clone(), Versioned { revision, object });
            }
            Change::Delete(Key::Node(id)) => {
                self.nodes.remove(&id);
            }
            Change::Delete(Key::Network(id)) => {
                self.networks.remove(&id);
            }
            Change::Delete(Key::Block(network, prefix)) => {
                self.blocks.remove(&(network, prefix));
            }
            Change::Delete(Key::Endpoint(id)) => {
                self.endpoints.remove(&id);
            }
            Change::Delete(Key::Router(id)) => {
                self.routers.remove(&id);
            }
        }
    }

    /// All objects: nodes and networks before what is on them.
    pub fn into_objects(self) -> impl Iterator<Item = Versioned<Object>> {
        fn each<K, T>(
            of: BTreeMap<K, Versioned<T>>,
            kind: fn(T) -> Object,
        ) -> impl Iterator<Item = Versioned<Object>> {
            of.into_values().map(move |of| Versioned {
                revision: of.revision,
                object: kind(of.object),
            })
        }
        let Self {
            revision: _,
            nodes,
            networks,
            blocks,
            endpoints,
            routers,
            credentials,
            sessions,
        } = self;
        let blocks = blocks.into_values().map(|of| Versioned {
            revision: of.revision,
            object: Object::Block(of.object),
        });
        let endpoints = endpoints.into_values().map(|of| Versioned {
            revision: of.revision,
            object: Object::Endpoint(of.object),
        });
        let credentials = credentials.into_iter().map(|(node, of)| Versioned {
            revision: of.revision,
            object: Object::Credentials(node, of.object),
        });
        let sessions = sessions.into_iter().map(|(node, of)| Versioned {
            revision: of.revision,
            object: Object::Session(node, of.object),
        });
        each(nodes, Object::Node)
            .chain(each(networks, Object::Network))
            .chain(blocks)
            .chain(endpoints)
            .chain(each(routers, Object::Router))
            .chain(credentials)
            .chain(sessions)
    }

    /// The node of that name.
    pub fn node_named(&self, name: &str) -> Option<&Node> {
        self.nodes
            .values()
            .map(|node| &node.object)
            .find(|node| node.name == name)
    }

    /// The network of that name.
    pub fn network_named(&self, name: &str) -> Option<&Network> {
        self.networks
            .values()
            .map(|network| &network.object)
            .find(|network| network.name == name)
    }

    /// The network of that id.
    pub fn network(&self, id: &NetworkId) -> Option<&Network> {
        self.networks.get(id).map(|network| &network.object)
    }

    /// Blocks of one network, in order of prefix.
    pub fn blocks_of<'a>(&'a self, network: &'a NetworkId) -> impl Iterator<Item = &'a Block> {
        self.blocks.of_network(network).map(|block| &block.object)
    }

    /// Endpoints of one network.
    pub fn endpoints_of<'a>(
        &'a self,
        network: &'a NetworkId,
    ) -> impl Iterator<Item = &'a Endpoint> {
        self.endpoints.of_network(network)
    }

    /// The most specific block that contains `ip`: it says whose the address is.
    pub fn block_of(&self, network: &NetworkId, ip: IpAddr) -> Option<&Block> {
        let single = IpNet::from(ip);
        let mut key = (network.clone(), single);
        for len in (0..=single.max_prefix_len()).rev() {
            key.1 = IpNet::new(ip, len).ok()?.trunc();
            if let Some(block) = self.blocks.get(&key) {
                return Some(&block.object);
            }
        }
        None
    }

    /// The map with nothing but these networks and what is on them, and these endpoints.
    pub fn part(&self, networks: &BTreeSet<&NetworkId>, endpoints: &[Endpoint]) -> Self {
        let of = networks.iter();
        let blocks = of
            .clone()
            .flat_map(|network| self.blocks.of_network(network));
        let on_them = of
            .clone()
            .flat_map(|network| self.endpoints.of_network(network));
        let ids = on_them.chain(endpoints).map(|endpoint| &endpoint.id);
        Self {
            revision: self.revision,
            nodes: self.nodes.clone(),
            networks: of
                .filter_map(|id| Some(((*id).clone(), self.networks.get(id)?.clone())))
                .collect(),
            blocks: blocks.cloned().collect(),
            endpoints: ids
                .filter_map(|id| self.endpoints.get(id).cloned())
                .collect(),
            ..Self::default()
        }
    }
}

/// An epoch for a new owner of a MAC, above all that its node has seen: `newest`, its own, and the map's `revision`. Its
/// lower 24 bits are the node's, so that no two nodes give the same.
pub fn next_epoch(node: &NodeId, newest: u64, revision: Revision) -> u64 {
    const NODE_BITS: u32 = 24;
    // FNV-1a: the same on every machine and in every version.
    let hash = node
        .0
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    let count = (newest >> NODE_BITS).max(revision) + 1;
    (count << NODE_BITS) | (hash >> (u64::BITS - NODE_BITS))
}

/// Whether a MAC is kept for gateways, now or later: the 256 around [`GATEWAY_MAC`](weft_switch::gateway::GATEWAY_MAC).
pub fn is_reserved(mac: MacAddr) -> bool {
    mac.octets()[..5] == weft_switch::gateway::GATEWAY_MAC.octets()[..5]
}

/// Checks a name of a node, network, endpoint or alias: 1 to 63 letters, digits, `_`, `.` and `-`, the first a letter
/// or digit (what Docker takes, and short enough for a DNS label, RFC 1035 section 2.3.4).
///
/// # Errors
/// A sentence that says what is wrong with it.
pub fn check_name(kind: &str, name: &str) -> Result<(), String> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let fine = (1..=63).contains(&name.len())
        && name.bytes().all(good)
        && name.as_bytes()[0].is_ascii_alphanumeric();
    if fine {
        return Ok(());
    }
    let name = brief(name);
    Err(format!(
        "{kind} name {name:?} is not usable: take 1 to 63 letters, digits, '_', '.' or '-', the first a letter or digit"
    ))
}

/// Characters of a wrong text that an error repeats.
const BRIEF_CHARS: usize = 80;

/// As much of a text as makes it known, for an error about it: it may be of any length.
pub(crate) fn brief(text: &str) -> String {
    match text.char_indices().nth(BRIEF_CHARS) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}
