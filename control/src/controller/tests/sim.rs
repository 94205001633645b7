//! Several controllers over one store, with agents, on one thread and in virtual time: everything that can go wrong goes
//! wrong by chance, and all chance comes from one seed. A failure names its seed; `WEFT_SIM_SEED=N` runs that one alone
//! (with `WEFT_SIM_SEEDS=COUNT` so many from there on).
//!
//! Real are the controllers from the request to the store (`Core::handle`, the ledger, the decisions). Played are the
//! store (`store`), the agents (`agent`) and the ways between them: they lose, delay, repeat and reorder, controllers die
//! before and after any write, and come back with nothing in memory.
//!
//! What must hold, always: no address is in use at two agents, no two endpoints in the map share an address, a name or a
//! MAC, blocks don't overlap; and in the end: all agents have the map of the store, and the endpoints in it are theirs.

mod agent;
mod store;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::super::fellows::Fellows;
use super::super::ledger::Ledger;
use super::super::refusals::Refusals;
use super::super::session::Sessions;
use super::super::{Core, decide};
use crate::api::NetworkCreate;
use crate::channel::{Answer, Ask, NodeFacts};
use crate::identity::authorities::Authorities;
use crate::identity::ca::{Authority, CERT_TTL};
use crate::model::{ClusterMap, NetworkId, NodeId, Transport};
use crate::store::AuthorityRecord;
use agent::SimAgent;
use store::{Crash, Shared, SimStore};
use weft_wire::Mtu;

const CONTROLLERS: usize = 3;
const AGENTS: usize = 4;
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

    /// Waits up to `most`; often hardly at all.
    async fn pause(&self, most: Duration) {
        let part = self.below(1000) as f64 / 1000.0;
        sleep(most.mul_f64(part * part)).await;
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
    /// How many have died here.
    life: u64,
}

impl World {
    async fn new(seed: u64, crash: Option<Crash>) -> Arc<Self> {
        let chance = Chance::new(seed);
        let places = (0..CONTROLLERS).map(|_| Place::default());
        let world = Arc::new(Self {
            shared: Arc::new(Mutex::new(Shared::new(crash))),
            controllers: Mutex::new(places.collect()),
            agents: Mutex::default(),
            given: Mutex::default(),
            trouble: Mutex::new(false),
            chance,
        });
        for place in 0..CONTROLLERS {
            world.start_controller(place).await;
        }
        world.found().await;
        world
    }

    /// The members and the network.
    async fn found(self: &Arc<Self>) {
        let core = self.core(0).unwrap();
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
                .push(Arc::new(SimAgent::new(id)));
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

    fn core(&self, place: usize) -> Option<Arc<Core>> {
        self.controllers.lock().unwrap()[place].core.clone()
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
            fellows: Fellows::played(Box::new(ask)),
            claims: Mutex::default(),
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
            life: places[place].life,
        };
    }

    /// Ends a controller in the midst of what it does.
    fn kill_controller(&self, place: usize) {
        let mut places = self.controllers.lock().unwrap();
        let place = &mut places[place];
        if let Some(follower) = place.follower.take() {
            follower.abort();
        }
        if let Some(store) = place.store.take() {
            store.die();
        }
        place.core = None;
        place.life += 1;
    }

    /// Those that died in a write are gone.
    fn bury(&self) {
        let dead: Vec<usize> = {
            let places = self.controllers.lock().unwrap();
            let dead = |place: &Place| place.store.as_ref().is_some_and(SimStore::is_dead);
            (0..CONTROLLERS).filter(|at| dead(&places[*at])).collect()
        };
        dead.into_iter()
            .for_each(|place| self.kill_controller(place));
    }

    /// Makes and mends trouble until told to stop.
    async fn meddle(self: Arc<Self>) {
        loop {
            self.chance.pause(Duration::from_secs(2)).await;
            self.bury();
            let place = self.chance.below(CONTROLLERS);
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
        for place in 0..CONTROLLERS {
            if let Some(store) = &self.controllers.lock().unwrap()[place].store {
                store.cut(false);
            }
            if self.core(place).is_none() {
                self.start_controller(place).await;
            }
        }
        self.shared.lock().unwrap().tell_all();
        for agent in self.agents.lock().unwrap().iter() {
            agent.hang_up();
        }
        sleep(Duration::from_secs(120)).await;
    }

    /// What must hold in the end.
    fn check_end(&self) {
        let shared = self.shared.lock().unwrap();
        for place in self.controllers.lock().unwrap().iter() {
            let core = place.core.as_ref().expect("all are up");
            core.ledger
                .read(|map| assert_eq!(*map, shared.map, "a controller's map"));
        }
        for agent in self.agents.lock().unwrap().iter() {
            assert!(agent.map() == shared.map, "the map of {}", agent.node);
            let theirs = shared.map.endpoints.values().map(|of| &of.object);
            let theirs = theirs.filter(|endpoint| endpoint.node == agent.node);
            let known: BTreeMap<_, _> = theirs.map(|of| (of.id.clone(), of.clone())).collect();
            assert_eq!(agent.ports(), known, "the endpoints of {}", agent.node);
        }
        let of_agents: usize = self
            .agents
            .lock()
            .unwrap()
            .iter()
            .map(|agent| agent.ports().len())
            .sum();
        assert_eq!(self.given.lock().unwrap().len(), of_agents);
    }

    /// An address is put to use.
    fn give(&self, ip: IpAddr, node: &NodeId) {
        let before = self.given.lock().unwrap().insert(ip, node.clone());
        assert_eq!(before, None, "{ip} is given to {node}, too");
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
        transports: vec![Transport::Vxlan],
        version: "sim".to_owned(),
    }
}

/// Runs a world; returns how many writes there were.
fn run(seed: u64, (crash, trouble, actions): (Option<Crash>, bool, usize)) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let writes = runtime.block_on(async {
        let world = World::new(seed, crash).await;
        *world.trouble.lock().unwrap() = trouble;
        let meddling = trouble.then(|| tokio::spawn(Arc::clone(&world).meddle()));
        let agents = world.agents.lock().unwrap().clone();
        let sessions: Vec<_> = agents
            .iter()
            .map(|agent| tokio::spawn(Arc::clone(agent).follow(Arc::clone(&world))))
            .collect();
        let works: Vec<_> = agents
            .iter()
            .map(|agent| tokio::spawn(Arc::clone(agent).work(Arc::clone(&world), actions)))
            .collect();
        for work in works {
            work.await.unwrap();
        }
        if let Some(meddling) = meddling {
            meddling.abort();
            let ended = meddling.await;
            assert!(ended.is_err_and(|error| error.is_cancelled()));
        }
        world.settle().await;
        for session in &sessions {
            assert!(!session.is_finished(), "an agent's session panicked");
        }
        world.check_end();
        for session in sessions {
            session.abort();
        }
        world.shared.lock().unwrap().writes
    });
    drop(runtime);
    writes
}

fn run_named(seed: u64, what: (Option<Crash>, bool, usize)) -> u64 {
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
    let writes: u64 = seeds().map(|seed| run_named(seed, (None, true, 30))).sum();
    assert!(writes > 0);
}

#[test]
fn a_controller_may_die_before_and_after_any_write() {
    let seed = seeds().start;
    let all = run_named(seed, (None, false, 6));
    assert!(all > 20, "only {all} writes");
    for number in 0..all {
        for after in [false, true] {
            run_named(seed, (Some(Crash { number, after }), false, 6));
        }
    }
}

#[test]
fn the_same_seed_is_the_same_world() {
    let once = || run_named(7, (None, true, 20));
    assert_eq!(once(), once());
}
