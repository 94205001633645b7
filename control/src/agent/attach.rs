//! The life of a port: `connect` reserves a name, addresses and a MAC, tells the controller, makes the TAP and plugs it
//! in; `disconnect`, or the death of the namespace, takes all of that back.
//!
//! Whatever fails on the way in undoes what came before it, in reverse; a crash in the middle leaves a TAP that dies
//! with the agent's file descriptors and an endpoint that the next full report to the controller leaves out. The record
//! on disk is written last on the way in and the file descriptors go first on the way out, so a record without file
//! descriptors always means a dead port.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;
use tracing::{info, warn};
use weft_switch::port::{PortKind, Queue, TapDevice, create_tap};
use weft_wire::MacAddr;

use super::ipam::{self, Choice, Fixed};
use super::plan::effective_mtu;
use super::state::PortRecord;
use super::views::{node_name, port_view};
use super::{Agent, ApiError, Inner, Pending, Port};
use crate::api;
use crate::channel::{Request, RequestError};
use crate::link::{self, AttachSpec, LinkError};
use crate::model::{self, Endpoint, EndpointId, Network, Subnet};
use crate::netns::{self, Netns};

/// Frames that may wait in a TAP's ring for the agent, per queue. A superframe holds up to 64 KiB, so the kernel's
/// default of 1000 would let 64 MB stand; this is the most that a restart of the agent can lose less of than TCP minds.
const TX_QUEUE_LEN: u32 = 512;
/// How often a block is asked for before the address is given up: two could be taken by attaches beside this one.
const BLOCK_TRIES: usize = 4;
/// What to do about an address that can't be had.
const OTHER_IP: &str =
    "choose another --ip, or leave it out; `weft network inspect` shows subnets and gateways";
/// Interface names that are tried when the caller wants none: `eth0` .. `eth99`.
const IFNAME_TRIES: u32 = 100;

impl Agent {
    /// `weft network connect`.
    ///
    /// # Errors
    /// [`ApiError`]; nothing is left of it then.
    pub(super) async fn connect(
        self: &Arc<Self>,
        network: &str,
        request: api::Connect,
    ) -> Result<api::Port, ApiError> {
        check_request(&request)?;
        let netns = open_netns(&request.netns).await?;
        let network = self.find_network(network).await?;
        check_fit(&network, &request)?;
        self.check_second(&network, &request, &netns)?;
        let pending = self.reserve(&network, &request, &netns).await?;
        let endpoint = self.fill(&pending, &network, &request).await?;
        self.announce(&endpoint).await?;
        match self.plug(&network, endpoint.clone(), netns, request).await {
            Ok(port) => Ok(port),
            Err(error) => {
                drop(pending);
                self.withdraw(&endpoint.id).await;
                Err(error)
            }
        }
    }

    /// A namespace that is on the network already gets a second port only by a name of its own: a script that is run
    /// twice shouldn't make one.
    fn check_second(
        &self,
        network: &Network,
        request: &api::Connect,
        netns: &Netns,
    ) -> Result<(), ApiError> {
        let inner = self.inner();
        let mut ports = inner.ports.values().map(|port| &port.record);
        let first = ports
            .find(|record| record.endpoint.network == network.id && record.netns_id == netns.id());
        match first {
            Some(record) if request.name.is_none() => Err(ApiError::conflict(
                "already_connected",
                format!(
                    "namespace {} is on network {} already (port {}, interface {})",
                    netns.name(),
                    network.name,
                    record.endpoint.name,
                    record.ifname
                ),
            )
            .hint("give a second port a --name of its own")),
            Some(_) | None => Ok(()),
        }
    }

    /// Takes a name. The guard gives name and addresses back when it goes.
    async fn reserve(
        self: &Arc<Self>,
        network: &Network,
        request: &api::Connect,
        netns: &Netns,
    ) -> Result<PendingGuard, ApiError> {
        let id = EndpointId(format!("{:016x}", rand::random::<u64>()));
        let mut inner = self.inner();
        if inner.stopping {
            return Err(ApiError::unavailable("stopping", "the agent is stopping")
                .hint("start it again with `weft agent run`"));
        }
        let name = match &request.name {
            Some(name) => {
                if let Some(node) = name_holder(&inner, network, name) {
                    return Err(ApiError::conflict(
                        "name_taken",
                        format!(
                            "endpoint name {name} is taken on network {} (node {node})",
                            network.name
                        ),
                    )
                    .hint("choose another --name, or disconnect the other one"));
                }
                name.clone()
            }
            None => free_name(&inner, network, &base_name(netns), &self.facts.node_name),
        };
        let endpoint = Endpoint {
            id: id.clone(),
            network: network.id.clone(),
            node: self.facts.node.clone(),
            name,
            aliases: request.aliases.clone(),
            mac: MacAddr::ZERO,
            ips: Vec::new(),
            epoch: inner.next_epoch(),
        };
        inner.pending.insert(
            id.clone(),
            Pending {
                endpoint,
                complete: false,
            },
        );
        drop(inner);
        Ok(PendingGuard {
            agent: Arc::clone(self),
            id,
        })
    }

    /// Finds the addresses and the MAC.
    async fn fill(
        self: &Arc<Self>,
        pending: &PendingGuard,
        network: &Network,
        request: &api::Connect,
    ) -> Result<Endpoint, ApiError> {
        for subnet in &network.subnets {
            let fixed = request.ips.iter().find(|ip| subnet.cidr.contains(*ip));
            match fixed {
                Some(ip) => self.take_fixed(pending, network, *ip).await?,
                None => self.take_any(pending, network, subnet).await?,
            }
        }
        let mut inner = self.inner();
        let ips = inner.pending[&pending.id].endpoint.ips.clone();
        let mac = request
            .mac
            .unwrap_or_else(|| free_mac(&inner, network, &ips));
        if let Some(holder) = mac_holder(&inner, network, mac) {
            return Err(ApiError::conflict(
                "mac_taken",
                format!(
                    "MAC {mac} is taken on network {} by endpoint {holder}",
                    network.name
                ),
            )
            .hint("choose another --mac, or leave it out"));
        }
        let pending = inner
            .pending
            .get_mut(&pending.id)
            .expect("the guard keeps it");
        pending.endpoint.mac = mac;
        pending.complete = true;
        Ok(pending.endpoint.clone())
    }

    async fn take_any(
        self: &Arc<Self>,
        pending: &PendingGuard,
        network: &Network,
        subnet: &Subnet,
    ) -> Result<(), ApiError> {
        for _ in 0..BLOCK_TRIES {
            {
                let mut inner = self.inner();
                let taken = inner.taken();
                let choice = ipam::choose(&inner.map, &taken, &self.facts.node, (network, subnet));
                if let Choice::Address(ip) = choice {
                    inner.pending_mut(&pending.id).endpoint.ips.push(ip);
                    return Ok(());
                }
            }
            let request = Request::AllocateBlock {
                network: network.id.clone(),
                subnet: subnet.cidr,
            };
            self.ask(request).await.map_err(|error| {
                if error.reply.code != "offline" {
                    return error;
                }
                ApiError::unavailable(
                    "no_block",
                    format!(
                        "this node has no free address of subnet {} of network {} left, and no controller answers to give it more",
                        subnet.cidr, network.name
                    ),
                )
                .hint("see `weft status`; what is connected already keeps working")
            })?;
        }
        Err(ApiError::unavailable(
            "busy",
            format!(
                "too many endpoints are connecting to network {} at once",
                network.name
            ),
        )
        .hint("try again"))
    }

    async fn take_fixed(
        self: &Arc<Self>,
        pending: &PendingGuard,
        network: &Network,
        ip: IpAddr,
    ) -> Result<(), ApiError> {
        for attempt in 0..2 {
            {
                let mut inner = self.inner();
                let taken = inner.taken();
                let verdict = ipam::judge(&inner.map, &taken, &self.facts.node, (network, ip));
                match verdict {
                    Fixed::Ours => {
                        inner.pending_mut(&pending.id).endpoint.ips.push(ip);
                        return Ok(());
                    }
                    Fixed::Claim if attempt == 0 => {}
                    Fixed::Held { endpoint, node } => {
                        let node = node_name(&inner.map, &node);
                        return Err(ip_taken(
                            network,
                            ip,
                            &format!("endpoint {endpoint} on node {node}"),
                        ));
                    }
                    Fixed::Claim | Fixed::Busy => {
                        return Err(ip_taken(network, ip, "another request that is under way"));
                    }
                    Fixed::Unusable(why) => {
                        return Err(ApiError::bad_request("bad_ip", why).hint(OTHER_IP));
                    }
                }
            }
            self.ask(Request::ClaimAddress { network: network.id.clone(), ip }).await.map_err(
                |error| match error.reply.code.as_str() {
                    "offline" => ApiError::unavailable(
                        "offline",
                        format!("{ip} is outside this node's address blocks of network {}, and no controller answers to claim it", network.name),
                    )
                    .hint("leave out --ip to take an address of this node's own blocks, or see `weft status`"),
                    _ => error,
                },
            )?;
        }
        Err(ip_taken(
            network,
            ip,
            "another node that claimed it at the same moment",
        ))
    }

    /// Tells the controller before anything is made, so that a conflict refuses the request. Without a controller the
    /// endpoint is told at the next full report.
    async fn announce(&self, endpoint: &Endpoint) -> Result<(), ApiError> {
        match self
            .link
            .request(Request::PutEndpoint {
                endpoint: endpoint.clone(),
            })
            .await
        {
            Ok(_) => Ok(()),
            Err(RequestError::Refused(refusal)) => Err(refusal.into()),
            Err(RequestError::Offline { .. } | RequestError::TimedOut) => {
                self.tell_later();
                Ok(())
            }
        }
    }

    /// Takes an announced endpoint back.
    async fn withdraw(&self, id: &EndpointId) {
        let request = Request::DeleteEndpoint { id: id.clone() };
        if self.link.request(request).await.is_err() {
            self.tell_later();
        }
    }

    fn tell_later(&self) {
        self.inner().channel.told = false;
        self.resync.notify_one();
    }

    /// Makes the TAP, moves it into the namespace, and plugs it into the switch.
    async fn plug(
        self: &Arc<Self>,
        network: &Network,
        endpoint: Endpoint,
        netns: Netns,
        request: api::Connect,
    ) -> Result<api::Port, ApiError> {
        let mtu = effective_mtu(&self.inner().map, &self.here(), network);
        let record = PortRecord {
            network_name: network.name.clone(),
            vni: network.vni,
            netns: netns.name().to_owned(),
            netns_id: netns.id(),
            ifname: String::new(),
            addresses: with_prefixes(network, &endpoint.ips),
            plain: request.no_offload,
            mtu,
            endpoint,
        };
        let gateways = if network.internal {
            Vec::new()
        } else {
            network
                .subnets
                .iter()
                .map(|subnet| subnet.gateway)
                .collect()
        };
        let queues = self.facts.workers;
        let wanted = request.ifname;
        let (record, tap) =
            blocking(move || make_device(record, &netns, (wanted, gateways), queues)).await?;
        let id = record.endpoint.id.clone();
        let agent = Arc::clone(self);
        let plugged = blocking(move || agent.plug_in(record, tap)).await;
        if let Err(error) = plugged {
            self.unplug(&id).await;
            return Err(error);
        }
        if let Err(error) = self.save_ports().await {
            self.unplug(&id).await;
            return Err(error);
        }
        self.changed.notify_one();
        let inner = self.inner();
        let port = inner.ports.get(&id).ok_or_else(|| {
            ApiError::conflict(
                "namespace_gone",
                "the namespace went away while it was connected",
            )
        })?;
        info!(network = %network.name, port = %port.record.endpoint.name, ifname = %port.record.ifname,
            netns = %port.record.netns, "connected");
        Ok(port_view(port, api::Traffic::default()))
    }

    /// Hands the TAP to the fd holder and to the switch. From here on the port is known.
    fn plug_in(&self, record: PortRecord, tap: TapDevice) -> Result<(), ApiError> {
        let id = record.endpoint.id.clone();
        self.keeper.keep(&id.0, &tap.queues);
        self.add_port(record, tap.queues)
    }

    /// Plugs file descriptors of a TAP, new or from the holder, into the switch.
    pub(super) fn add_port(&self, record: PortRecord, fds: Vec<OwnedFd>) -> Result<(), ApiError> {
        let kind = if record.plain {
            PortKind::Plain
        } else {
            PortKind::Offload
        };
        let failed = |error: &dyn std::fmt::Display| {
            ApiError::internal(format!(
                "cannot plug in port {}: {error}",
                record.endpoint.name
            ))
        };
        let queues: Vec<Queue> = fds
            .iter()
            .map(|fd| Queue::from_fd(fd.try_clone()?, kind))
            .collect::<Result<_, _>>()
            .map_err(|error| failed(&error))?;
        let mut inner = self.inner();
        let id = self
            .fabric()
            .add_port(&record, queues)
            .map_err(|error| failed(&error))?;
        inner.pending.remove(&record.endpoint.id);
        inner.ports.insert(
            record.endpoint.id.clone(),
            Port {
                record,
                id,
                fds,
                trouble: None,
            },
        );
        Ok(())
    }

    /// `weft network disconnect`.
    ///
    /// # Errors
    /// [`ApiError`] when no port, or more than one, fits the description.
    pub(super) async fn disconnect(
        self: &Arc<Self>,
        network: &str,
        request: api::Disconnect,
    ) -> Result<api::Port, ApiError> {
        let id = self.find_port(network, &request).await?;
        let gone = || {
            ApiError::not_found(
                "not_connected",
                format!("that port of network {network} is just going"),
            )
        };
        let view = {
            let inner = self.inner();
            let port = inner.ports.get(&id).ok_or_else(gone)?;
            let traffic = self.fabric().port_traffic(port.id);
            port_view(port, traffic)
        };
        if !self.take_down(&id).await {
            return Err(gone());
        }
        info!(network, port = %view.name, "disconnected");
        Ok(view)
    }

    async fn find_port(
        &self,
        network: &str,
        request: &api::Disconnect,
    ) -> Result<EndpointId, ApiError> {
        let netns = match (&request.netns, &request.name) {
            (None, None) => {
                return Err(ApiError::bad_request(
                    "bad_request",
                    "disconnect needs a namespace (--netns, --pid) or an endpoint name (--name)",
                ));
            }
            (Some(netns), None) => Some(open_netns(netns).await?),
            // The name is enough, also when the namespace has gone.
            (_, Some(_)) => None,
        };
        let inner = self.inner();
        let fits = |port: &&Port| {
            port.record.network_name == network
                && match (&request.name, &netns) {
                    (Some(name), _) => port.record.endpoint.name == *name,
                    (None, Some(netns)) => port.record.netns_id == netns.id(),
                    (None, None) => false,
                }
        };
        let found: Vec<&Port> = inner.ports.values().filter(fits).collect();
        match found.as_slice() {
            [port] => Ok(port.record.endpoint.id.clone()),
            [] => Err(not_connected(&inner, network, request)),
            [first, ..] => Err(ApiError::conflict(
                "ambiguous",
                format!(
                    "{} has {} ports on network {network}",
                    first.record.netns,
                    found.len()
                ),
            )
            .hint("say which one with --name; see `weft ports`")),
        }
    }

    /// Takes a port down and everything with it. False when it was being taken down already.
    pub(super) async fn take_down(self: &Arc<Self>, id: &EndpointId) -> bool {
        {
            let mut inner = self.inner();
            if !inner.ports.contains_key(id) || !inner.leaving.insert(id.clone()) {
                return false;
            }
        }
        self.unplug(id).await;
        if let Err(error) = self.save_ports().await {
            // The record outlives its TAP: the next start sees that and drops it.
            warn!(error = %error.reply.message, "port is gone but still on disk");
        }
        self.withdraw(id).await;
        self.changed.notify_one();
        true
    }

    /// Pulls the port's plug: switch, holder and our own file descriptors, whereupon the kernel destroys the TAP.
    async fn unplug(self: &Arc<Self>, id: &EndpointId) {
        let (agent, id) = (Arc::clone(self), id.clone());
        let done = tokio::task::spawn_blocking(move || {
            agent.fabric().remove_port(&id);
            agent.keeper.forget(&id.0);
            let port = {
                let mut inner = agent.inner();
                inner.leaving.remove(&id);
                inner.ports.remove(&id)
            };
            // Closing the last file descriptor waits for the kernel to tear the device down: not under a lock.
            drop(port);
        });
        if done.await.is_err() {
            warn!("taking a port down failed half-way; the next start of the agent cleans up");
        }
    }

    /// Writes the ports as they are now.
    pub(super) async fn save_ports(self: &Arc<Self>) -> Result<(), ApiError> {
        let agent = Arc::clone(self);
        blocking(move || {
            let _order = agent
                .saving
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let records = agent.inner().records();
            agent.state.save_ports(&records).map_err(|error| {
                ApiError::internal(error.to_string())
                    .hint("make room or mend the file system, then try again")
            })
        })
        .await
    }
}

/// A reservation: name and addresses are free again when it goes.
struct PendingGuard {
    agent: Arc<Agent>,
    id: EndpointId,
}

impl Drop for PendingGuard {
    fn drop(&mut self) {
        self.agent.inner().pending.remove(&self.id);
    }
}

impl Inner {
    fn pending_mut(&mut self, id: &EndpointId) -> &mut Pending {
        self.pending
            .get_mut(id)
            .expect("a reservation lives as long as its guard")
    }
}

fn check_request(request: &api::Connect) -> Result<(), ApiError> {
    let bad_name =
        |why| ApiError::bad_request("bad_name", why).hint("choose another --name or --alias");
    if let Some(name) = &request.name {
        model::check_name("endpoint", name).map_err(bad_name)?;
    }
    for alias in &request.aliases {
        model::check_name("alias", alias).map_err(bad_name)?;
    }
    if let Some(ifname) = &request.ifname {
        check_ifname(ifname)?;
    }
    if let Some(mac) = request.mac.filter(|mac| !mac.is_station()) {
        return Err(ApiError::bad_request(
            "bad_mac",
            format!("{mac} cannot be an interface's address: it is a group address or all zeros"),
        )
        .hint("choose another --mac, or leave it out"));
    }
    Ok(())
}

/// What the kernel takes as an interface name (dev_valid_name: 1 to 15 bytes, no `/`, no `:`, no space).
fn check_ifname(ifname: &str) -> Result<(), ApiError> {
    let good = (1..=15).contains(&ifname.len())
        && !matches!(ifname, "." | "..")
        && ifname
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%'));
    if good {
        return Ok(());
    }
    Err(ApiError::bad_request(
        "bad_ifname",
        format!(
            "interface name {ifname:?} is not usable: take 1 to 15 printable characters without '/', ':', '%' or space"
        ),
    )
    .hint("choose another --ifname, or leave it out"))
}

fn check_fit(network: &Network, request: &api::Connect) -> Result<(), ApiError> {
    if network.is_plain_l2() && !request.ips.is_empty() {
        return Err(ApiError::bad_request(
            "no_subnet",
            format!("network {} has no subnet: it gives no addresses", network.name),
        )
        .hint("leave out --ip and set addresses inside the namespace, or create the network with --subnet"));
    }
    for (index, ip) in request.ips.iter().enumerate() {
        let Some(subnet) = network.subnet_of(*ip) else {
            let subnets: Vec<String> = network
                .subnets
                .iter()
                .map(|subnet| subnet.cidr.to_string())
                .collect();
            return Err(ApiError::bad_request(
                "bad_ip",
                format!(
                    "{ip} is in no subnet of network {} ({})",
                    network.name,
                    subnets.join(", ")
                ),
            )
            .hint(OTHER_IP));
        };
        if request.ips[..index]
            .iter()
            .any(|other| subnet.cidr.contains(other))
        {
            return Err(ApiError::bad_request(
                "bad_ip",
                format!(
                    "more than one --ip is in subnet {} of network {}",
                    subnet.cidr, network.name
                ),
            )
            .hint("an endpoint has one address of each subnet"));
        }
    }
    Ok(())
}

/// Opens a namespace as the caller named it.
pub(super) async fn open_netns(arg: &api::NetnsArg) -> Result<Netns, ApiError> {
    let arg = arg.clone();
    blocking(move || Netns::open(&arg).map_err(ApiError::from)).await
}

impl From<netns::NetnsError> for ApiError {
    fn from(error: netns::NetnsError) -> Self {
        let message = error.to_string();
        match error.hint() {
            Some(hint) => Self::not_found("bad_netns", message).hint(hint),
            None => Self::not_found("bad_netns", message),
        }
    }
}

fn base_name(netns: &Netns) -> String {
    let base: String = Path::new(netns.name())
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        .take(48)
        .collect();
    // /proc/PID/ns/net says nothing by its last part.
    let fine = base != "net" && model::check_name("endpoint", &base).is_ok();
    if fine {
        base
    } else {
        format!("ns-{}", netns.id().1)
    }
}

fn name_holder(inner: &Inner, network: &Network, name: &str) -> Option<String> {
    let local = inner
        .pending
        .values()
        .map(|pending| &pending.endpoint)
        .chain(inner.ports.values().map(|port| &port.record.endpoint))
        .filter(|endpoint| endpoint.network == network.id);
    inner
        .map
        .endpoints_of(&network.id)
        .chain(local)
        .find(|endpoint| endpoint.name == name)
        .map(|endpoint| node_name(&inner.map, &endpoint.node))
}

/// The namespace's name, or with this node's name behind it, or with a number behind that.
fn free_name(inner: &Inner, network: &Network, base: &str, node: &str) -> String {
    let mut candidates = std::iter::once(base.to_owned())
        .chain(std::iter::once(format!("{base}-{node}")))
        .chain((2..).map(|number| format!("{base}-{number}")))
        .filter(|name| model::check_name("endpoint", name).is_ok());
    candidates
        .find(|name| name_holder(inner, network, name).is_none())
        .expect("numbers don't end")
}

fn mac_holder(inner: &Inner, network: &Network, mac: MacAddr) -> Option<String> {
    let local = inner
        .pending
        .values()
        .map(|pending| &pending.endpoint)
        .chain(inner.ports.values().map(|port| &port.record.endpoint))
        .filter(|endpoint| endpoint.network == network.id);
    let mut all = inner.map.endpoints_of(&network.id).chain(local);
    all.find(|endpoint| endpoint.mac == mac).map(|endpoint| {
        format!(
            "{} on node {}",
            endpoint.name,
            node_name(&inner.map, &endpoint.node)
        )
    })
}

fn free_mac(inner: &Inner, network: &Network, ips: &[IpAddr]) -> MacAddr {
    let wanted = ipam::mac_for(ips, rand::random());
    if mac_holder(inner, network, wanted).is_none() {
        return wanted;
    }
    // Somebody set the address by hand that goes with this IP.
    loop {
        let mac = ipam::mac_for(&[], rand::random());
        if mac_holder(inner, network, mac).is_none() {
            return mac;
        }
    }
}

fn ip_taken(network: &Network, ip: IpAddr, holder: &str) -> ApiError {
    ApiError::conflict(
        "ip_taken",
        format!(
            "address {ip} of network {} is taken by {holder}",
            network.name
        ),
    )
    .hint(format!(
        "choose another --ip, or leave it out; `weft network inspect {}` lists who has what",
        network.name
    ))
}

fn not_connected(inner: &Inner, network: &str, request: &api::Disconnect) -> ApiError {
    let what = match (&request.name, &request.netns) {
        (Some(name), _) => format!("endpoint {name}"),
        (None, Some(api::NetnsArg::Name(name))) => format!("namespace {name}"),
        (None, Some(api::NetnsArg::Path(path))) => format!("namespace {}", path.display()),
        (None, Some(api::NetnsArg::Pid(pid))) => format!("process {pid}"),
        (None, None) => "nothing".to_owned(),
    };
    let elsewhere = request.name.as_ref().and_then(|name| {
        let network = inner.map.network_named(network)?;
        let endpoint = inner
            .map
            .endpoints_of(&network.id)
            .find(|endpoint| endpoint.name == *name)?;
        Some(node_name(&inner.map, &endpoint.node))
    });
    let error = ApiError::not_found(
        "not_connected",
        format!("{what} has no port on network {network} on this node"),
    );
    match elsewhere {
        Some(node) => error.hint(format!("it is on node {node}: disconnect it there")),
        None => error.hint("see `weft ports`"),
    }
}

fn with_prefixes(network: &Network, ips: &[IpAddr]) -> Vec<IpNet> {
    ips.iter()
        .filter_map(|ip| {
            let subnet = network.subnet_of(*ip)?;
            IpNet::new(*ip, subnet.cidr.prefix_len()).ok()
        })
        .collect()
}

/// Makes the TAP and configures it. Dropping the file descriptors destroys it again, wherever it is.
fn make_device(
    mut record: PortRecord,
    netns: &Netns,
    (wanted, gateways): (Option<String>, Vec<IpAddr>),
    queues: usize,
) -> Result<(PortRecord, TapDevice), ApiError> {
    let (kind, queues) = if record.plain {
        (PortKind::Plain, 1)
    } else {
        (PortKind::Offload, queues)
    };
    // Unique on this host until it is renamed in its namespace: 4 + 11 bytes of the endpoint's id.
    let name = format!("weft{}", &record.endpoint.id.0[..11]);
    let tap =
        create_tap(&name, kind, queues).map_err(|error| ApiError::internal(error.to_string()))?;
    let candidates: Vec<String> = match wanted {
        Some(name) => vec![name],
        None => (0..IFNAME_TRIES)
            .map(|number| format!("eth{number}"))
            .collect(),
    };
    let last = candidates.len() - 1;
    for (index, ifname) in candidates.into_iter().enumerate() {
        let spec = AttachSpec {
            tap: tap.name.clone(),
            ifindex: tap.ifindex,
            ifname: ifname.clone(),
            mac: record.endpoint.mac,
            mtu: record.mtu,
            tx_queue_len: TX_QUEUE_LEN,
            addresses: record.addresses.clone(),
            gateways: gateways.clone(),
        };
        match link::attach(netns, &spec) {
            Ok(_) => {
                record.ifname = ifname;
                return Ok((record, tap));
            }
            Err(LinkError::InterfaceExists { .. }) if index < last => {}
            Err(error) => return Err(attach_error(error)),
        }
    }
    Err(ApiError::internal("no interface name was tried"))
}

fn attach_error(error: LinkError) -> ApiError {
    let message = error.to_string();
    if matches!(error, LinkError::InterfaceExists { .. }) {
        return ApiError::conflict("interface_exists", message)
            .hint("choose another --ifname, or leave it out to get the next free ethN");
    }
    ApiError::internal(message)
}

/// Runs what may wait on the kernel or the disk away from the runtime's threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| {
            Err(ApiError::internal(format!(
                "the agent failed on this request: {error}"
            )))
        })
}
