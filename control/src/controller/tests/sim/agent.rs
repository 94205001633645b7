//! An agent as it is seen from its controllers: it follows the map, gives addresses of its own blocks without asking,
//! claims others, tells of its endpoints, and tells all of them at the beginning of a session.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use weft_wire::MacAddr;

use super::super::super::Core;
use super::super::super::audience::Audience;
use super::super::super::ledger::News;
use super::{CONTROLLERS, NETWORK, SUBNET, World};
use crate::channel::{Answer, Ask, Refusal, Reply, Request};
use crate::model::{ClusterMap, Endpoint, EndpointId, NetworkId, NodeId, Revision};

/// Until a request counts as unanswered.
const PATIENCE: Duration = Duration::from_secs(5);
/// As long as real agents keep what they promised to others (`agent::reconcile`).
const YIELD_PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct SimAgent {
    pub(super) node: NodeId,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    map: ClusterMap,
    incarnation: String,
    /// The controller's place and life.
    at: Option<(usize, u64)>,
    /// Sessions so far: an older one's news are nobody's.
    session: u64,
    ports: BTreeMap<EndpointId, Endpoint>,
    yielded: BTreeMap<IpAddr, Instant>,
    epoch: u64,
    made: u32,
}

impl SimAgent {
    pub(super) fn new(node: NodeId) -> Self {
        Self {
            node,
            inner: Mutex::default(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    pub(super) fn map(&self) -> ClusterMap {
        self.inner().map.clone()
    }

    pub(super) fn ports(&self) -> BTreeMap<EndpointId, Endpoint> {
        self.inner().ports.clone()
    }

    pub(super) fn hang_up(&self) {
        self.inner().at = None;
    }

    /// A controller asks, whichever it is; `None` when there is no session.
    pub(super) fn answer(&self, Ask::Yield { ip, .. }: &Ask) -> Option<Answer> {
        let mut inner = self.inner();
        inner.at?;
        let holder = inner.ports.values().find(|port| port.ips.contains(ip));
        if let Some(holder) = holder {
            let endpoint = holder.name.clone();
            return Some(Answer::InUse { endpoint });
        }
        inner.yielded.insert(*ip, Instant::now());
        Some(Answer::Yielded)
    }

    /// Keeps a session with some controller, for ever.
    pub(super) async fn follow(self: Arc<Self>, world: Arc<World>) {
        loop {
            let place = world.chance.below(CONTROLLERS);
            let core = world.core(place);
            let life = world.controllers.lock().unwrap()[place].life;
            if let Some(core) = core {
                self.session(&world, &core, (place, life)).await;
            }
            self.hang_up();
            world.chance.pause(Duration::from_secs(1)).await;
        }
    }

    async fn session(self: &Arc<Self>, world: &Arc<World>, core: &Core, at: (usize, u64)) {
        let is_up = || {
            let same = world.controllers.lock().unwrap()[at.0].life == at.1;
            same && self.inner().at == Some(at)
        };
        let (have, incarnation) = {
            let mut inner = self.inner();
            inner.at = Some(at);
            inner.session += 1;
            (inner.map.revision, inner.incarnation.clone())
        };
        let Ok(Ok(known)) = timeout(PATIENCE, core.ledger.recognise(have, &incarnation)).await
        else {
            return;
        };
        self.inner().incarnation = core.ledger.incarnation();
        let mut have = known.then_some(have);
        let everything = Audience {
            node: self.node.clone(),
            interest: None,
        };
        let mut revisions = core.ledger.revisions();
        let mut told = false;
        while is_up() {
            revisions.borrow_and_update();
            let news = core.ledger.since(have, (&everything, &everything));
            world.chance.pause(Duration::from_millis(100)).await;
            if !is_up() {
                return;
            }
            have = Some(self.take(news));
            if !told {
                told = true;
                let (agent, world) = (Arc::clone(self), Arc::clone(world));
                tokio::spawn(async move { agent.tell_all(&world, at).await });
            }
            // A session whose other side is dead is noticed by silence.
            while is_up()
                && timeout(Duration::from_secs(2), revisions.changed())
                    .await
                    .is_err()
            {}
        }
    }

    fn take(&self, news: News) -> Revision {
        let mut inner = self.inner();
        match news {
            News::Everything(map) => inner.map = map,
            News::Changes(changes, _, newest) => {
                for (revision, change) in changes {
                    assert_eq!(revision, inner.map.revision + 1, "no gap, no repetition");
                    inner.map.apply(revision, change);
                }
                assert_eq!(inner.map.revision, newest);
            }
        }
        inner
            .yielded
            .retain(|_, since| since.elapsed() < YIELD_PATIENCE);
        inner.map.revision
    }

    /// The full report, until it is taken or the session ends.
    async fn tell_all(&self, world: &Arc<World>, at: (usize, u64)) {
        while self.inner().at == Some(at) {
            let endpoints: Vec<Endpoint> = self.inner().ports.values().cloned().collect();
            let told = self
                .ask(
                    world,
                    Request::SyncEndpoints {
                        endpoints: endpoints.clone(),
                    },
                )
                .await;
            let same = self.inner().ports.values().cloned().collect::<Vec<_>>() == endpoints;
            match told {
                Some(Ok(reply)) => {
                    assert_eq!(reply.rejected, [], "{} may have them all", self.node);
                    if same {
                        return;
                    }
                }
                Some(Err(_)) | None => sleep(Duration::from_millis(500)).await,
            }
        }
    }

    /// A request on its way there and back; `None` when no answer comes, whatever was done.
    async fn ask(&self, world: &Arc<World>, request: Request) -> Option<Result<Reply, Refusal>> {
        let (place, life) = self.inner().at?;
        let core = world.core(place)?;
        if world.controllers.lock().unwrap()[place].life != life {
            return None;
        }
        let lost = |world: &World| world.is_trouble() && world.chance.one_in(12);
        let asked = async {
            world.chance.pause(Duration::from_millis(50)).await;
            if lost(world) {
                return None;
            }
            if world.is_trouble() && world.chance.one_in(12) {
                // It arrives twice, the second time later.
                let (core, again, node) = (Arc::clone(&core), request.clone(), self.node.clone());
                let chance = world.chance.clone();
                let is_idempotent = !matches!(
                    again,
                    Request::SyncEndpoints { .. } | Request::PutEndpoint { .. }
                );
                if is_idempotent {
                    tokio::spawn(async move {
                        chance.pause(Duration::from_secs(3)).await;
                        let _ = timeout(PATIENCE, core.handle(&node, again)).await;
                    });
                }
            }
            let answer = core.handle(&self.node, request).await;
            world.chance.pause(Duration::from_millis(50)).await;
            (!lost(world)).then_some(answer)
        };
        timeout(PATIENCE, asked).await.ok().flatten()
    }

    /// Connects and disconnects, so many times.
    pub(super) async fn work(self: Arc<Self>, world: Arc<World>, actions: usize) {
        for _ in 0..actions {
            world.chance.pause(Duration::from_secs(2)).await;
            match world.chance.below(6) {
                0..=2 => self.connect(&world).await,
                3 => self.connect_fixed(&world).await,
                _ => self.disconnect(&world).await,
            }
        }
    }

    /// With any address of its own blocks.
    async fn connect(&self, world: &Arc<World>) {
        for _ in 0..2 {
            let free = {
                let inner = self.inner();
                let all = inner.map.blocks.values().map(|of| &of.object);
                let own = all.filter(|block| block.node == self.node);
                let free = own
                    .flat_map(|block| block.prefix.hosts())
                    .find(|ip| self.may_give(&inner, *ip));
                free.inspect(|ip| world.give(*ip, &self.node))
            };
            if let Some(ip) = free {
                return self.plug(world, ip).await;
            }
            let request = Request::AllocateBlock {
                network: NetworkId(NETWORK.to_owned()),
                subnet: SUBNET.parse().unwrap(),
            };
            match self.ask(world, request).await {
                Some(Ok(reply)) => self.reach(reply.revision).await,
                Some(Err(_)) | None => return,
            }
        }
    }

    /// With an address that may be another's.
    async fn connect_fixed(&self, world: &Arc<World>) {
        let last = u8::try_from(world.chance.below(62)).unwrap() + 1;
        let ip = IpAddr::from([10, 0, 0, last]);
        for _ in 0..2 {
            let ours = {
                let inner = self.inner();
                let ours = self.may_give(&inner, ip);
                if ours {
                    world.give(ip, &self.node);
                }
                ours
            };
            if ours {
                return self.plug(world, ip).await;
            }
            let busy = {
                let inner = self.inner();
                inner.yielded.contains_key(&ip)
                    || inner.ports.values().any(|port| port.ips.contains(&ip))
            };
            if busy {
                return;
            }
            let network = NetworkId(NETWORK.to_owned());
            match self.ask(world, Request::ClaimAddress { network, ip }).await {
                Some(Ok(reply)) => self.reach(reply.revision).await,
                Some(Err(_)) | None => return,
            }
        }
    }

    /// By the map and what it promised.
    fn may_give(&self, inner: &Inner, ip: IpAddr) -> bool {
        let network = NetworkId(NETWORK.to_owned());
        let usable = inner
            .map
            .network(&network)
            .and_then(|network| network.subnet_of(ip))
            .is_some_and(|subnet| subnet.is_host_address(ip));
        let ours = inner
            .map
            .block_of(&network, ip)
            .is_some_and(|block| block.node == self.node);
        usable
            && ours
            && !inner.yielded.contains_key(&ip)
            && !inner.ports.values().any(|port| port.ips.contains(&ip))
    }

    /// Waits for the map to show what was done.
    async fn reach(&self, revision: Revision) {
        let reached = async {
            while self.inner().map.revision < revision {
                sleep(Duration::from_millis(20)).await;
            }
        };
        let _ = timeout(PATIENCE, reached).await;
    }

    /// The address is in use from now on.
    async fn plug(&self, world: &Arc<World>, ip: IpAddr) {
        let endpoint = {
            let mut inner = self.inner();
            inner.epoch = inner.epoch.max(inner.map.revision) + 1;
            inner.made += 1;
            let IpAddr::V4(v4) = ip else {
                unreachable!("an IPv4 subnet")
            };
            let [a, b, c, d] = v4.octets();
            let name = format!("{}-{}", self.node, inner.made);
            Endpoint {
                id: EndpointId(name.clone()),
                network: NetworkId(NETWORK.to_owned()),
                node: self.node.clone(),
                name,
                aliases: Vec::new(),
                mac: MacAddr([2, 0x57, a, b, c, d]),
                ips: vec![ip],
                epoch: inner.epoch,
            }
        };
        self.inner()
            .ports
            .insert(endpoint.id.clone(), endpoint.clone());
        let refused = match self
            .ask(
                world,
                Request::PutEndpoint {
                    endpoint: endpoint.clone(),
                },
            )
            .await
        {
            Some(Err(refusal)) => refusal.code != "store_failed",
            Some(Ok(_)) => false,
            None => {
                // Nobody knows what became of it: the full report says it again.
                self.report_again(world);
                false
            }
        };
        assert!(!refused, "{} may have {ip}", self.node);
        self.report_again(world);
    }

    async fn disconnect(&self, world: &Arc<World>) {
        let port = {
            let mut inner = self.inner();
            let count = inner.ports.len();
            if count == 0 {
                return;
            }
            let at = world.chance.below(count);
            let id = inner.ports.keys().nth(at).cloned().unwrap();
            inner.ports.remove(&id).unwrap()
        };
        world.take(port.ips[0]);
        let done = self
            .ask(world, Request::DeleteEndpoint { id: port.id })
            .await;
        if !matches!(done, Some(Ok(_))) {
            self.report_again(world);
        }
    }

    /// A new session brings a full report.
    fn report_again(&self, world: &World) {
        if world.chance.one_in(4) {
            self.hang_up();
        }
    }
}
