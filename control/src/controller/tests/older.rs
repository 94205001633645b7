//! An agent and a controller that is older than the wish for some networks only (`Hello.interest`): it skips what it doesn't
//! know and tells everything.

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

use super::super::serve::server_config;
use super::*;
use crate::channel::messages::Push;
use crate::channel::{Interest, send};
use crate::model::{Block, Change, Object, Revision, Versioned};

/// What it reads of a hello.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct OldHello {
    protocols: Protocols,
    have: Revision,
    incarnation: String,
}

/// What it answers.
#[derive(Serialize)]
struct OldWelcome {
    protocol: u32,
    version: String,
    incarnation: String,
    revision: Revision,
}

/// A controller of old: tells the whole map, then each change that it is given. Hellos come out as they come in.
fn play(
    keeper: &Keeper,
    map: ClusterMap,
    mut changes: watch::Receiver<Vec<(Revision, Change)>>,
) -> (SocketAddr, mpsc::UnboundedReceiver<OldHello>) {
    let authorities = keeper.handle().core.authorities.load_full();
    let config = server_config(&authorities, CERT_TTL).unwrap();
    let endpoint = quinn::Endpoint::server(config, SocketAddr::new(own_address(), 0)).unwrap();
    let address = endpoint.local_addr().unwrap();
    let (hellos, heard) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let Ok(connection) = incoming.await else {
                continue;
            };
            crate::channel::welcome(&connection);
            let (mut to, mut from) = connection.accept_bi().await.unwrap();
            let hello = crate::channel::receive_bytes(&mut from, codec::MAX_STRANGER_BYTES).await;
            let hello: OldHello = codec::decode(&hello.unwrap()).unwrap();
            hellos.send(hello.clone()).unwrap();
            let welcome: Result<OldWelcome, Refusal> = Ok(OldWelcome {
                protocol: 1,
                version: "0.0".to_owned(),
                incarnation: "old".to_owned(),
                revision: map.revision,
            });
            let _ = send(&mut to, &welcome).await;
            if hello.have < map.revision || hello.incarnation != "old" {
                for push in whole(&map) {
                    let _ = send(&mut to, &push).await;
                }
            }
            // A new request is one that it doesn't know.
            let requests = async {
                while let Ok((mut to, mut from)) = connection.accept_bi().await {
                    let asked = crate::channel::receive_bytes(&mut from, codec::MAX_MESSAGE_BYTES);
                    let _ = asked.await;
                    let unknown: Result<Reply, Refusal> = Err(Refusal::new(
                        "unsupported",
                        "this controller does not know it",
                    ));
                    let _ = send(&mut to, &unknown).await;
                    let _ = to.finish();
                }
            };
            let telling = async {
                while changes.changed().await.is_ok() {
                    let changes = changes.borrow_and_update().clone();
                    let up_to = changes.last().map_or(0, |(revision, _)| *revision);
                    let controllers = None;
                    let push = Push::Changes {
                        changes,
                        up_to,
                        controllers,
                    };
                    let _ = send(&mut to, &push).await;
                }
            };
            tokio::select! {
                () = requests => {}
                () = telling => {}
            }
        }
    });
    (address, heard)
}

fn whole(map: &ClusterMap) -> [Push; 3] {
    let networks = map.networks.values().map(|of| Versioned {
        revision: of.revision,
        object: Object::Network(of.object.clone()),
    });
    let blocks = map.blocks.values().map(|of| Versioned {
        revision: of.revision,
        object: Object::Block(of.object.clone()),
    });
    let revision = map.revision;
    [
        Push::SnapshotStart,
        Push::Objects(networks.chain(blocks).collect()),
        Push::SnapshotEnd { revision },
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_with_a_part_of_the_map_takes_all_of_it_from_a_controller_that_knows_no_parts() {
    let keeper = Keeper::start().await;
    let maker = keeper.agent("maker").await;
    maker.wait_up().await;
    let blue = maker.create("blue", &["10.1.0.0/16"]).await;
    maker.create("red", &["10.2.0.0/16"]).await;
    maker.block(&blue).await;
    let known = maker.map();
    let map = ClusterMap {
        revision: known.revision,
        networks: known.networks,
        blocks: known.blocks,
        ..ClusterMap::default()
    };

    let dir = tempfile::tempdir().unwrap();
    let identity = keeper.join("new", &dir).await.unwrap();
    let (change, changes) = watch::channel(Vec::new());
    let (old, mut hellos) = play(&keeper, map.clone(), changes);
    // It begins with what a newer controller has told it: of blue, as new as the old one's map.
    let part = ClusterMap {
        revision: map.revision,
        ..ClusterMap::default()
    };
    let interest = BTreeSet::from([blue.id.clone()]);
    let agent = Agent::start_with(
        identity,
        vec![old],
        (facts(), part, "old".to_owned()),
        Some(interest.clone()),
    );
    agent.wait("has it all", |seen| seen.map == map).await;
    agent.wait_up().await;
    assert_eq!(agent.seen.borrow().watched, None, "complete for all");
    let first = hellos.recv().await.unwrap();
    assert_eq!((first.have, &*first.incarnation), (map.revision, "old"));
    let second = hellos.recv().await.unwrap();
    assert_eq!((second.have, &*second.incarnation), (0, ""));

    // Another wish is refused, and no reason to go: what comes is told anyway.
    let networks = interest.into_iter().chain([NetworkId("more".to_owned())]);
    agent.link.watch(Interest {
        networks: networks.collect(),
        wish: 1,
    });
    let block = Object::Block(Block {
        network: map.network_named("red").unwrap().id.clone(),
        prefix: "10.2.0.64/26".parse().unwrap(),
        node: agent.identity.node_id.clone(),
    });
    let next = map.revision + 1;
    change.send_replace(vec![(next, Change::Put(block))]);
    agent.wait_revision(next).await;
    let unsupported = agent.ask(Request::CountEndpoints).await.unwrap_err();
    assert_eq!(unsupported.code, "unsupported");
    assert_eq!(agent.map().blocks.len(), map.blocks.len() + 1);
    assert_eq!(agent.seen.borrow().ups, 2, "both sessions, and no third");
    assert!(hellos.try_recv().is_err());
}
