//! Controller and agents' links together, on loopback addresses of their own.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use ipnet::IpNet;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use weft_wire::{MacAddr, Mtu};

use super::*;
use crate::api::NetworkCreate;
use crate::channel::messages::{Hello, JoinHello, PROTOCOLS, Protocols, Welcome};
use crate::channel::{
    Answer, Ask, JoinError, JoinRequest, Link, LinkConfig, LinkEvent, NodeFacts, Refusal, Reply,
    Request, RequestError, codec, join,
};
use crate::identity::{Identity, NodeKey};
use crate::model::{
    ClusterMap, Coverage, Endpoint, EndpointId, Network, NetworkId, NodeId, Transport,
};
use crate::store::StoreError;
use crate::store::etcd::EtcdConfig;

mod admission;
mod channel;
mod hostile;
mod interest;
mod life;
mod renewal;
mod sim;

const PATIENCE: Duration = Duration::from_secs(10);

/// A loopback address that no other test has.
fn own_address() -> IpAddr {
    static COUNTER: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let counter = COUNTER.fetch_add(1, Ordering::Relaxed);
    Ipv4Addr::new(127, high | 0x40, low, counter).into()
}

/// A controller that can be stopped, killed and started again on the same address and data.
struct Keeper {
    data: TempDir,
    listen: SocketAddr,
    cert_ttl: Duration,
    /// A store that is shared, if it is.
    store: Option<EtcdConfig>,
    running: Option<(ControllerHandle, Runtime)>,
}

impl Keeper {
    async fn start() -> Self {
        Self::start_with(CERT_TTL).await
    }

    async fn start_with(cert_ttl: Duration) -> Self {
        Self::start_on(None, cert_ttl).await
    }

    async fn start_on(store: Option<EtcdConfig>, cert_ttl: Duration) -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut keeper = Self {
            data,
            listen: SocketAddr::new(own_address(), 0),
            cert_ttl,
            store,
            running: None,
        };
        keeper.start_again().await;
        keeper
    }

    async fn start_again(&mut self) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let config = ControllerConfig {
            cert_ttl: self.cert_ttl,
            store: self.store.clone(),
            ..ControllerConfig::new(self.data.path().to_owned(), self.listen)
        };
        // What a killed controller left of its tasks may hold the store a moment longer.
        let handle = runtime.spawn(async move {
            for _ in 0..100 {
                match start(config.clone()).await {
                    Err(
                        ControllerError::Store(StoreError::Locked { .. })
                        | ControllerError::PortTaken { .. },
                    ) => tokio::time::sleep(Duration::from_millis(10)).await,
                    other => return other,
                }
            }
            start(config).await
        });
        let handle = handle.await.unwrap().unwrap();
        self.listen = handle.address();
        self.running = Some((handle, runtime));
    }

    async fn stop(&mut self) {
        let (handle, runtime) = self.running.take().unwrap();
        runtime.spawn(handle.stop()).await.unwrap();
        runtime.shutdown_background();
    }

    /// No last word to anybody.
    fn kill(&mut self) {
        if let Some((handle, runtime)) = self.running.take() {
            runtime.shutdown_background();
            drop(handle);
        }
    }

    fn handle(&self) -> &ControllerHandle {
        &self.running.as_ref().unwrap().0
    }

    async fn token(&self) -> JoinToken {
        self.handle()
            .mint_token(Duration::from_secs(60))
            .await
            .unwrap()
    }

    /// A token for several nodes.
    async fn several(&self, uses: u32) -> JoinToken {
        let ttl = Duration::from_secs(60);
        let minted = self.handle().core.mint_token(TokenSpec { ttl, uses });
        minted.await.unwrap()
    }

    async fn join(&self, name: &str, dir: &TempDir) -> Result<Identity, JoinError> {
        let token = self.token().await;
        join(&[self.listen], &token, &request(name), dir.path()).await
    }

    /// A member with a running link.
    async fn agent(&self, name: &str) -> Agent {
        let dir = tempfile::tempdir().unwrap();
        let facts = facts();
        let request = JoinRequest {
            node_name: name.to_owned(),
            facts: facts.clone(),
        };
        let identity = join(&[self.listen], &self.token().await, &request, dir.path())
            .await
            .unwrap();
        Agent::start(identity, vec![self.listen], facts)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.kill();
    }
}

fn facts() -> NodeFacts {
    NodeFacts {
        underlay: own_address(),
        underlay_mtu: Mtu::ETHERNET,
        vxlan_port: 4789,
        encrypted_port: None,
        transports: vec![Transport::Vxlan],
        version: "test".to_owned(),
    }
}

fn request(name: &str) -> JoinRequest {
    JoinRequest {
        node_name: name.to_owned(),
        facts: facts(),
    }
}

/// What an agent has seen.
#[derive(Debug, Default)]
struct Seen {
    node: Option<NodeId>,
    coverage: Option<Coverage>,
    wish: u64,
    map: ClusterMap,
    incarnation: String,
    snapshots: usize,
    changes: usize,
    ups: usize,
    caught_up: usize,
    watched: Option<BTreeSet<NetworkId>>,
    up: bool,
    down: Option<String>,
    refused: Option<Refusal>,
}

/// An agent's link and a copy of the map.
struct Agent {
    identity: Identity,
    facts: NodeFacts,
    link: Link,
    seen: watch::Receiver<Seen>,
    /// Addresses that it has and won't yield.
    in_use: Arc<Mutex<BTreeSet<IpAddr>>>,
}

impl Agent {
    fn start(identity: Identity, controllers: Vec<SocketAddr>, facts: NodeFacts) -> Self {
        Self::start_with(
            identity,
            controllers,
            (facts, ClusterMap::default(), String::new()),
            None,
        )
    }

    fn start_with(
        identity: Identity,
        controllers: Vec<SocketAddr>,
        (facts, map, incarnation): (NodeFacts, ClusterMap, String),
        interest: Option<BTreeSet<NetworkId>>,
    ) -> Self {
        let config = LinkConfig {
            identity: identity.clone(),
            identity_dir: None,
            controllers,
            facts: facts.clone(),
            have: map.revision,
            incarnation: incarnation.clone(),
            has: interest.as_ref().map(|_| BTreeSet::new()),
            interest,
        };
        let (link, mut events) = Link::start(config).unwrap();
        let (seen_in, seen) = watch::channel(Seen {
            node: Some(identity.node_id.clone()),
            map,
            incarnation,
            ..Seen::default()
        });
        let in_use = Arc::new(Mutex::new(BTreeSet::new()));
        let kept = Arc::clone(&in_use);
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                seen_in.send_modify(|seen| seen.handle(event, &kept.lock().unwrap()));
            }
        });
        Self {
            identity,
            facts,
            link,
            seen,
            in_use,
        }
    }

    async fn wait(&self, what: &str, fits: impl FnMut(&Seen) -> bool) {
        let mut seen = self.seen.clone();
        let waited = tokio::time::timeout(PATIENCE, seen.wait_for(fits)).await;
        if waited.is_err() {
            panic!(
                "{}: never {what}: {:?}",
                self.identity.node_name,
                *self.seen.borrow()
            );
        }
    }

    async fn wait_up(&self) {
        self.wait("caught up", |seen| seen.up && seen.caught_up >= seen.ups)
            .await;
    }

    async fn wait_revision(&self, revision: u64) {
        self.wait("at the revision", |seen| seen.map.revision >= revision)
            .await;
    }

    async fn ask(&self, request: Request) -> Result<Reply, Refusal> {
        match self.link.request(request).await {
            Ok(reply) => Ok(reply),
            Err(RequestError::Refused(refusal)) => Err(refusal),
            Err(other) => panic!("{}: {other}", self.identity.node_name),
        }
    }

    /// Asks and waits until it shows here.
    async fn done(&self, request: Request) -> Reply {
        let reply = self.ask(request).await.unwrap();
        self.wait_revision(reply.revision).await;
        reply
    }

    fn map(&self) -> ClusterMap {
        self.seen.borrow().map.clone()
    }

    fn network(&self, name: &str) -> Network {
        self.map().network_named(name).unwrap().clone()
    }

    async fn create(&self, name: &str, subnets: &[&str]) -> Network {
        let subnets = subnets
            .iter()
            .map(|subnet| subnet.parse().unwrap())
            .collect();
        let create = NetworkCreate {
            name: name.to_owned(),
            subnets,
            ..NetworkCreate::default()
        };
        self.done(Request::CreateNetwork { create }).await;
        self.network(name)
    }

    async fn block(&self, network: &Network) -> IpNet {
        let request = Request::AllocateBlock {
            network: network.id.clone(),
            subnet: network.subnets[0].cidr,
        };
        self.done(request).await.block.unwrap()
    }

    fn endpoint(&self, network: &Network, name: &str, ip: IpAddr) -> Endpoint {
        let IpAddr::V4(v4) = ip else {
            panic!("tests use IPv4")
        };
        let [a, b, c, d] = v4.octets();
        Endpoint {
            id: EndpointId(format!("{}-{name}", self.identity.node_name)),
            network: network.id.clone(),
            node: self.identity.node_id.clone(),
            name: name.to_owned(),
            aliases: Vec::new(),
            mac: MacAddr([2, 0x57, a, b, c, d]),
            ips: vec![ip],
            epoch: 1,
        }
    }
}

impl Seen {
    fn handle(&mut self, event: LinkEvent, in_use: &BTreeSet<IpAddr>) {
        match event {
            LinkEvent::Up { .. } => {
                self.up = true;
                self.ups += 1;
                self.refused = None;
                if let Some(coverage) = &self.coverage {
                    let node = self.node.as_ref().unwrap();
                    coverage.resumed((&mut self.map, node));
                }
            }
            LinkEvent::Down { reason } => {
                self.up = false;
                self.down = Some(reason);
            }
            LinkEvent::Controllers { .. } => {}
            LinkEvent::Refused { refusal } => {
                self.up = false;
                self.refused = Some(refusal);
            }
            LinkEvent::Snapshot {
                incarnation,
                map,
                has,
            } => {
                self.coverage = Some(Coverage::of(has));
                self.snapshots += 1;
                self.incarnation = incarnation;
                self.map = *map;
            }
            LinkEvent::Changes { changes, up_to } => {
                self.handle_changes(changes, up_to);
            }
            LinkEvent::CaughtUp => self.caught_up = self.ups,
            LinkEvent::Watched { networks, wish } => {
                let coverage = self.coverage.get_or_insert_with(|| Coverage::of(None));
                let node = self.node.as_ref().unwrap();
                coverage.watched((&mut self.map, node), networks.clone());
                (self.watched, self.wish) = (networks, wish);
            }
            LinkEvent::Ask {
                ask: Ask::Yield { ip, .. },
                answer,
            } => {
                let said = match in_use.contains(&ip) {
                    true => Answer::InUse {
                        endpoint: "held".to_owned(),
                    },
                    false => Answer::Yielded,
                };
                answer.send(said).unwrap();
            }
            LinkEvent::Ask {
                ask: Ask::Renew, ..
            } => panic!("the link's own business"),
        }
    }

    fn handle_changes(&mut self, changes: Vec<(u64, crate::model::Change)>, up_to: u64) {
        self.changes += changes.len();
        for (revision, _) in &changes {
            // What is on a network that is watched from now on is told late.
            let late = self.watched.is_some();
            assert!(*revision > self.map.revision || late, "no repetition");
        }
        assert!(up_to >= self.map.revision);
        let coverage = self.coverage.get_or_insert_with(|| Coverage::of(None));
        let node = self.node.as_ref().unwrap();
        coverage.changed((&mut self.map, node), changes, up_to);
    }
}

fn refusal(result: Result<Identity, JoinError>) -> Refusal {
    match result {
        Err(JoinError::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}
