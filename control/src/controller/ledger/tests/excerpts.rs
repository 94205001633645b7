//! Whatever happens in whatever order, an agent that was told has what it has to have, and nothing else.

use std::collections::BTreeSet;

use proptest::prelude::*;
use weft_wire::{MacAddr, Mtu, Vni};

use super::*;
use crate::model::{
    Block, Coverage, Endpoint, EndpointId, Network, Node, Router, RouterId, Transport,
};

/// A store in memory: what a controller that is started again finds.
#[derive(Debug, Default)]
struct Memory {
    kept: std::sync::Mutex<(ClusterMap, Vec<(Revision, Change)>)>,
}

impl Store for Memory {
    fn snapshot(&self) -> Promise<'_, Snapshot> {
        let (map, log) = self.kept.lock().unwrap().clone();
        let incarnation = "one".to_owned();
        Box::pin(async {
            Ok(Snapshot {
                map,
                incarnation,
                log,
            })
        })
    }

    fn authority(&self) -> Promise<'_, AuthorityRecord> {
        Box::pin(async { Ok(AuthorityRecord::first(&Authority::mint()?)) })
    }

    fn put_authority(&self, _: AuthorityRecord, _: AuthorityRecord) -> Promise<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn commit(&self, _: Revision, commit: Commit) -> Promise<'_, Revision> {
        let mut kept = self.kept.lock().unwrap();
        for change in commit.changes {
            let revision = kept.0.revision + 1;
            kept.0.apply(revision, change.clone());
            kept.1.push((revision, change));
        }
        let revision = kept.0.revision;
        Box::pin(async move { Ok(revision) })
    }

    fn token(&self, _: String) -> Promise<'_, Option<TokenRecord>> {
        Box::pin(async { Ok(None) })
    }

    fn tokens(&self) -> Promise<'_, Vec<TokenRecord>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn put_token(&self, _: TokenWrite) -> Promise<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn reincarnate(&self) -> Promise<'_, String> {
        Box::pin(async { Ok("two".to_owned()) })
    }
}

/// What happens.
#[derive(Clone, Debug)]
enum Step {
    /// Some changes in one commit.
    Change(Vec<Change>),
    /// A node is removed, with all that it has.
    Remove(NodeId),
    /// The agent wants to hear of these.
    Wish(BTreeSet<NetworkId>),
    /// The session tells; cut off after that many messages.
    Tell(Option<usize>),
    /// The session ends and another begins.
    Resume,
    /// The same; the agent hears of everything from now on, or of what it wants again.
    Hear(bool),
    /// Another agent says that it has what it may not have, and wants that.
    Lie(Revision, BTreeSet<NetworkId>, BTreeSet<NetworkId>),
    /// The controller is started again with that much of its log.
    Restart(usize),
}

fn node_id(number: u8) -> NodeId {
    NodeId(format!("node-{number}"))
}

fn network_id(number: u8) -> NetworkId {
    NetworkId(format!("net-{number}"))
}

const NODES: u8 = 4;
const NETWORKS: u8 = 4;
const ENDPOINTS: u8 = 12;

fn prefix(number: u8) -> ipnet::IpNet {
    format!("10.0.{number}.0/24").parse().unwrap()
}

fn node(id: u8, mtu: u32) -> Node {
    Node {
        id: node_id(id),
        name: format!("n{id}"),
        underlay: [10, 0, 0, id].into(),
        underlay_mtu: Mtu::new(mtu).unwrap(),
        vxlan_port: 4789,
        encrypted_port: None,
        transports: vec![Transport::Vxlan],
        version: String::new(),
    }
}

fn put_on_networks() -> impl Strategy<Value = Change> {
    // An endpoint stays where it is, and a block whose it is, until it goes.
    let endpoint = (0..ENDPOINTS, 0..3_u64);
    let endpoint = endpoint.prop_map(|(id, epoch)| {
        let (network, node) = (id / 2 % NETWORKS, id % NODES);
        Change::Put(Object::Endpoint(Endpoint {
            id: EndpointId(format!("e{id}")),
            network: network_id(network),
            node: node_id(node),
            name: format!("e{id}"),
            aliases: Vec::new(),
            mac: MacAddr([2, 0, 0, 0, 0, id]),
            ips: Vec::new(),
            epoch,
        }))
    });
    let block = (0..NETWORKS, 0..3_u8).prop_map(move |(network, number)| {
        let node = (network + number) % NODES;
        Change::Put(Object::Block(Block {
            network: network_id(network),
            prefix: prefix(number),
            node: node_id(node),
        }))
    });
    let joined = (0..NODES, 1280..1284_u32);
    let joined = joined.prop_map(|(id, mtu)| Change::Put(Object::Node(node(id, mtu))));
    prop_oneof![4 => endpoint, 2 => block, 2 => joined]
}

fn put_frame() -> impl Strategy<Value = Change> {
    let network = (0..NETWORKS, 0..3_u32).prop_map(|(id, ageing_secs)| {
        Change::Put(Object::Network(Network {
            id: network_id(id),
            name: format!("net{id}"),
            vni: Vni::new(u32::from(id) + 4096).unwrap(),
            subnets: Vec::new(),
            transport: Transport::Vxlan,
            internal: false,
            egress: Default::default(),
            mtu: None,
            ageing_secs,
            vteps: BTreeSet::new(),
            isolate: false,
            made_by: None,
        }))
    });
    let router = (0..2_u8, prop::collection::btree_set(0..NETWORKS, 0..3));
    let router = router.prop_map(|(id, networks)| {
        Change::Put(Object::Router(Router {
            id: RouterId(format!("r{id}")),
            name: format!("r{id}"),
            networks: networks.into_iter().map(network_id).collect(),
            routes: Vec::new(),
        }))
    });
    prop_oneof![network, router]
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        8 => put_on_networks(),
        2 => put_frame(),
        2 => (0..ENDPOINTS).prop_map(|id| Change::Delete(Key::Endpoint(EndpointId(format!("e{id}"))))),
        1 => (0..NETWORKS, 0..3_u8)
            .prop_map(move |(network, number)| Change::Delete(Key::Block(network_id(network), prefix(number)))),
        1 => (0..NETWORKS).prop_map(|id| Change::Delete(Key::Network(network_id(id)))),
        1 => (0..2_u8).prop_map(|id| Change::Delete(Key::Router(RouterId(format!("r{id}"))))),
    ]
}

/// One more than there are.
fn some_networks() -> impl Strategy<Value = BTreeSet<NetworkId>> {
    let ids = prop::collection::btree_set(0..=NETWORKS, 0..4);
    ids.prop_map(|ids| ids.into_iter().map(network_id).collect())
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => prop::collection::vec(change(), 1..4).prop_map(Step::Change),
        1 => (0..NODES).prop_map(|id| Step::Remove(node_id(id))),
        2 => some_networks().prop_map(Step::Wish),
        4 => Just(Step::Tell(None)),
        1 => (0..3_usize).prop_map(|messages| Step::Tell(Some(messages))),
        1 => Just(Step::Resume),
        1 => any::<bool>().prop_map(Step::Hear),
        1 => (0..60_u64, some_networks(), some_networks()).prop_map(|(have, has, wants)| Step::Lie(have, has, wants)),
        1 => (0..20_usize).prop_map(Step::Restart),
    ]
}

/// The agent's side.
struct Copy {
    node: NodeId,
    map: ClusterMap,
    coverage: Coverage,
    interest: Interest,
    /// It hears of everything, whatever it wants.
    whole: bool,
}

/// A message of a round.
enum Told {
    Everything(Box<ClusterMap>, Option<BTreeSet<NetworkId>>),
    Changes(Vec<(Revision, Change)>, Revision),
    Watched(Option<BTreeSet<NetworkId>>),
}

impl Copy {
    fn view(&mut self, ledger: &Ledger) -> View {
        self.coverage.resumed((&mut self.map, &self.node));
        let have = (self.map.revision > 0).then_some(self.map.revision);
        let has = self.coverage.has().cloned();
        ledger.view((ledger.sit(&self.node), &self.node), have, has)
    }

    /// A round as `push` tells it, a change a message; false if it was cut off.
    fn tell(&mut self, ledger: &Ledger, view: &mut View, cut: Option<usize>) -> bool {
        let so_far = view.have().unwrap_or_default();
        let interest = (!self.whole).then_some(&self.interest);
        let news = ledger.news(view, interest).unwrap();
        let networks = || (!self.whole).then(|| BTreeSet::clone(&view.networks()));
        let everything = news.everything.into_iter();
        let mut messages: Vec<Told> = everything
            .map(|map| Told::Everything(Box::new(map), networks()))
            .collect();
        let watched = news.other_networks && messages.is_empty() && !self.whole;
        let newest = news.newest;
        let so_far = match messages.first() {
            Some(Told::Everything(map, _)) => map.revision,
            Some(Told::Changes(..) | Told::Watched(_)) | None => so_far,
        };
        let changes = news.changes.into_iter();
        messages.extend(changes.map(|change| Told::Changes(vec![change], so_far)));
        if watched {
            messages.push(Told::Watched(networks()));
        }
        messages.push(Told::Changes(Vec::new(), newest));
        let cut = cut.filter(|cut| *cut < messages.len());
        for message in messages.into_iter().take(cut.unwrap_or(usize::MAX)) {
            match message {
                Told::Everything(map, networks) => {
                    self.map = *map;
                    self.coverage = Coverage::of(networks);
                }
                Told::Changes(changes, up_to) => {
                    let copy = (&mut self.map, &self.node);
                    self.coverage.changed(copy, changes, up_to);
                }
                Told::Watched(networks) => {
                    let copy = (&mut self.map, &self.node);
                    self.coverage.watched(copy, networks);
                }
            }
        }
        cut.is_none()
    }
}

/// What an agent has after it was told.
fn check(copy: &Copy, ledger: &Ledger) -> Result<(), TestCaseError> {
    ledger.read(|whole| {
        if copy.whole {
            prop_assert_eq!(&copy.map, whole);
            return Ok(());
        }
        let networks = whole.with_routed(&copy.interest.networks);
        prop_assert_eq!(&copy.map, &whole.excerpt(&copy.node, &networks));
        let mut trimmed = whole.clone();
        trimmed.trim(&copy.node, &networks);
        prop_assert_eq!(&copy.map, &trimmed);
        Ok(())
    })
}

/// Changes of the map. Nobody takes anything from a node that was removed.
async fn apply_changes(ledger: &Ledger, changes: &[Change]) {
    let decide = |map: &ClusterMap| {
        let member = |node: &NodeId| map.nodes.contains_key(node);
        let mut changes = changes.to_vec();
        changes.retain(|change| match change {
            Change::Put(Object::Endpoint(endpoint)) => member(&endpoint.node),
            Change::Put(Object::Block(block)) => member(&block.node),
            Change::Put(_) | Change::Delete(_) => true,
        });
        Ok((changes, ()))
    };
    ledger.decide(decide).await.unwrap();
}

/// A node goes, with all that is its own.
async fn remove_node(ledger: &Ledger, node: &NodeId) {
    let decide = |map: &ClusterMap| {
        let endpoints = map.endpoints.of_node(node);
        let endpoints = endpoints.map(|one| Key::Endpoint(one.id.clone()));
        let blocks = map.blocks.of_node(node).map(|block| &block.object);
        let blocks = blocks.map(|one| Key::Block(one.network.clone(), one.prefix));
        let all = endpoints.chain(blocks).chain([Key::Node(node.clone())]);
        Ok((all.map(Change::Delete).collect(), ()))
    };
    ledger.decide(decide).await.unwrap();
}

/// What an agent is told that doesn't have what it says is its own affair; it is told of what it wants.
fn lie(ledger: &Ledger, have: Revision, has: BTreeSet<NetworkId>, wants: BTreeSet<NetworkId>) {
    let liar = node_id(1);
    let mut view = ledger.view((ledger.sit(&liar), &liar), Some(have), Some(has));
    for wish in 0..2 {
        let networks = wants.clone();
        let news = ledger.news(&mut view, Some(&Interest { networks, wish }));
        assert_eq!(news.unwrap().newest, ledger.revision());
    }
    assert!(view.networks().is_superset(&wants));
}

async fn play(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let store = Arc::new(Memory::default());
    let mut ledger = Ledger::load(Arc::<Memory>::clone(&store)).await.unwrap();
    let mut copy = Copy {
        node: node_id(0),
        map: ClusterMap::default(),
        coverage: Coverage::of(Some(BTreeSet::new())),
        interest: Interest::default(),
        whole: false,
    };
    let all = (0..NODES).map(|id| Change::Put(Object::Node(node(id, 1500))));
    let joined = ledger.decide(|_| Ok((all.clone().collect(), ()))).await;
    joined.unwrap();
    let mut view = copy.view(&ledger);
    for step in steps.into_iter().chain([Step::Tell(None)]) {
        match step {
            Step::Change(changes) => {
                apply_changes(&ledger, &changes).await;
            }
            Step::Remove(node) => {
                remove_node(&ledger, &node).await;
            }
            Step::Wish(networks) => {
                let wish = copy.interest.wish + 1;
                copy.interest = Interest { networks, wish };
            }
            Step::Tell(cut) => {
                if copy.tell(&ledger, &mut view, cut) {
                    check(&copy, &ledger)?;
                } else {
                    view = copy.view(&ledger);
                }
            }
            Step::Resume => view = copy.view(&ledger),
            Step::Hear(everything) => {
                copy.whole = everything;
                view = copy.view(&ledger);
            }
            Step::Lie(have, has, wants) => lie(&ledger, have.min(copy.map.revision), has, wants),
            Step::Restart(keep) => {
                {
                    let log = &mut store.kept.lock().unwrap().1;
                    let first = log.len().saturating_sub(keep);
                    log.drain(..first);
                }
                ledger = Ledger::load(Arc::<Memory>::clone(&store)).await.unwrap();
                view = copy.view(&ledger);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn an_agent_has_its_part_of_the_map_after_every_round(steps in prop::collection::vec(step(), 0..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(play(steps))?;
    }
}
