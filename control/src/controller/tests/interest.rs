//! Agents hear of the networks that they have, of their own, and of nothing else that they could do without.

use super::*;
use crate::channel::{Interest, RouterChange};

struct Two {
    keeper: Keeper,
    /// Hears of everything.
    all: Agent,
    /// Hears of what it asks for.
    some: Agent,
    blue: Network,
    red: Network,
}

async fn watching(keeper: &Keeper, name: &str, networks: &[&Network]) -> Agent {
    let dir = tempfile::tempdir().unwrap();
    let identity = keeper.join(name, &dir).await.unwrap();
    let interest = networks.iter().map(|network| network.id.clone()).collect();
    let nothing = (facts(), ClusterMap::default(), String::new());
    Agent::start_with(identity, vec![keeper.listen], nothing, Some(interest))
}

async fn two() -> Two {
    let keeper = Keeper::start().await;
    let all = keeper.agent("all").await;
    all.wait_up().await;
    let blue = all.create("blue", &["10.1.0.0/16"]).await;
    let red = all.create("red", &["10.2.0.0/16"]).await;
    let some = watching(&keeper, "some", &[&blue]).await;
    some.wait_up().await;
    Two {
        keeper,
        all,
        some,
        blue,
        red,
    }
}

/// An endpoint of `agent` on `network`, told to the controller.
async fn connect(agent: &Agent, network: &Network, name: &str, number: usize) -> Endpoint {
    let known = agent.map();
    let mut own = known.blocks_of(&network.id);
    let own = own.find(|block| block.node == agent.identity.node_id);
    let block = match own {
        Some(block) => block.prefix,
        None => agent.block(network).await,
    };
    let endpoint = agent.endpoint(network, name, block.hosts().nth(number).unwrap());
    agent
        .done(Request::PutEndpoint {
            endpoint: endpoint.clone(),
        })
        .await;
    endpoint
}

fn names(map: &ClusterMap) -> Vec<&str> {
    let endpoints = map.endpoints.values();
    let mut names: Vec<&str> = endpoints.map(|of| of.object.name.as_str()).collect();
    names.sort_unstable();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_hears_of_the_networks_it_has_and_of_its_own() {
    let two = two().await;
    let (all, some) = (&two.all, &two.some);
    connect(all, &two.blue, "b1", 5).await;
    connect(all, &two.red, "r1", 5).await;
    some.wait("b1", |seen| names(&seen.map) == ["b1"]).await;
    // What it does itself it hears of, on any network.
    connect(some, &two.red, "r2", 5).await;
    assert_eq!(names(&some.map()), ["b1", "r2"]);
    let blocks: Vec<_> = some
        .map()
        .blocks
        .keys()
        .map(|(network, _)| network.clone())
        .collect();
    assert_eq!(blocks.iter().filter(|id| **id == two.red.id).count(), 1);
    assert_eq!(some.map().networks.len(), 2);
    assert_eq!(some.map().nodes.len(), 2);
    // From now on also of red: all of it.
    let both: BTreeSet<_> = [&two.blue, &two.red]
        .map(|network| network.id.clone())
        .into();
    let networks = both.clone();
    some.link.watch(Interest { networks, wish: 1 });
    some.wait("watched", |seen| seen.watched == Some(both.clone()))
        .await;
    assert_eq!(names(&some.map()), ["b1", "r1", "r2"]);
    let r3 = connect(all, &two.red, "r3", 6).await;
    some.wait("r3", |seen| names(&seen.map).contains(&"r3"))
        .await;
    all.done(Request::DeleteEndpoint { id: r3.id }).await;
    some.wait("r3 gone", |seen| !names(&seen.map).contains(&"r3"))
        .await;
    let maps = (some.map(), all.map());
    assert_eq!(
        (maps.0.endpoints, maps.0.blocks),
        (maps.1.endpoints, maps.1.blocks)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_concern_an_agent_costs_it_next_to_nothing_but_it_keeps_up() {
    let two = two().await;
    let (all, some) = (&two.all, &two.some);
    let before = some.seen.borrow().changes;
    for number in 5..25 {
        connect(all, &two.red, &format!("r{number}"), number).await;
    }
    // Not even how far the map is, for a while.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(some.seen.borrow().changes, before);
    assert!(some.map().revision < all.map().revision);
    // It doesn't wait for the next round when it asks for something itself.
    connect(all, &two.red, "last", 30).await;
    let started = Instant::now();
    some.done(Request::Presence).await;
    assert!(started.elapsed() < Duration::from_millis(500));
    assert_eq!(some.map().revision, all.map().revision);
}

/// One that is away for a moment shouldn't need the whole map then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_nothing_concerns_keeps_within_what_the_log_has() {
    let two = two().await;
    let (all, some) = (&two.all, &two.some);
    let plain = all.create("plain", &[]).await;
    let endpoints = (0..ledger::STRIDE).map(|number| {
        let [.., high, low] = number.to_be_bytes();
        let ip = Ipv4Addr::new(10, 9, high, low).into();
        let ips = Vec::new();
        Endpoint {
            ips,
            ..all.endpoint(&plain, &format!("e{number}"), ip)
        }
    });
    let endpoints = endpoints.collect();
    let reply = all.ask(Request::SyncEndpoints { endpoints }).await.unwrap();
    assert_eq!(reply.rejected, []);
    some.wait_revision(reply.revision).await;
    assert_eq!(names(&some.map()), Vec::<&str>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_of_the_controller_an_agent_gets_what_it_missed_of_its_networks() {
    let mut two = two().await;
    connect(&two.all, &two.blue, "b1", 5).await;
    connect(&two.all, &two.red, "r1", 5).await;
    two.some.wait("b1", |seen| names(&seen.map) == ["b1"]).await;
    two.keeper.stop().await;
    two.keeper.start_again().await;
    for agent in [&two.all, &two.some] {
        agent.wait("up again", |seen| seen.ups >= 2).await;
        agent.wait_up().await;
    }
    let b1 = two
        .all
        .map()
        .endpoints
        .values()
        .next()
        .unwrap()
        .object
        .id
        .clone();
    connect(&two.all, &two.blue, "b2", 6).await;
    two.all.done(Request::DeleteEndpoint { id: b1 }).await;
    let left = two.all.map();
    let on_blue = |map: &ClusterMap| map.endpoints.of_network(&two.blue.id).count();
    two.some
        .wait("the same", |seen| {
            on_blue(&seen.map) == on_blue(&left) && names(&seen.map) == ["b2"]
        })
        .await;
    assert_eq!(two.some.seen.borrow().snapshots, 1, "changes were enough");
    assert!(!names(&two.some.map()).contains(&"r1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_come_with_what_they_have_and_go_with_it() {
    let two = two().await;
    let third = two.keeper.agent("third").await;
    third.wait_up().await;
    let knows = |name: &'static str| move |seen: &Seen| seen.map.node_named(name).is_some();
    assert!(!knows("third")(&two.some.seen.borrow()));
    connect(&third, &two.red, "r", 5).await;
    let b = connect(&third, &two.blue, "b", 5).await;
    // Its block comes first, and brings the node.
    two.some
        .wait("third", |seen| {
            knows("third")(seen) && names(&seen.map) == ["b"]
        })
        .await;
    third.done(Request::DeleteEndpoint { id: b.id }).await;
    let prefix = third.map().blocks_of(&two.blue.id).next().unwrap().prefix;
    let network = two.blue.id.clone();
    let revision = None;
    let back = Request::ReturnBlock {
        network,
        prefix,
        revision,
    };
    third.done(back).await;
    two.some
        .wait("no third", |seen| !knows("third")(seen))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_router_leads_to_is_there_with_its_confirmation_and_goes_with_it() {
    let two = two().await;
    connect(&two.all, &two.red, "r1", 5).await;
    let change = |change| Request::ChangeRouter {
        name: "r".to_owned(),
        change,
    };
    two.all.done(change(RouterChange::Create)).await;
    let networks = || vec!["blue".to_owned(), "red".to_owned()];
    let connected = change(RouterChange::Connect {
        networks: networks(),
    });
    two.some.done(connected).await;
    assert_eq!(names(&two.some.map()), ["r1"]);
    assert_eq!(two.some.seen.borrow().watched.as_ref().unwrap().len(), 2);
    connect(&two.all, &two.red, "r2", 6).await;
    two.some
        .wait("r2", |seen| names(&seen.map) == ["r1", "r2"])
        .await;
    let networks = vec!["red".to_owned()];
    let parted = change(RouterChange::Disconnect { networks });
    two.some.done(parted).await;
    assert_eq!(names(&two.some.map()), Vec::<&str>::new());
    assert!(two.some.map().router_named("r").is_some());
}

/// Whichever comes first, the wish is fulfilled and nothing is left of the network.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_may_go_while_it_is_asked_for() {
    let two = two().await;
    let mut red = two.red.clone();
    for wish in 1..=10 {
        let block = two.all.block(&red).await;
        let networks = BTreeSet::from([two.blue.id.clone(), red.id.clone()]);
        two.some.link.watch(Interest { networks, wish });
        let name = red.name.clone();
        let gone = two.all.done(Request::RemoveNetwork { name }).await.revision;
        two.some
            .wait("told", |seen| seen.wish == wish && seen.watched.is_some())
            .await;
        two.some.done(Request::Newest).await;
        let map = two.some.map();
        assert!(map.revision >= gone, "{block} is gone");
        assert!(map.networks.len() == 1 && map.blocks.is_empty());
        red = two.all.create("red", &["10.2.0.0/16"]).await;
    }
    // One that was asked for too early comes whole.
    let networks = BTreeSet::from([red.id.clone()]);
    two.some.link.watch(Interest { networks, wish: 11 });
    connect(&two.all, &red, "r", 5).await;
    two.some.wait("r", |seen| names(&seen.map) == ["r"]).await;
    assert_eq!(two.some.map().nodes.len(), 2);
}

/// What a session asked for that isn't the node's newest is nothing to the newest, whose wishes are numbered anew.
#[test]
fn an_older_sessions_wish_is_nothing_to_a_newer_one() {
    use super::super::requests::Asker;
    let sessions = Sessions::default();
    let node = NodeId("n".to_owned());
    let wish = |wish| Interest {
        wish,
        ..Interest::default()
    };
    let by = |is_current| Asker {
        node: &node,
        is_current,
        claims: super::super::decide::endpoint::Claims::Stay,
    };
    let older = sessions.listen(&node, Some(wish(0)));
    assert!(sessions.watch(by(&|| true), wish(7)));
    assert_eq!(older.borrow().interest, Some(wish(7)));
    let newer = sessions.listen(&node, Some(wish(0)));
    assert!(!sessions.watch(by(&|| false), wish(8)));
    assert_eq!(newer.borrow().interest, Some(wish(0)));
    assert!(sessions.watch(by(&|| true), wish(1)));
    assert_eq!(newer.borrow().interest, Some(wish(1)));
}

/// A wish that arrives after a later one is no wish any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_latest_wish_counts() {
    let two = two().await;
    let networks = |of: &[&Network]| of.iter().map(|network| network.id.clone()).collect();
    let watch = |networks, wish| Request::Watch { networks, wish };
    two.some.ask(watch(networks(&[&two.red]), 7)).await.unwrap();
    two.some
        .ask(watch(networks(&[&two.blue]), 6))
        .await
        .unwrap();
    two.some.wait("red", |seen| seen.wish == 7).await;
    connect(&two.all, &two.blue, "b", 5).await;
    connect(&two.all, &two.red, "r", 5).await;
    two.some.wait("r", |seen| names(&seen.map) == ["r"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_agent_does_not_have_it_can_read() {
    let two = two().await;
    connect(&two.all, &two.red, "r1", 5).await;
    let (network, after) = (two.red.id.clone(), None);
    let reply = two
        .some
        .ask(Request::ReadNetwork { network, after })
        .await
        .unwrap();
    let mut read = ClusterMap::default();
    for of in reply.objects {
        read.apply(of.revision, crate::model::Change::Put(of.object));
    }
    assert_eq!(
        (names(&read), read.blocks.len(), read.nodes.len()),
        (vec!["r1"], 1, 1)
    );
    let counts = two.some.ask(Request::CountEndpoints).await.unwrap().counts;
    assert_eq!((counts[&two.red.id.0], counts[&two.blue.id.0]), (1, 0));
    let nodes = two
        .some
        .ask(Request::ReadNodes { after: None })
        .await
        .unwrap();
    assert_eq!(
        (nodes.objects.len(), nodes.connected.len(), nodes.more),
        (2, 2, false)
    );
    assert_eq!(nodes.counts[&two.all.identity.node_id.0], 1);
}
