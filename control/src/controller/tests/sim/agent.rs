//! An agent as its controllers see it: it follows the map, gives addresses of its own blocks without asking, claims others,
//! gives blocks back, tells of each endpoint, and tells all of them at the beginning of a session and whenever it doesn't
//! know what became of what it told. Each rule is one of `crate::agent`'s: see `attach`, `claims`, `detach`, `session`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::{RwLock, oneshot};
use tokio::time::{Instant, sleep, timeout};
use weft_wire::MacAddr;

use super::super::super::Core;
use super::super::super::decide::endpoint::Claims;
use super::super::super::ledger::News;
use super::super::super::requests::{Asker, MOVED};
use super::super::super::session::enter;
use super::{Chance, NETWORK, SUBNET, World, facts};
use crate::channel::messages::{Hello, PROTOCOLS, STORE_FAILED};
use crate::channel::{Answer, Ask, Refusal, Reply, Request};
use crate::model::{
    Change, ClusterMap, Endpoint, EndpointId, Key, NetworkId, NodeId, Revision, next_epoch,
};

/// Until a call or a single report counts as unanswered.
const CALL_PATIENCE: Duration = Duration::from_secs(2);
/// Until any other request does.
const PATIENCE: Duration = Duration::from_secs(5);
/// As long as real agents keep what they promised to others (`agent::reconcile`).
const YIELD_PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at what was refused, or isn't known as it is (`agent::session`).
const TELL_AGAIN: Duration = Duration::from_millis(500);
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// So long a controller may think of an agent that it is still there.
const UNNOTICED: Duration = Duration::from_secs(4);
/// Few, so that they meet.
const MACS: usize = 4;

pub(super) struct SimAgent {
    pub(super) number: usize,
    pub(super) node: NodeId,
    /// For its calls and sessions.
    calling: Chance,
    inner: Mutex<Inner>,
    /// A full report is sent while no single one is under way.
    reporting: RwLock<()>,
}

#[derive(Default)]
struct Inner {
    map: ClusterMap,
    incarnation: String,
    session: Option<Session>,
    sessions: u64,
    caught_up: bool,
    told: bool,
    ports: BTreeMap<EndpointId, Endpoint>,
    /// Connected while no controller answered, with a MAC that somebody else has: their addresses aren't theirs until the
    /// cluster takes them.
    refused: BTreeSet<EndpointId>,
    pending: BTreeMap<EndpointId, Endpoint>,
    /// Those under way that a full report came back with (`agent::refused`).
    unfit: BTreeSet<EndpointId>,
    leaving: BTreeMap<EndpointId, Endpoint>,
    /// How many are looking for an address: a claim comes before they can say that they have it.
    choosing: usize,
    yielded: BTreeMap<IpAddr, Instant>,
    returning: BTreeSet<IpNet>,
    epoch: u64,
    made: u32,
}

/// A session with the controller of that place and life. What is sent in it arrives in order.
#[derive(Clone)]
struct Session {
    number: u64,
    at: (usize, u64),
    order: Arc<tokio::sync::Mutex<()>>,
}

/// What became of a request.
enum Asked {
    Done(Reply),
    Refused(Refusal),
    /// It wasn't sent.
    Offline,
    /// Nobody knows.
    TimedOut,
}

impl Inner {
    fn own(&self) -> impl Iterator<Item = &Endpoint> {
        let under_way = self.pending.values().chain(self.leaving.values());
        self.ports.values().chain(under_way)
    }

    fn reported(&self) -> Vec<Endpoint> {
        self.ports
            .values()
            .chain(self.pending.values())
            .cloned()
            .collect()
    }

    /// Whether this node may give the address, by the map and by what it promised.
    fn may_give(&self, node: &NodeId, ip: IpAddr) -> bool {
        let network = network();
        let usable = self
            .map
            .network(&network)
            .and_then(|network| network.subnet_of(ip))
            .is_some_and(|subnet| subnet.is_host_address(ip));
        let block = self.map.block_of(&network, ip);
        let ours = block
            .is_some_and(|block| block.node == *node && !self.returning.contains(&block.prefix));
        let mut others = self.map.endpoints.with_ip(&network, ip);
        usable
            && ours
            && !self.yielded.contains_key(&ip)
            && !self.own().any(|own| own.ips.contains(&ip))
            && !others.any(|other| other.node != *node)
    }

    /// See `agent::claims`.
    fn stop_claims_of(&mut self, node: &NodeId, endpoint: &Endpoint) -> Vec<IpNet> {
        let ip = endpoint.ips[0];
        let mut own = self.own();
        let is_used = own.any(|own| own.id != endpoint.id && own.ips.contains(&ip));
        let claim = self.map.blocks.get(&(network(), IpNet::from(ip)));
        let ours = claim.filter(|claim| claim.object.node == *node && !is_used);
        let claims: Vec<IpNet> = ours.map(|claim| claim.object.prefix).into_iter().collect();
        drop(own);
        self.returning.extend(&claims);
        claims
    }

    fn stop_idle_claims(&mut self, node: &NodeId) -> Vec<IpNet> {
        if self.session.is_none() || !self.caught_up || !self.told {
            return Vec::new();
        }
        let used: BTreeSet<IpAddr> = self.own().map(|own| own.ips[0]).collect();
        let idle = self.map.unused_claims(node).map(|of| of.object.prefix);
        let idle = idle.filter(|prefix| !used.contains(&prefix.addr()) && self.choosing == 0);
        let idle: Vec<IpNet> = idle.collect();
        self.returning.extend(idle);
        self.settle(node);
        self.returning.iter().copied().collect()
    }

    fn known(&self, node: &NodeId) -> BTreeMap<EndpointId, Endpoint> {
        let known = self.map.endpoints.of_node(node);
        known.map(|of| (of.id.clone(), of.clone())).collect()
    }

    fn settle(&mut self, node: &NodeId) {
        self.yielded
            .retain(|_, since| since.elapsed() < YIELD_PATIENCE);
        let blocks = &self.map.blocks;
        self.returning.retain(|prefix| {
            let block = blocks.get(&(network(), *prefix));
            block.is_some_and(|block| block.object.node == *node)
        });
    }
}

impl SimAgent {
    pub(super) fn new(number: usize, (node, calling): (NodeId, Chance)) -> Self {
        Self {
            calling,
            number,
            node,
            inner: Mutex::default(),
            reporting: RwLock::default(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    pub(super) fn map(&self) -> ClusterMap {
        self.inner().map.clone()
    }

    /// Those that the cluster takes.
    pub(super) fn ports(&self) -> BTreeMap<EndpointId, Endpoint> {
        let inner = self.inner();
        let mut taken = inner.ports.clone();
        taken.retain(|id, _| !inner.refused.contains(id));
        taken
    }

    /// Of ports that the cluster doesn't take.
    pub(super) fn refused_addresses(&self) -> BTreeSet<IpAddr> {
        let inner = self.inner();
        let refused = inner.refused.iter().filter_map(|id| inner.ports.get(id));
        refused.flat_map(|port| port.ips.clone()).collect()
    }

    pub(super) fn hang_up(&self) {
        let mut inner = self.inner();
        inner.session = None;
        inner.caught_up = false;
    }

    /// A controller asks, whichever it is; `None` when there is no session.
    pub(super) fn answer(&self, ask: &Ask) -> Option<Answer> {
        let Ask::Yield { ip, .. } = ask else {
            return Some(Answer::Renewed);
        };
        let mut inner = self.inner();
        inner.session.as_ref()?;
        let holder = inner.own().find(|own| own.ips.contains(ip));
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
            let place = self.calling.below(world.count());
            if let Some((core, life)) = world.core(place) {
                self.call(&world, &core, (place, life)).await;
                let number = self.inner().sessions;
                self.hang_up();
                let after = self.calling.part(UNNOTICED);
                world.forget_session(place, (self.node.clone(), number), after);
            }
            self.calling.pause(Duration::from_secs(1)).await;
        }
    }

    async fn call(self: &Arc<Self>, world: &Arc<World>, core: &Arc<Core>, at: (usize, u64)) {
        let hello = {
            let inner = self.inner();
            Hello {
                protocols: PROTOCOLS,
                version: "sim".to_owned(),
                cluster: core.cluster.clone(),
                node: self.node.clone(),
                have: inner.map.revision,
                incarnation: inner.incarnation.clone(),
                facts: facts(self.number),
                credentials: None,
                interest: None,
                wish: 0,
                has: None,
                returns_claims: true,
            }
        };
        let entering = tokio::spawn({
            let (core, hello, world) = (Arc::clone(core), hello.clone(), Arc::clone(world));
            let pause = self.calling.part(Duration::from_millis(100));
            async move {
                sleep(pause).await;
                world.forget_sessions(at.0, &hello.node);
                enter(&core, &hello).await
            }
        });
        let abort = entering.abort_handle();
        let Ok(Ok(Ok(_))) = timeout(CALL_PATIENCE, entering).await else {
            // Whether the controller hears that the agent has gone is another question.
            if !world.is_trouble() || self.calling.one_in(2) {
                abort.abort();
            }
            return;
        };
        let number = self.begin(at);
        world.note_session(at.0, (self.node.clone(), number));
        let recognised = core
            .ledger
            .recognise((hello.have, &hello.incarnation), || Ok(()));
        let Ok(Ok(known)) = timeout(PATIENCE, recognised).await else {
            return;
        };
        self.inner().incarnation = core.ledger.incarnation();
        let have = known.then_some(hello.have);
        self.listen(world, core, (number, have)).await;
    }

    fn begin(&self, at: (usize, u64)) -> u64 {
        let mut inner = self.inner();
        inner.sessions += 1;
        let number = inner.sessions;
        inner.session = Some(Session {
            number,
            at,
            order: Arc::default(),
        });
        inner.told = false;
        number
    }

    fn is_in(&self, number: u64) -> bool {
        let inner = self.inner();
        inner.session.as_ref().is_some_and(|of| of.number == number)
    }

    async fn listen(
        self: &Arc<Self>,
        world: &Arc<World>,
        core: &Core,
        (number, have): (u64, Option<Revision>),
    ) {
        let seat = core.ledger.sit(&self.node);
        let place = (Arc::clone(&seat), &self.node);
        let mut view = core.ledger.view(place, have, None);
        let at = self.inner().session.clone().map(|session| session.at);
        let Some(at) = at else { return };
        let is_up = || {
            let is_known = world.has_session(at.0, (&self.node, number));
            is_known && world.is_alive(at) && self.is_in(number)
        };
        while is_up() {
            let Some(news) = core.ledger.news(&mut view, None) else {
                return;
            };
            self.calling.pause(Duration::from_millis(100)).await;
            if !is_up() {
                return;
            }
            self.take(news);
            // A session whose other side is dead is noticed by silence, one that isn't the newest is ended.
            let _ = timeout(Duration::from_secs(2), seat.woken()).await;
            if core.ledger.read(|map| core.has_moved(map, &self.node)) {
                sleep(Duration::from_millis(500)).await;
                if core.ledger.read(|map| core.has_moved(map, &self.node)) {
                    return;
                }
            }
        }
    }

    fn take(&self, news: News) {
        let mut inner = self.inner();
        if let Some(map) = news.everything {
            inner.map = map;
        }
        for (revision, change) in news.changes {
            assert!(revision > inner.map.revision, "in order, no repetition");
            if let Change::Delete(Key::Block(_, prefix)) = &change {
                inner.returning.remove(prefix);
            }
            inner.map.apply(revision, change);
        }
        inner.map.revision = news.newest;
        inner.caught_up = true;
        inner.settle(&self.node);
    }

    /// Tells the controller of all endpoints whenever it doesn't know them as they are, for ever.
    pub(super) async fn tell(self: Arc<Self>, world: Arc<World>) {
        let mut looked = Instant::now();
        loop {
            sleep(TELL_AGAIN).await;
            let look = looked.elapsed() >= LOOK_AGAIN;
            if look {
                looked = Instant::now();
                self.look();
            }
            if look || self.must_tell() {
                self.tell_all(&world).await;
                let idle = self.inner().stop_idle_claims(&self.node);
                self.return_claims(&world, idle).await;
            }
        }
    }

    fn look(&self) {
        let Ok(_order) = self.reporting.try_write() else {
            return;
        };
        let mut inner = self.inner();
        let known: BTreeSet<_> = inner.known(&self.node).into_keys().collect();
        let here = inner.ports.keys().chain(inner.pending.keys());
        let here: BTreeSet<_> = here
            .filter(|id| !inner.refused.contains(*id))
            .cloned()
            .collect();
        if !inner.refused.is_empty() || (inner.caught_up && known != here) {
            inner.told = false;
        }
    }

    fn must_tell(&self) -> bool {
        let inner = self.inner();
        inner.session.is_some() && !inner.told
    }

    async fn tell_all(self: &Arc<Self>, world: &Arc<World>) {
        let _order = self.reporting.write().await;
        if !self.must_tell() {
            return;
        }
        let endpoints = {
            let mut inner = self.inner();
            inner.told = true;
            inner.reported()
        };
        let asked = self
            .ask(world, (Request::SyncEndpoints { endpoints }, PATIENCE))
            .await;
        let mut inner = self.inner();
        let Asked::Done(reply) = asked else {
            inner.told = false;
            return;
        };
        let before = std::mem::take(&mut inner.refused);
        inner.unfit.clear();
        for (id, refusal) in reply.rejected {
            if inner.pending.contains_key(&id) {
                inner.unfit.insert(id);
                continue;
            }
            let Some(port) = inner.ports.get(&id) else {
                continue;
            };
            if !before.contains(&id) {
                let ip = port.ips[0];
                assert_eq!(
                    refusal.code,
                    "mac_taken",
                    "{} may have {port:?}; {}",
                    self.node,
                    world.story(ip)
                );
                world.take(port.ips[0]);
            }
            inner.refused.insert(id);
        }
        let again = before.difference(&inner.refused);
        for port in again.filter_map(|id| inner.ports.get(id)) {
            world.give(port.ips[0], &self.node);
        }
    }

    /// A request on its way there and back.
    async fn ask(&self, world: &Arc<World>, (request, patience): (Request, Duration)) -> Asked {
        let Some(session) = self.inner().session.clone() else {
            return Asked::Offline;
        };
        let place = session.at.0;
        let (answer, answered) = oneshot::channel();
        let twice = matches!(
            request,
            Request::PutEndpoint { .. }
                | Request::AllocateBlock { .. }
                | Request::ClaimAddress { .. }
                | Request::ReturnBlock { .. }
        );
        let twice = twice && world.is_trouble() && world.chance.one_in(12);
        // It is worked on, whatever becomes of its sender.
        tokio::spawn({
            let (world, node, at) = (Arc::clone(world), self.node.clone(), session.at);
            async move {
                let Some((core, life)) = world.core(place) else {
                    return;
                };
                {
                    let _in_order = session.order.lock().await;
                    // Sometimes it arrives when its sender has gone elsewhere long ago.
                    let late = world.is_trouble() && world.chance.one_in(20);
                    let most = if late { 20_000 } else { 50 };
                    world.chance.pause(Duration::from_millis(most)).await;
                }
                if life != at.1 || !world.is_alive(at) {
                    return;
                }
                let again = twice.then(|| request.clone());
                let is_current = || world.has_session(place, (&node, session.number));
                let from = Asker {
                    node: &node,
                    is_current: &is_current,
                    claims: Claims::Stay,
                };
                let said = core.handle(from, request).await;
                world.chance.pause(Duration::from_millis(50)).await;
                if world.is_alive(at) {
                    let _ = answer.send(said);
                }
                if let Some(again) = again {
                    world.chance.pause(Duration::from_secs(3)).await;
                    let _ = core.handle(from, again).await;
                }
            }
        });
        let said = timeout(patience, answered).await;
        if world.is_trouble() && world.chance.one_in(20) {
            // The way back is broken, and the session with it.
            self.hang_up();
            return Asked::TimedOut;
        }
        match said {
            Ok(Ok(Ok(reply))) => Asked::Done(reply),
            Ok(Ok(Err(refusal))) if refusal.code == MOVED => Asked::TimedOut,
            Ok(Ok(Err(refusal))) => Asked::Refused(refusal),
            Ok(Err(_)) | Err(_) => Asked::TimedOut,
        }
    }

    /// Connects and disconnects, so many times.
    pub(super) async fn work(self: Arc<Self>, world: Arc<World>, actions: usize) {
        for _ in 0..actions {
            world.chance.pause(Duration::from_secs(2)).await;
            match world.chance.below(10) {
                0..=2 => self.connect(&world, false).await,
                3 => self.connect(&world, true).await,
                4 | 5 => {
                    let last = u8::try_from(world.chance.below(62)).unwrap() + 1;
                    let ip = IpAddr::from([10, 0, 0, last]);
                    self.connect_fixed(&world, ip).await;
                }
                6 => self.give_back(&world).await,
                7 => {
                    // A container that starts anew, with the address it had.
                    if let Some(ip) = self.disconnect(&world).await {
                        self.connect_fixed(&world, ip).await;
                    }
                }
                _ => {
                    self.disconnect(&world).await;
                }
            }
        }
    }

    /// With any address of its own blocks, and perhaps with a MAC that others want, too.
    async fn connect(self: &Arc<Self>, world: &Arc<World>, any_mac: bool) {
        self.inner().choosing += 1;
        let chosen = self.choose(world, any_mac).await;
        self.inner().choosing -= 1;
        if let Some(endpoint) = chosen {
            self.plug(world, endpoint).await;
        }
    }

    async fn choose(self: &Arc<Self>, world: &Arc<World>, any_mac: bool) -> Option<Endpoint> {
        for _ in 0..2 {
            let chosen = {
                let mut inner = self.inner();
                let all = inner.map.blocks.values().map(|of| &of.object);
                let own = all.filter(|block| block.node == self.node);
                let free = own
                    .flat_map(|block| addresses(block.prefix))
                    .find(|ip| inner.may_give(&self.node, *ip));
                let mac = any_mac.then(|| world.chance.below(MACS));
                free.and_then(|ip| self.reserve(&mut inner, (ip, mac)))
            };
            if chosen.is_some() {
                return chosen;
            }
            let request = Request::AllocateBlock {
                network: network(),
                subnet: SUBNET.parse().unwrap(),
            };
            match self.ask(world, (request, PATIENCE)).await {
                Asked::Done(reply) => self.reach(reply.revision).await,
                Asked::Refused(_) | Asked::Offline | Asked::TimedOut => return None,
            }
        }
        None
    }

    /// With an address that may be another's.
    async fn connect_fixed(self: &Arc<Self>, world: &Arc<World>, ip: IpAddr) {
        self.inner().choosing += 1;
        let chosen = self.choose_fixed(world, ip).await;
        self.inner().choosing -= 1;
        if let Some(endpoint) = chosen {
            self.plug(world, endpoint).await;
        }
    }

    async fn choose_fixed(self: &Arc<Self>, world: &Arc<World>, ip: IpAddr) -> Option<Endpoint> {
        for _ in 0..2 {
            {
                let mut inner = self.inner();
                if inner.may_give(&self.node, ip) {
                    return self.reserve(&mut inner, (ip, None));
                }
                if inner.yielded.contains_key(&ip) || inner.own().any(|own| own.ips.contains(&ip)) {
                    return None;
                }
            }
            let network = network();
            let request = Request::ClaimAddress { network, ip };
            match self.ask(world, (request, PATIENCE)).await {
                Asked::Done(reply) => self.reach(reply.revision).await,
                Asked::Refused(_) | Asked::Offline | Asked::TimedOut => return None,
            }
        }
        None
    }

    /// Takes the address, if the MAC is free as far as this node knows.
    fn reserve(&self, inner: &mut Inner, (ip, mac): (IpAddr, Option<usize>)) -> Option<Endpoint> {
        let mac = match (mac, ip) {
            (Some(number), _) => MacAddr([2, 0, 0, 0, 0, u8::try_from(number).unwrap()]),
            (None, IpAddr::V4(v4)) => {
                let [a, b, c, d] = v4.octets();
                MacAddr([2, 0x57, a, b, c, d])
            }
            (None, IpAddr::V6(_)) => unreachable!("an IPv4 subnet"),
        };
        let mut known = inner.map.endpoints.values().map(|of| &of.object);
        let taken = known.any(|known| known.mac == mac && known.node != self.node);
        if taken || inner.own().any(|own| own.mac == mac) {
            return None;
        }
        inner.made += 1;
        inner.epoch = next_epoch(&self.node, inner.epoch, inner.map.revision);
        let name = format!("{}-{}", self.node, inner.made);
        let endpoint = Endpoint {
            id: EndpointId(name.clone()),
            network: network(),
            node: self.node.clone(),
            name,
            aliases: Vec::new(),
            mac,
            ips: vec![ip],
            epoch: inner.epoch,
        };
        inner.pending.insert(endpoint.id.clone(), endpoint.clone());
        Some(endpoint)
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

    /// Tells of the endpoint; its address is in use from then on.
    async fn plug(self: &Arc<Self>, world: &Arc<World>, endpoint: Endpoint) {
        if self.must_tell() {
            self.tell_all(world).await;
        }
        let asked = {
            let _order = self.reporting.read().await;
            let endpoint = endpoint.clone();
            self.ask(world, (Request::PutEndpoint { endpoint }, CALL_PATIENCE))
                .await
        };
        match asked {
            Asked::Done(_) => {
                self.inner().unfit.remove(&endpoint.id);
            }
            Asked::Refused(refusal) => {
                let mut inner = self.inner();
                inner.pending.remove(&endpoint.id);
                if refusal.code == STORE_FAILED {
                    inner.told = false;
                }
                return;
            }
            Asked::Offline | Asked::TimedOut => {
                self.inner().told = false;
                if self.is_unfit(&endpoint) || self.is_foreign(endpoint.ips[0]) {
                    return self.withdraw(world, &endpoint).await;
                }
            }
        }
        // The TAP is made.
        world.chance.pause(Duration::from_millis(300)).await;
        if self.is_unfit(&endpoint) {
            return self.withdraw(world, &endpoint).await;
        }
        let mut inner = self.inner();
        inner.pending.remove(&endpoint.id);
        world.give(endpoint.ips[0], &self.node);
        inner.ports.insert(endpoint.id.clone(), endpoint);
    }

    fn is_unfit(&self, endpoint: &Endpoint) -> bool {
        self.inner().unfit.contains(&endpoint.id)
    }

    /// Whether the address isn't ours any more.
    fn is_foreign(&self, ip: IpAddr) -> bool {
        let inner = self.inner();
        let block = inner.map.block_of(&network(), ip);
        block.is_none_or(|block| block.node != self.node)
    }

    /// Returns the address that it had.
    async fn disconnect(self: &Arc<Self>, world: &Arc<World>) -> Option<IpAddr> {
        let port = {
            let mut inner = self.inner();
            let count = inner.ports.len();
            if count == 0 {
                return None;
            }
            let at = world.chance.below(count);
            let id = inner.ports.keys().nth(at).cloned().unwrap();
            let port = inner.ports.remove(&id).unwrap();
            if !inner.refused.remove(&id) {
                world.take(port.ips[0]);
            }
            inner.leaving.insert(id, port.clone());
            port
        };
        self.withdraw(world, &port).await;
        Some(port.ips[0])
    }

    async fn withdraw(&self, world: &Arc<World>, endpoint: &Endpoint) {
        {
            let mut inner = self.inner();
            inner.pending.remove(&endpoint.id);
            inner.unfit.remove(&endpoint.id);
            inner.leaving.insert(endpoint.id.clone(), endpoint.clone());
        }
        let id = endpoint.id.clone();
        let asked = {
            let _order = self.reporting.read().await;
            self.ask(world, (Request::DeleteEndpoint { id }, CALL_PATIENCE))
                .await
        };
        match asked {
            Asked::Done(reply) => {
                self.reach(reply.revision).await;
                let claims = self.inner().stop_claims_of(&self.node, endpoint);
                self.return_claims(world, claims).await;
            }
            Asked::Refused(_) | Asked::Offline | Asked::TimedOut => self.inner().told = false,
        }
        self.inner().leaving.remove(&endpoint.id);
    }

    async fn return_claims(&self, world: &Arc<World>, claims: Vec<IpNet>) {
        for prefix in claims {
            let block = self.inner().map.blocks.get(&(network(), prefix)).cloned();
            let request = Request::ReturnBlock {
                network: network(),
                prefix,
                revision: block.map(|block| block.revision),
            };
            match self.ask(world, (request, PATIENCE)).await {
                Asked::Done(reply) => self.reach(reply.revision).await,
                Asked::Refused(_) => {}
                Asked::Offline | Asked::TimedOut => return,
            }
        }
    }

    /// A block that nothing here uses.
    async fn give_back(&self, world: &Arc<World>) {
        let block = {
            let mut inner = self.inner();
            let used: BTreeSet<IpNet> = inner
                .own()
                .flat_map(|own| &own.ips)
                .filter_map(|ip| inner.map.block_of(&network(), *ip))
                .map(|block| block.prefix)
                .collect();
            let all = inner.map.blocks.values().map(|of| &of.object);
            let idle = all
                .filter(|block| block.node == self.node && block.prefix.prefix_len() < 32)
                .map(|block| block.prefix)
                .find(|prefix| !used.contains(prefix) && !inner.returning.contains(prefix));
            if let Some(idle) = idle {
                inner.returning.insert(idle);
            }
            idle
        };
        let Some(prefix) = block else { return };
        self.return_claims(world, vec![prefix]).await;
    }
}

fn network() -> NetworkId {
    NetworkId(NETWORK.to_owned())
}

/// Also the first and the last one.
fn addresses(prefix: IpNet) -> impl Iterator<Item = IpAddr> {
    let IpNet::V4(prefix) = prefix else {
        unreachable!("an IPv4 subnet")
    };
    let range = prefix.network().to_bits()..=prefix.broadcast().to_bits();
    range.map(|bits| IpAddr::V4(bits.into()))
}
