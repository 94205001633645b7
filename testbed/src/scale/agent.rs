//! One simulated agent: a member of the cluster with a link, and endpoints that no container has.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;
use tokio::sync::{mpsc, watch};
use weft_control::channel::{
    Answer, JoinRequest, Link, LinkConfig, LinkEvent, NodeFacts, Reply, Request, RequestError, join,
};
use weft_control::identity::{Identity, JoinToken};
use weft_control::model::{Change, Endpoint, EndpointId, Network, NetworkId, Object, Transport};
use weft_wire::{MacAddr, Mtu};

/// What an agent has heard so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard {
    pub(crate) sessions: usize,
    pub(crate) caught_up: usize,
    pub(crate) reported: usize,
    pub(crate) revision: u64,
    pub(crate) watched: usize,
    /// The highest epoch of an endpoint: numbers the changes that are measured.
    pub(crate) epoch: u64,
    /// Networks that changed: that concerns everybody.
    pub(crate) mtu_changes: usize,
    pub(crate) networks: Vec<Network>,
    /// When and why sessions ended, or didn't come about.
    pub(crate) downs: Vec<(Instant, String)>,
    /// When the newest session began.
    pub(crate) up: Option<Instant>,
}

/// One of many.
pub(crate) struct Agent {
    pub(crate) identity: Identity,
    pub(crate) link: Link,
    pub(crate) heard: watch::Receiver<Heard>,
    pub(crate) endpoints: Arc<std::sync::Mutex<Vec<Endpoint>>>,
}

fn facts(number: usize) -> NodeFacts {
    // 127.0.0.0/16 is the controller's.
    let number = u32::try_from(number).unwrap_or(u32::MAX) + (1 << 16);
    NodeFacts {
        underlay: Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 0, 0, 0)) + number).into(),
        underlay_mtu: Mtu::ETHERNET,
        vxlan_port: 4789,
        encrypted_port: None,
        transports: vec![Transport::Vxlan],
        version: "scale".to_owned(),
    }
}

impl Agent {
    /// Joins and starts a link; hears of all networks when `all`.
    pub(crate) async fn start(
        (number, all): (usize, bool),
        controller: SocketAddr,
        (token, dir): (JoinToken, PathBuf),
    ) -> Result<Self, String> {
        let request = JoinRequest {
            node_name: format!("n{number}"),
            facts: facts(number),
        };
        let identity = join(&[controller], &token, &request, &dir).await;
        let identity = identity.map_err(|error| format!("n{number}: {error}"))?;
        let config = LinkConfig {
            identity: identity.clone(),
            identity_dir: None,
            controllers: vec![controller],
            facts: request.facts,
            have: 0,
            incarnation: String::new(),
            interest: (!all).then(BTreeSet::new),
            has: (!all).then(BTreeSet::new),
        };
        let (link, events) = Link::start(config).map_err(|error| error.to_string())?;
        let (heard_in, heard) = watch::channel(Heard::default());
        let endpoints = Arc::default();
        let (reporter, mine) = (link.clone(), Arc::clone(&endpoints));
        tokio::spawn(hear(events, heard_in, (reporter, mine)));
        Ok(Self {
            identity,
            link,
            heard,
            endpoints,
        })
    }

    /// Waits until it has heard that.
    pub(crate) async fn wait(&self, fits: impl FnMut(&Heard) -> bool) {
        let mut heard = self.heard.clone();
        // The sender lives as long as the link.
        let _ = heard.wait_for(fits).await;
    }

    pub(crate) async fn ask(&self, request: Request) -> Result<Reply, String> {
        loop {
            match self.link.request(request.clone()).await {
                Ok(reply) => return Ok(reply),
                Err(RequestError::Refused(refusal)) => return Err(refusal.to_string()),
                // Beside a thousand others it may take longer than an agent waits.
                Err(RequestError::TimedOut | RequestError::Offline { .. }) => {
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Takes a block of each network, fills it with endpoints, and reports them.
    pub(crate) async fn populate(
        &self,
        networks: &[(NetworkId, IpNet)],
        per_network: usize,
    ) -> Result<(), String> {
        for (network, subnet) in networks {
            let request = Request::AllocateBlock {
                network: network.clone(),
                subnet: *subnet,
            };
            let block = self
                .ask(request)
                .await?
                .block
                .ok_or("no block in the reply")?;
            let hosts = block.hosts().filter(|ip| *ip != gateway(*subnet));
            let new: Vec<Endpoint> = hosts
                .take(per_network)
                .map(|ip| self.endpoint(network, ip))
                .collect();
            if new.len() < per_network {
                return Err(format!(
                    "block {block} is too small for {per_network} endpoints"
                ));
            }
            lock(&self.endpoints).extend(new);
        }
        self.report().await
    }

    async fn report(&self) -> Result<(), String> {
        let endpoints = lock(&self.endpoints).clone();
        let reply = self.ask(Request::SyncEndpoints { endpoints }).await?;
        match reply.rejected.first() {
            Some((id, refusal)) => Err(format!("endpoint {id}: {refusal}")),
            None => Ok(()),
        }
    }

    fn endpoint(&self, network: &NetworkId, ip: IpAddr) -> Endpoint {
        let bytes = match ip {
            IpAddr::V4(ip) => ip.octets(),
            IpAddr::V6(_) => [0; 4],
        };
        let [a, b, c, d] = bytes;
        Endpoint {
            id: EndpointId(format!("e-{ip}")),
            network: network.clone(),
            node: self.identity.node_id.clone(),
            name: format!("c-{a}-{b}-{c}-{d}"),
            aliases: vec!["web".to_owned()],
            mac: MacAddr([2, 0x57, a, b, c, d]),
            ips: vec![ip],
            epoch: 1,
        }
    }
}

fn gateway(subnet: IpNet) -> IpAddr {
    subnet.hosts().next().unwrap_or(subnet.addr())
}

pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Counts what comes, and reports all endpoints at each new session, as an agent does.
async fn hear(
    mut events: mpsc::Receiver<LinkEvent>,
    heard: watch::Sender<Heard>,
    (link, endpoints): (Link, Arc<std::sync::Mutex<Vec<Endpoint>>>),
) {
    let heard = Arc::new(heard);
    while let Some(event) = events.recv().await {
        match event {
            LinkEvent::Up { .. } => {
                heard.send_modify(|heard| {
                    heard.sessions += 1;
                    heard.up = Some(Instant::now());
                });
                let (link, heard) = (link.clone(), Arc::clone(&heard));
                let endpoints = lock(&endpoints).clone();
                tokio::spawn(async move {
                    let sessions = heard.borrow().sessions;
                    let report = || Request::SyncEndpoints {
                        endpoints: endpoints.clone(),
                    };
                    while heard.borrow().sessions == sessions {
                        if link.request(report()).await.is_ok() {
                            heard.send_modify(|heard| heard.reported = sessions);
                            return;
                        }
                        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
                    }
                });
            }
            LinkEvent::CaughtUp => heard.send_modify(|heard| heard.caught_up = heard.sessions),
            LinkEvent::Snapshot { map, .. } => heard.send_modify(|heard| {
                heard.revision = map.revision;
                heard.networks = map.networks.into_values().map(|of| of.object).collect();
            }),
            LinkEvent::Changes { changes, up_to } => heard.send_modify(|heard| {
                heard.revision = heard.revision.max(up_to);
                for (_, change) in changes {
                    heard.note(change);
                }
            }),
            LinkEvent::Watched { networks, .. } => {
                let watched = networks.map_or(0, |networks| networks.len());
                heard.send_modify(|heard| heard.watched = watched);
            }
            LinkEvent::Ask { answer, .. } => {
                let _ = answer.send(Answer::Yielded);
            }
            LinkEvent::Down { reason } => {
                heard.send_modify(|heard| heard.downs.push((Instant::now(), reason)))
            }
            LinkEvent::Refused { refusal } => {
                let down = (Instant::now(), refusal.to_string());
                heard.send_modify(|heard| heard.downs.push(down));
            }
            LinkEvent::Controllers { .. } => {}
        }
    }
}

impl Heard {
    fn note(&mut self, change: Change) {
        match change {
            Change::Put(Object::Endpoint(endpoint)) => self.epoch = self.epoch.max(endpoint.epoch),
            Change::Put(Object::Network(network)) => {
                let known = self
                    .networks
                    .iter_mut()
                    .find(|known| known.id == network.id);
                match known {
                    Some(known) => {
                        *known = network;
                        self.mtu_changes += 1;
                    }
                    None => self.networks.push(network),
                }
            }
            Change::Put(_) | Change::Delete(_) => {}
        }
    }
}
