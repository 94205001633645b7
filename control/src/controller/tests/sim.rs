//! Several controllers over one store, or one, with agents, on one thread and in virtual time: everything that can go wrong goes
//! wrong by chance, and all chance comes from one seed. A failure names its seed; `WEFT_SIM_SEED=N` runs that one alone, and
//! `WEFT_SIM_SEEDS=COUNT` that many (from N, or from 1).
//!
//! Real are the controllers from the request to the store (`Core::handle`, the ledger, the decisions).
//! Played are the store (`store`), the agents (`agent`) and the ways between them: they lose, delay, repeat and reorder,
//! controllers die before and after any write, and come back with nothing in memory.
//!
//! What must hold, always: no address is in use at two agents; no two endpoints in the map share an address, a name or a
//! MAC; no MAC has two owners in one epoch; blocks don't overlap. And in the end: all controllers and agents have the map of
//! the store, the endpoints in it are the agents', and no claimed address stays lost.

mod agent;
mod store;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::super::fellows::Fellows;
use super::super::ledger::Ledger;
use super::super::refusals::Refusals;
use super::super::session::Sessions;
use super::super::setbacks::SetBacks;
use super::super::{Core, decide};
use crate::api::NetworkCreate;
use crate::channel::{Answer, Ask, NodeFacts};
use crate::identity::authorities::Authorities;
use crate::identity::ca::{Authority, CERT_TTL};
use crate::model::{Change, ClusterMap, Key, NetworkId, NodeId, Object, Revision, Transport};
use crate::store::AuthorityRecord;
use agent::SimAgent;
use store::{Crash, Shared, SimStore};
use weft_wire::Mtu;

/// Where there are several.
const CONTROLLERS: usize = 3;
const AGENTS: usize = 4;
/// In virtual time, much longer than anything takes.
const WORK_PATIENCE: Duration = Duration::from_secs(3600);
/// Small, so that they meet.
const SUBNET: &str = "10.0.0.0/26";
const NETWORK: &str = "blue";

/// Numbers from a seed (splitmix64).
#[derive(Clone, Debug)]
struct Chance(Arc<Mutex<u64>>);

impl Chance {
    fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(seed)))
    }

    fn next(&self) -> u64 {
        let mut state = self.0.lock().unwrap();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    fn one_in(&self, count: usize) -> bool {
        self.below(count) == 0
    }

    /// Numbers of its own: for tasks that wake in no certain order, as those that wait for the same `watch` do.
    fn fork(&self) -> Self {
        Self::new(self.next())
    }

    /// Up to `most`; often hardly anything.
    fn part(&self, most: Duration) -> Duration {
        let part = self.below(1000) as f64 / 1000.0;
        most.mul_f64(part * part)
    }

    /// Waits up to `most`.
    async fn pause(&self, most: Duration) {
        sleep(self.part(most)).await;
    }
}

/// Everything there is.
struct World {
    chance: Chance,
    shared: Arc<Mutex<Shared>>,
    controllers: Mutex<Vec<Place>>,
    agents: Mutex<Vec<Arc<SimAgent>>>,
    /// Addresses in use, by whom.
    given: Mutex<BTreeMap<IpAddr, NodeId>>,
    /// Whether anything goes wrong.
    trouble: Mutex<bool>,
}

/// Where a controller runs, or not.
#[derive(Default)]
struct Place {
    core: Option<Arc<Core>>,
    store: Option<SimStore>,
    follower: Option<JoinHandle<()>>,
    /// The nodes' newest sessions here, by their numbers, as far as this controller knows.
    sessions: BTreeMap<NodeId, u64>,
    /// How many have died here.
    life: u64,
}

impl World {
    async fn new(seed: u64) -> Arc<Self> {
        let chance = Chance::new(seed);
        let count = if chance.one_in(3) { 1 } else { CONTROLLERS };
        let places = (0..count).map(|_| Place::default());
        let world = Arc::new(Self {
            shared: Arc::new(Mutex::new(Shared::default())),
            controllers: Mutex::new(places.collect()),
            agents: Mutex::default(),
            given: Mutex::default(),
            trouble: Mutex::new(false),
            chance,
        });
        for place in 0..count {
            world.start_controller(place).await;
        }
        world.found().await;
        world
    }

    /// The members and the network.
    async fn found(self: &Arc<Self>) {
        let (core, _) = self.core(0).unwrap();
        for number in 0..AGENTS {
            let facts = facts(number);
            let name = format!("n{number}");
            let id = NodeId(name.clone());
            let join =
                |map: &ClusterMap| Ok((decide::node::join(map, &id, (name.as_str(), &facts))?, ()));
            core.ledger.decide(join).await.unwrap();
            self.agents
                .lock()
                .unwrap()
                .push(Arc::new(SimAgent::new(number, (id, self.chance.fork()))));
        }
        let wish = NetworkCreate {
            name: NETWORK.to_owned(),
            subnets: vec![SUBNET.parse().unwrap()],
            ..NetworkCreate::default()
        };
        let create = |map: &ClusterMap| {
            Ok((
                decide::network::create(map, &wish, NetworkId(NETWORK.to_owned()))?,
                (),
            ))
        };
        core.ledger.decide(create).await.unwrap();
    }

    /// How many controllers there are when all are up.
    fn count(&self) -> usize {
        self.controllers.lock().unwrap().len()
    }

    /// The controller of that place, and which of all it is that ran there.
    fn core(&self, place: usize) -> Option<(Arc<Core>, u64)> {
        let places = self.controllers.lock().unwrap();
        let place = &places[place];
        Some((place.core.clone()?, place.life))
    }

    /// Whether that controller has sessions.
    fn is_alive(&self, (place, life): (usize, u64)) -> bool {
        let places = self.controllers.lock().unwrap();
        let place = &places[place];
        let store = place.store.as_ref();
        let serves = store.is_some_and(|store| !store.is_dead() && !store.is_lost());
        place.life == life && serves
    }

    /// A controller enters a node's session.
    fn note_session(&self, place: usize, (node, number): (NodeId, u64)) {
        let mut places = self.controllers.lock().unwrap();
        places[place].sessions.insert(node, number);
    }

    fn has_session(&self, place: usize, (node, number): (&NodeId, u64)) -> bool {
        let places = self.controllers.lock().unwrap();
        places[place].sessions.get(node) == Some(&number)
    }

    /// A controller forgets the session because the node begins another one.
    fn forget_sessions(&self, place: usize, node: &NodeId) {
        let mut places = self.controllers.lock().unwrap();
        places[place].sessions.remove(node);
    }

    /// A controller hears, after that time, that a session is over.
    fn forget_session(
        self: &Arc<Self>,
        place: usize,
        (node, number): (NodeId, u64),
        after: Duration,
    ) {
        let world = Arc::clone(self);
        tokio::spawn(async move {
            sleep(after).await;
            if world.has_session(place, (&node, number)) {
                world.forget_sessions(place, &node);
            }
        });
    }

    fn is_trouble(&self) -> bool {
        *self.trouble.lock().unwrap()
    }

    async fn start_controller(self: &Arc<Self>, place: usize) {
        let store = SimStore::new(Arc::clone(&self.shared), self.chance.clone());
        let Ok(ledger) = Ledger::load(Arc::new(store.clone())).await else {
            // The store isn't reached: whoever started it tries again.
            return;
        };
        let world = Arc::downgrade(self);
        let ask = move |node: NodeId, ask: Ask| -> Option<Result<Answer, String>> {
            let world = world.upgrade()?;
            let agents = world.agents.lock().unwrap();
            let agent = agents.iter().find(|agent| agent.node == node)?;
            let lost = world.is_trouble() && world.chance.one_in(5);
            let answer = agent.answer(&ask)?;
            if lost {
                Some(Err("lost".to_owned()))
            } else {
                Some(Ok(answer))
            }
        };
        let id = format!("{:x}", self.chance.next());
        let record = AuthorityRecord::first(&Authority::mint().unwrap());
        let authorities = Authorities::restore(record).unwrap();
        let core = Arc::new(Core {
            cluster: authorities.cluster().clone(),
            authorities: ArcSwap::from_pointee(authorities),
            cert_ttl: CERT_TTL,
            refusals: Refusals::default(),
            rotated: Notify::new(),
            ledger,
            sessions: Sessions::default(),
            fellows: Fellows::played(id, Box::new(ask)),
            set_backs: SetBacks::default(),
            joining: tokio::sync::Mutex::new(()),
            _data: None,
        });
        let follower = tokio::spawn({
            let core = Arc::clone(&core);
            async move { core.ledger.follow().await }
        });
        let mut places = self.controllers.lock().unwrap();
        places[place] = Place {
            core: Some(core),
            store: Some(store),
            follower: Some(follower),
            sessions: BTreeMap::new(),
            life: places[place].life,
        };
    }

    /// Ends a controller in the midst of what it does.
    fn kill_controller(&self, place: usize) {
        let mut places = self.controllers.lock().unwrap();
        let place = &mut places[place];
        place.follower.take().inspect(JoinHandle::abort);
        if let Some(store) = place.store.take() {
            store.die();
        }
        place.core = None;
        place.sessions.clear();
        place.life += 1;
    }

    /// Those that died in a write are gone.
    fn bury(&self) {
        let dead: Vec<usize> = {
            let places = self.controllers.lock().unwrap();
            let dead = |place: &Place| place.store.as_ref().is_some_and(SimStore::is_dead);
            (0..places.len()).filter(|at| dead(&places[*at])).collect()
        };
        dead.into_iter()
            .for_each(|place| self.kill_controller(place));
    }

    /// Makes and mends trouble until told to stop.
    async fn meddle(self: Arc<Self>) {
        loop {
            self.chance.pause(Duration::from_secs(2)).await;
            self.bury();
            let place = self.chance.below(self.count());
            let is_up = self.core(place).is_some();
            match self.chance.below(6) {
                0 if is_up => self.kill_controller(place),
                1 if is_up => {
                    if let Some(store) = &self.controllers.lock().unwrap()[place].store {
                        store.cut(self.chance.one_in(2));
                    }
                }
                2 => {
                    let agents = self.agents.lock().unwrap();
                    agents[self.chance.below(AGENTS)].hang_up();
                }
                _ if !is_up => self.start_controller(place).await,
                _ => {}
            }
        }
    }

    /// Everything is mended, and some time goes by.
    async fn settle(self: &Arc<Self>) {
        *self.trouble.lock().unwrap() = false;
        self.bury();
        for place in 0..self.count() {
            if let Some(store) = &self.controllers.lock().unwrap()[place].store {
                store.cut(false);
            }
            if self.core(place).is_none() {
                self.start_controller(place).await;
            }
        }
        self.shared.lock().unwrap().tell_all();
        // Longer than all that anybody waits for.
        sleep(Duration::from_secs(180)).await;
    }

    /// What must hold in the end.
    fn check_end(&self) {
        let shared = self.shared.lock().unwrap();
        for agent in self.agents.lock().unwrap().iter() {
            let kept = agent.refused_addresses();
            let mut unused = shared.map.unused_claims(&agent.node);
            let lost = unused.find(|claim| !kept.contains(&claim.object.prefix.addr()));
            assert_eq!(lost, None, "nobody uses it");
        }
        let mut of_agents = shared.map.clone();
        of_agents.sessions.clear();
        for place in self.controllers.lock().unwrap().iter() {
            let core = place.core.as_ref().expect("all are up");
            core.ledger
                .read(|map| assert_eq!(*map, shared.map, "a controller's map"));
        }
        let mut in_use = 0;
        for agent in self.agents.lock().unwrap().iter() {
            assert_eq!(agent.map(), of_agents, "the map of {}", agent.node);
            let theirs = shared.map.endpoints.values().map(|of| &of.object);
            let theirs = theirs.filter(|endpoint| endpoint.node == agent.node);
            let known: BTreeMap<_, _> = theirs.map(|of| (of.id.clone(), of.clone())).collect();
            let ports = agent.ports();
            assert_eq!(ports, known, "the endpoints of {}", agent.node);
            in_use += ports.len();
        }
        assert_eq!(self.given.lock().unwrap().len(), in_use);
    }

    /// An address is put to use.
    fn give(&self, ip: IpAddr, node: &NodeId) {
        let before = self.given.lock().unwrap().insert(ip, node.clone());
        assert_eq!(before, None, "{ip} is given to {node}; {}", self.story(ip));
    }

    /// What the store was ever told of an address, for failures.
    fn story(&self, ip: IpAddr) -> String {
        let history = self.shared.lock().unwrap().history();
        let concerns = |change: &Change| match change {
            Change::Put(Object::Endpoint(endpoint)) => endpoint.ips.contains(&ip),
            Change::Put(Object::Block(block)) => block.prefix.contains(&ip),
            Change::Delete(Key::Block(_, prefix)) => prefix.contains(&ip),
            Change::Put(_) => false,
            Change::Delete(_) => true,
        };
        let told = history.iter().filter(|(_, change)| concerns(change));
        let told: Vec<String> = told.map(|told| format!("{told:?}")).collect();
        format!("the store was told:\n{}", told.join("\n"))
    }

    fn take(&self, ip: IpAddr) {
        self.given.lock().unwrap().remove(&ip);
    }
}

fn facts(number: usize) -> NodeFacts {
    NodeFacts {
        underlay: IpAddr::from([192, 0, 2, u8::try_from(number).unwrap() + 1]),
        underlay_mtu: Mtu::ETHERNET,
        vxlan_port: 4789,
        encrypted_port: None,
        transports: vec![Transport::Vxlan],
        version: "sim".to_owned(),
    }
}

/// What of a world is to be compared with another.
struct Outcome {
    writes: u64,
    history: Vec<(Revision, Change)>,
}

/// Runs a world.
fn run(seed: u64, (crash, trouble, actions): (Option<Crash>, bool, usize)) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let outcome = runtime.block_on(async {
        let world = World::new(seed).await;
        world.shared.lock().unwrap().crash_in(crash);
        *world.trouble.lock().unwrap() = trouble;
        let meddling = trouble.then(|| tokio::spawn(Arc::clone(&world).meddle()));
        let agents = world.agents.lock().unwrap().clone();
        let mut lives = Vec::new();
        let mut works = Vec::new();
        for agent in &agents {
            let own = || (Arc::clone(agent), Arc::clone(&world));
            let (agent, its) = own();
            lives.push(tokio::spawn(agent.follow(its)));
            let (agent, its) = own();
            lives.push(tokio::spawn(agent.tell(its)));
            for _ in 0..2 {
                let (agent, its) = own();
                works.push(tokio::spawn(agent.work(its, actions)));
            }
        }
        for work in works {
            let done = timeout(WORK_PATIENCE, work).await;
            done.expect("an agent's work comes to an end").unwrap();
        }
        if let Some(meddling) = meddling {
            meddling.abort();
            let ended = meddling.await;
            assert!(ended.is_err_and(|error| error.is_cancelled()));
        }
        world.settle().await;
        for life in &lives {
            assert!(!life.is_finished(), "an agent panicked");
        }
        world.check_end();
        let shared = world.shared.lock().unwrap();
        Outcome {
            writes: shared.writes,
            history: shared.history(),
        }
    });
    drop(runtime);
    outcome
}

fn run_named(seed: u64, what: (Option<Crash>, bool, usize)) -> Outcome {
    let ran = std::panic::catch_unwind(|| run(seed, what));
    ran.unwrap_or_else(|panic| {
        eprintln!("seed {seed}, {what:?}: WEFT_SIM_SEED={seed} runs it alone");
        std::panic::resume_unwind(panic)
    })
}

/// Fixed seeds, or those that the environment names.
fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().unwrap())
    };
    let first = number("WEFT_SIM_SEED");
    let count = number("WEFT_SIM_SEEDS").unwrap_or(if first.is_some() { 1 } else { 40 });
    let first = first.unwrap_or(1);
    first..first + count
}

#[test]
fn whatever_goes_wrong_addresses_stay_unique_and_all_agree_in_the_end() {
    let mut writes = 0;
    for seed in seeds() {
        writes += run_named(seed, (None, true, 25)).writes;
    }
    // In some worlds hardly anything can be done; in most it can.
    let worlds = seeds().end - seeds().start;
    assert!(worlds < 10 || writes > 50 * worlds, "only {writes} writes");
}

#[test]
fn a_controller_may_die_before_and_after_any_write() {
    let seed = seeds().start;
    let all = run_named(seed, (None, false, 4)).writes;
    assert!(all > 20, "only {all} writes");
    for number in 0..all {
        for after in [false, true] {
            run_named(seed, (Some(Crash { number, after }), false, 4));
        }
    }
}

#[test]
fn the_same_seed_is_the_same_world() {
    let once = || run_named(7, (None, true, 20)).history;
    let history = once();
    let again = once();
    // `assert_eq` would print all of both.
    let mut pairs = history.iter().zip(&again);
    let differ = pairs.find(|(one, other)| one != other);
    assert_eq!(differ, None, "two histories of one seed");
    assert_eq!(history.len(), again.len());
}
