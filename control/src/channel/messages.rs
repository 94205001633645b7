//! The messages of the control channel. Fields are only ever added, each with a default; a changed meaning is a new
//! message.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use weft_wire::Mtu;

use crate::api;
use crate::identity::Issued;
use crate::model::{
    Change, ClusterId, Credentials, Endpoint, EndpointId, NetworkId, NodeId, Object, Revision,
    StaticRoute, Transport, Versioned,
};

/// The protocols this build speaks.
pub const PROTOCOLS: Protocols = Protocols { min: 1, max: 1 };

/// A range of protocol numbers, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protocols {
    /// The oldest.
    pub min: u32,
    /// The newest.
    pub max: u32,
}

impl Protocols {
    /// The newest protocol that both sides speak.
    pub fn common(self, other: Self) -> Option<u32> {
        let newest = self.max.min(other.max);
        (newest >= self.min.max(other.min)).then_some(newest)
    }
}

impl std::fmt::Display for Protocols {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.min == self.max {
            return write!(f, "{}", self.min);
        }
        write!(f, "{} to {}", self.min, self.max)
    }
}

/// Why something was refused; the same shape as the local API's error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For programs: snake_case, stable.
    pub code: String,
    /// Names the object and the cause.
    pub message: String,
    /// The next thing to do, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Code of a refusal because the store didn't answer, or couldn't write: what was asked may be done nevertheless.
pub const STORE_FAILED: &str = "store_failed";

impl Refusal {
    /// A refusal without a next step.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            message: message.into(),
            hint: None,
        }
    }

    /// With the next thing to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Refusal {}

/// What an agent knows of its host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// Where its tunnels end.
    pub underlay: IpAddr,
    /// MTU of the link that has `underlay`, in bytes.
    pub underlay_mtu: Mtu,
    /// UDP port on which it takes VXLAN.
    pub vxlan_port: u16,
    /// UDP port on which it takes encrypted tunnels, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encrypted_port: Option<u16>,
    /// What it can carry.
    pub transports: Vec<Transport>,
    /// Its version, for people.
    pub version: String,
}

/// A node asks to become a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinHello {
    /// What it speaks.
    pub protocols: Protocols,
    /// Its version, for people.
    pub version: String,
    /// Which token it was given.
    pub token_id: String,
    /// The token's secret in hexadecimal.
    pub secret: String,
    /// The name it wants.
    pub node_name: String,
    /// Its host.
    pub facts: NodeFacts,
    /// Certificate signing request, DER: proves that it holds its key.
    #[serde(with = "bytes_as_text")]
    pub csr: Vec<u8>,
}

/// A certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Der(#[serde(with = "bytes_as_text")] pub Vec<u8>);

/// The certificates that make a node a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinWelcome {
    /// The node's certificate, DER.
    #[serde(with = "bytes_as_text")]
    pub cert: Vec<u8>,
    /// The certificate of the authority that the controller's is of, DER.
    #[serde(with = "bytes_as_text")]
    pub ca: Vec<u8>,
    /// Further authorities to trust, DER.
    #[serde(default)]
    pub further: Vec<Der>,
}

impl JoinWelcome {
    /// What an authority handed out.
    pub fn of(issued: &Issued) -> Self {
        let mut cas = issued.cas.iter();
        let ca = cas.next().map(|ca| ca.to_vec()).unwrap_or_default();
        Self {
            cert: issued.cert.to_vec(),
            ca,
            further: cas.map(|ca| Der(ca.to_vec())).collect(),
        }
    }

    /// The same as certificates.
    pub fn issued(self) -> Issued {
        let further = self.further.into_iter().map(|ca| ca.0);
        let cas = std::iter::once(self.ca).chain(further);
        Issued {
            cert: CertificateDer::from(self.cert),
            cas: cas.map(CertificateDer::from).collect(),
        }
    }
}

/// A member whose certificate isn't taken any more asks for a new one. The request is signed with its key; who gets hold
/// of the answer has a certificate for a key that it doesn't have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewHello {
    /// What it speaks.
    pub protocols: Protocols,
    /// Its version, for people.
    pub version: String,
    /// Certificate signing request, DER.
    #[serde(with = "bytes_as_text")]
    pub csr: Vec<u8>,
}

/// First message of an agent's session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// What it speaks.
    pub protocols: Protocols,
    /// Its version, for people.
    pub version: String,
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// Who it is; its certificate says so too.
    pub node: NodeId,
    /// The newest revision of the map it has.
    pub have: Revision,
    /// Which life of the store that revision belongs to; empty for none.
    #[serde(default)]
    pub incarnation: String,
    /// Its host.
    pub facts: NodeFacts,
    /// What it can prove.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// The networks of which it wants to hear, beside what is its own; all when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interest: Option<BTreeSet<NetworkId>>,
    /// Number of that wish.
    #[serde(default)]
    pub wish: u64,
    /// The networks for which what it has of the map is complete; all when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub has: Option<BTreeSet<NetworkId>>,
    /// It gives claimed addresses back itself (`Request::ReturnBlock`): they stay its own when their endpoint goes. With an
    /// agent that doesn't say so they go, too.
    #[serde(default)]
    pub returns_claims: bool,
}

impl Hello {
    /// Of what it wants to hear; of everything when `None`.
    pub fn interest(&self) -> Option<Interest> {
        let (networks, wish) = (self.interest.clone()?, self.wish);
        Some(Interest { networks, wish })
    }
}

/// Of what an agent wants to hear: of the nodes, blocks and endpoints of these networks and of those that share a router
/// with them. Of what is its own, and of all networks and routers, it hears anyway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// The networks.
    pub networks: BTreeSet<NetworkId>,
    /// Numbers an agent's wishes: a later one counts, whichever arrives last.
    pub wish: u64,
}

/// The controller takes the session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The protocol to speak from here on.
    pub protocol: u32,
    /// The controller's version, for people.
    pub version: String,
    /// Life of the store.
    pub incarnation: String,
    /// The newest revision there is; what is pushed until it was reached is old news.
    pub revision: Revision,
    /// It tells an agent what it wants to hear of (`Hello.interest`). One that doesn't say so tells everything.
    #[serde(default)]
    pub excerpts: bool,
    /// Where the controllers of this cluster are; empty when there is only this one.
    #[serde(default)]
    pub controllers: Vec<SocketAddr>,
}

/// What the controller tells without being asked, in this order: `SnapshotStart`, `Objects`..., `SnapshotEnd` if the
/// agent's map can't be brought up to date by changes; then `Changes`... for ever.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Push {
    /// What follows replaces the agent's map.
    SnapshotStart,
    /// A part of the map.
    Objects(Vec<Versioned<Object>>),
    /// The map is complete and as of that revision.
    SnapshotEnd {
        /// The newest change in it.
        revision: Revision,
    },
    /// What is on these networks is told from now on, and all of it was told before this. The agent forgets what is on
    /// others and not its own. Also before `SnapshotEnd`: the snapshot is complete for these.
    Watched {
        /// All such networks: those that it wants to hear of, and those that routers lead to.
        networks: BTreeSet<NetworkId>,
        /// Number of the wish that this fulfils.
        #[serde(default)]
        wish: u64,
    },
    /// What changed since.
    Changes {
        /// In order.
        changes: Vec<(Revision, Change)>,
        /// The revision reached with them.
        up_to: Revision,
        /// Where the controllers of this cluster are, if that has changed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        controllers: Option<Vec<SocketAddr>>,
    },
}

/// What an agent asks of the controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Make a network.
    CreateNetwork {
        /// As the operator wants it.
        create: api::NetworkCreate,
    },
    /// Change a network.
    ChangeNetwork {
        /// Which.
        name: String,
        /// What.
        change: api::NetworkChange,
    },
    /// Remove a network that has no endpoints.
    RemoveNetwork {
        /// Which.
        name: String,
    },
    /// Remove all networks that have no endpoints; their names are in the reply.
    PruneNetworks,
    /// Flood a network to a tunnel end that no agent runs.
    AddVtep {
        /// Network name.
        network: String,
        /// Tunnel end.
        address: IpAddr,
    },
    /// No longer flood a network to a static tunnel end.
    RemoveVtep {
        /// Network name.
        network: String,
        /// Tunnel end.
        address: IpAddr,
    },
    /// A further block of addresses for the asking node; it is in the reply.
    AllocateBlock {
        /// Which network.
        network: NetworkId,
        /// Which of its subnets.
        subnet: IpNet,
    },
    /// The asking node doesn't need the block any more.
    ReturnBlock {
        /// Which network.
        network: NetworkId,
        /// The block.
        prefix: IpNet,
        /// The revision at which it became the node's: one that it got later, by the same prefix, stays. Any when `None`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        revision: Option<Revision>,
    },
    /// The asking node wants this very address.
    ClaimAddress {
        /// Which network.
        network: NetworkId,
        /// The address.
        ip: IpAddr,
    },
    /// An endpoint of the asking node is new or changed.
    PutEndpoint {
        /// The endpoint.
        endpoint: Endpoint,
    },
    /// An endpoint of the asking node is gone. Not an error when it is unknown.
    DeleteEndpoint {
        /// Which.
        id: EndpointId,
    },
    /// All endpoints of the asking node: what is missing is added, what isn't in it is deleted. Refused ones are in the
    /// reply.
    SyncEndpoints {
        /// All of them.
        endpoints: Vec<Endpoint>,
    },
    /// Make, change or remove a router.
    ChangeRouter {
        /// Which.
        name: String,
        /// What.
        change: RouterChange,
    },
    /// Remove a node with all that is on it; its session ends and its certificate is refused from then on.
    RemoveNode {
        /// Which.
        name: String,
    },
    /// Who is connected, and the newest revision.
    Presence,
    /// A new certificate for the asking node's key; it is in the reply.
    Renew {
        /// Certificate signing request, DER.
        #[serde(with = "bytes_as_text")]
        csr: Vec<u8>,
    },
    /// What the asking node can prove from now on.
    NoteCredentials {
        /// All of it.
        credentials: Credentials,
    },
    /// Hear of what is on these networks from now on, and of no others.
    Watch {
        /// All of them.
        networks: BTreeSet<NetworkId>,
        /// Number of the wish.
        #[serde(default)]
        wish: u64,
    },
    /// What is on a network that the asking agent doesn't hear of, in parts; in the reply are objects, nodes among them.
    ReadNetwork {
        /// Which.
        network: NetworkId,
        /// The last endpoint of the part before; the first part has the blocks, too.
        #[serde(default)]
        after: Option<EndpointId>,
    },
    /// All nodes, in parts; in the reply are objects, the number of endpoints of each, and who is connected.
    ReadNodes {
        /// The last of the part before.
        #[serde(default)]
        after: Option<NodeId>,
    },
    /// How many endpoints each network has.
    CountEndpoints,
    /// The newest revision there is, and nothing else.
    Newest,
}

impl Request {
    /// The kinds of requests as they are on the wire.
    pub const KINDS: [&str; 22] = [
        "create_network",
        "change_network",
        "remove_network",
        "prune_networks",
        "add_vtep",
        "remove_vtep",
        "allocate_block",
        "return_block",
        "claim_address",
        "put_endpoint",
        "delete_endpoint",
        "sync_endpoints",
        "remove_node",
        "presence",
        "renew",
        "note_credentials",
        "watch",
        "change_router",
        "read_network",
        "read_nodes",
        "count_endpoints",
        "newest",
    ];

    /// Its kind, for logs.
    pub fn kind(&self) -> &'static str {
        let index = match self {
            Self::CreateNetwork { .. } => 0,
            Self::ChangeNetwork { .. } => 1,
            Self::RemoveNetwork { .. } => 2,
            Self::PruneNetworks => 3,
            Self::AddVtep { .. } => 4,
            Self::RemoveVtep { .. } => 5,
            Self::AllocateBlock { .. } => 6,
            Self::ReturnBlock { .. } => 7,
            Self::ClaimAddress { .. } => 8,
            Self::PutEndpoint { .. } => 9,
            Self::DeleteEndpoint { .. } => 10,
            Self::SyncEndpoints { .. } => 11,
            Self::RemoveNode { .. } => 12,
            Self::Presence => 13,
            Self::Renew { .. } => 14,
            Self::NoteCredentials { .. } => 15,
            Self::Watch { .. } => 16,
            Self::ChangeRouter { .. } => 17,
            Self::ReadNetwork { .. } => 18,
            Self::ReadNodes { .. } => 19,
            Self::CountEndpoints => 20,
            Self::Newest => 21,
        };
        Self::KINDS[index]
    }
}

/// What becomes of a router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RouterChange {
    /// It is new.
    Create,
    /// It goes, with its routes; its networks stay.
    Remove,
    /// It gets these networks.
    Connect {
        /// Their names.
        networks: Vec<String>,
    },
    /// It loses these networks.
    Disconnect {
        /// Their names.
        networks: Vec<String>,
    },
    /// It gets a route, or that to the same prefix another next hop.
    AddRoute {
        /// The route.
        route: StaticRoute,
    },
    /// It loses a route.
    RemoveRoute {
        /// To which prefix.
        prefix: IpNet,
    },
}

/// The controller did what was asked. Which fields say something depends on the request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The revision at which it shows in the map (for `Presence`: the newest one).
    #[serde(default)]
    pub revision: Revision,
    /// `PruneNetworks`: the names of the removed networks.
    #[serde(default)]
    pub names: Vec<String>,
    /// `AllocateBlock`, `ClaimAddress`: what the node may give out now.
    #[serde(default)]
    pub block: Option<IpNet>,
    /// `SyncEndpoints`: those that the cluster doesn't take, and why.
    #[serde(default)]
    pub rejected: Vec<(EndpointId, Refusal)>,
    /// `Presence`, `ReadNodes`: who is connected.
    #[serde(default)]
    pub connected: BTreeSet<NodeId>,
    /// `ReadNetwork`, `ReadNodes`: what was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<Versioned<Object>>,
    /// `ReadNodes`, `CountEndpoints`: how many endpoints each node or network has, by id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counts: BTreeMap<String, u64>,
    /// `ReadNetwork`, `ReadNodes`: there is another part.
    #[serde(default)]
    pub more: bool,
    /// `Renew`: the new certificate, and whom to trust.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued: Option<JoinWelcome>,
}

/// What the controller asks of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// Another node wants an address of this node's blocks.
    Yield {
        /// The network.
        network: NetworkId,
        /// The address.
        ip: IpAddr,
    },
    /// Ask for a new certificate: authorities are being replaced.
    Renew,
}

/// An agent's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is free, and this node won't give it out from now on.
    Yielded,
    /// An endpoint has it, or is about to.
    InUse {
        /// The endpoint's name.
        endpoint: String,
    },
    /// It has the new certificate, and the controller was told of it.
    Renewed,
}

/// Byte strings: CBOR has them, serde's `Vec<u8>` would be a list of numbers.
pub(crate) mod bytes_as_text {
    use data_encoding::BASE64;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&BASE64.encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        BASE64.decode(text.as_bytes()).map_err(D::Error::custom)
    }
}
