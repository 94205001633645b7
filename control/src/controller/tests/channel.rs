//! What agents get and may ask.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_gets_a_snapshot_first_and_only_what_it_missed_later() {
    let keeper = Keeper::start().await;
    let (a, b) = (keeper.agent("a").await, keeper.agent("b").await);
    a.wait_up().await;
    b.wait_up().await;
    assert_eq!(
        (a.seen.borrow().snapshots, b.seen.borrow().snapshots),
        (1, 1)
    );
    a.create("one", &["10.1.0.0/16"]).await;
    b.wait("knows one", |seen| seen.map.network_named("one").is_some())
        .await;
    assert_eq!(b.seen.borrow().snapshots, 1);
    // b goes; things happen; b comes back with what it had.
    b.link.close().await;
    let (map, incarnation) = (b.map(), b.seen.borrow().incarnation.clone());
    a.create("two", &["10.2.0.0/16"]).await;
    a.done(Request::RemoveNetwork {
        name: "one".to_owned(),
    })
    .await;
    let saved = (b.facts.clone(), map.clone(), incarnation);
    let b = Agent::start_with(b.identity.clone(), vec![keeper.listen], saved, None);
    b.wait_up().await;
    assert_eq!(b.seen.borrow().snapshots, 0);
    assert_eq!(b.map().revision, a.map().revision);
    assert_eq!(b.map(), a.map());
    // Revisions of another life of the store say nothing.
    let strange = (b.facts.clone(), map, "another".to_owned());
    b.link.close().await;
    let b = Agent::start_with(b.identity.clone(), vec![keeper.listen], strange, None);
    b.wait_up().await;
    assert_eq!(b.seen.borrow().snapshots, 1);
    assert_eq!(b.map(), a.map());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_converge_whoever_changes_what() {
    let keeper = Keeper::start().await;
    let agents = [
        keeper.agent("a").await,
        keeper.agent("b").await,
        keeper.agent("c").await,
    ];
    for agent in &agents {
        agent.wait_up().await;
    }
    let blue = agents[0].create("blue", &["10.32.0.0/16"]).await;
    for agent in &agents {
        agent
            .wait("knows blue", |seen| {
                seen.map.network_named("blue").is_some()
            })
            .await;
        let block = agent.block(&blue).await;
        for (index, ip) in block.hosts().skip(2).take(5).enumerate() {
            let name = format!("{}{index}", agent.identity.node_name);
            let endpoint = agent.endpoint(&blue, &name, ip);
            agent.done(Request::PutEndpoint { endpoint }).await;
        }
    }
    let reply = agents[2].ask(Request::Presence).await.unwrap();
    assert_eq!(reply.connected.len(), 3);
    for agent in &agents {
        agent.wait_revision(reply.revision).await;
        assert_eq!(agent.map(), agents[0].map());
        assert_eq!(agent.map().endpoints.len(), 15);
        assert_eq!(agent.map().blocks.len(), 3);
    }
    agents[1].link.close().await;
    let gone = Instant::now();
    while agents[0]
        .ask(Request::Presence)
        .await
        .unwrap()
        .connected
        .len()
        != 2
    {
        assert!(gone.elapsed() < PATIENCE, "a closed link is seen");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claimed_address_is_yielded_by_its_blocks_node_unless_in_use_or_away() {
    let keeper = Keeper::start().await;
    let (a, b) = (keeper.agent("a").await, keeper.agent("b").await);
    a.wait_up().await;
    b.wait_up().await;
    let blue = a.create("blue", &["10.32.0.0/16"]).await;
    let block = a.block(&blue).await;
    let [free, held, late] = [20, 21, 22].map(|index| block.hosts().nth(index).unwrap());
    a.in_use.lock().unwrap().insert(held);
    let claim = |ip| Request::ClaimAddress {
        network: blue.id.clone(),
        ip,
    };
    let reply = b.done(claim(free)).await;
    assert_eq!(reply.block, Some(IpNet::from(free)));
    assert_eq!(
        b.map().block_of(&blue.id, free).unwrap().node,
        b.identity.node_id
    );
    assert_eq!(
        b.map().block_of(&blue.id, held).unwrap().node,
        a.identity.node_id
    );
    let refused = b.ask(claim(held)).await.unwrap_err();
    assert_eq!(refused.code, "ip_taken");
    assert!(
        refused.message.contains("endpoint held on node a"),
        "{refused}"
    );
    // Outside all blocks nobody has to be asked.
    b.done(claim("10.32.200.1".parse().unwrap())).await;
    a.link.close().await;
    let refused = loop {
        match b.ask(claim(late)).await {
            Err(refused) if refused.message.contains("not connected") => break refused,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            Ok(_) => panic!("nobody yielded it"),
        }
    };
    assert_eq!(refused.code, "owner_offline");
    assert!(refused.message.contains(&block.to_string()) && refused.message.contains("node a"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_stays_when_its_endpoint_goes_until_it_is_given_back() {
    let keeper = Keeper::start().await;
    let (a, b) = (keeper.agent("a").await, keeper.agent("b").await);
    a.wait_up().await;
    b.wait_up().await;
    let blue = a.create("blue", &["10.32.0.0/16"]).await;
    let block = a.block(&blue).await;
    let free = block.hosts().nth(20).unwrap();
    b.done(Request::ClaimAddress {
        network: blue.id.clone(),
        ip: free,
    })
    .await;
    let endpoint = b.endpoint(&blue, "fixed", free);
    b.done(Request::PutEndpoint {
        endpoint: endpoint.clone(),
    })
    .await;
    b.done(Request::DeleteEndpoint { id: endpoint.id }).await;
    assert_eq!(
        b.map().block_of(&blue.id, free).unwrap().node,
        b.identity.node_id
    );
    let prefix = IpNet::from(free);
    let revision = b.map().blocks[&(blue.id.clone(), prefix)].revision;
    let back = |revision| Request::ReturnBlock {
        network: blue.id.clone(),
        prefix,
        revision: Some(revision),
    };
    b.done(back(revision - 1)).await;
    assert!(b.map().blocks.contains_key(&(blue.id.clone(), prefix)));
    b.done(back(revision)).await;
    assert_eq!(
        b.map().block_of(&blue.id, free).unwrap().node,
        a.identity.node_id
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_report_adds_deletes_and_rejects_one_by_one() {
    let keeper = Keeper::start().await;
    let (a, b) = (keeper.agent("a").await, keeper.agent("b").await);
    a.wait_up().await;
    b.wait_up().await;
    let blue = a.create("blue", &["10.32.0.0/16"]).await;
    let block = a.block(&blue).await;
    let foreign = b.block(&blue).await;
    let ip = |index| block.hosts().nth(index).unwrap();
    let [stays, goes, comes] =
        [("stays", 5), ("goes", 6), ("comes", 7)].map(|(name, at)| a.endpoint(&blue, name, ip(at)));
    for endpoint in [&stays, &goes] {
        a.done(Request::PutEndpoint {
            endpoint: endpoint.clone(),
        })
        .await;
    }
    let wrong = a.endpoint(&blue, "wrong", foreign.hosts().nth(9).unwrap());
    let twin = Endpoint {
        id: EndpointId("twin".to_owned()),
        ..comes.clone()
    };
    let endpoints = vec![stays.clone(), comes.clone(), wrong.clone(), twin.clone()];
    let reply = a
        .done(Request::SyncEndpoints {
            endpoints: endpoints.clone(),
        })
        .await;
    let rejected: Vec<_> = reply
        .rejected
        .iter()
        .map(|(id, refusal)| (id.clone(), refusal.code.as_str()))
        .collect();
    assert_eq!(
        rejected,
        [(wrong.id, "foreign_block"), (twin.id, "name_taken")]
    );
    let ids: Vec<_> = a.map().endpoints.keys().cloned().collect();
    assert_eq!(ids, [comes.id, stays.id]);
    // Once more changes nothing.
    let before = a.map().revision;
    let reply = a.done(Request::SyncEndpoints { endpoints }).await;
    assert_eq!(reply.revision, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_writes_only_what_is_its_own() {
    let keeper = Keeper::start().await;
    let (a, b) = (keeper.agent("a").await, keeper.agent("b").await);
    a.wait_up().await;
    b.wait_up().await;
    let blue = a.create("blue", &["10.32.0.0/16"]).await;
    let block = a.block(&blue).await;
    let endpoint = a.endpoint(&blue, "c", block.hosts().nth(5).unwrap());
    a.done(Request::PutEndpoint {
        endpoint: endpoint.clone(),
    })
    .await;
    let put = |endpoint: &Endpoint| Request::PutEndpoint {
        endpoint: endpoint.clone(),
    };
    let moved = Endpoint {
        node: b.identity.node_id.clone(),
        ..endpoint.clone()
    };
    let delete = Request::DeleteEndpoint {
        id: endpoint.id.clone(),
    };
    let back = Request::ReturnBlock {
        network: blue.id.clone(),
        prefix: block,
        revision: None,
    };
    for (request, code) in [
        (put(&endpoint), "foreign_endpoint"),
        (put(&moved), "foreign_endpoint"),
        (delete.clone(), "foreign_endpoint"),
        (back.clone(), "foreign_block"),
    ] {
        assert_eq!(b.ask(request).await.unwrap_err().code, code);
    }
    assert_eq!(a.ask(back.clone()).await.unwrap_err().code, "block_in_use");
    let refused = a
        .ask(Request::RemoveNetwork {
            name: "blue".to_owned(),
        })
        .await
        .unwrap_err();
    assert_eq!(refused.code, "network_in_use");
    assert!(refused.message.contains("c (node a)"), "{refused}");
    a.done(delete).await;
    a.done(back).await;
    assert_eq!(a.done(Request::PruneNetworks).await.names, ["blue"]);
    assert!(a.map().networks.is_empty() && a.map().blocks.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_the_port_harms_nobody() {
    let keeper = Keeper::start().await;
    let a = keeper.agent("a").await;
    a.wait_up().await;
    let socket = UdpSocket::bind(SocketAddr::new(own_address(), 0)).unwrap();
    for length in 0..1400_usize {
        let bytes: Vec<u8> = (0..length).map(|_| rand::random()).collect();
        socket.send_to(&bytes, keeper.listen).unwrap();
    }
    a.create("blue", &["10.32.0.0/16"]).await;
    assert_eq!(a.seen.borrow().ups, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_node_a_second_time_ends_the_first_session() {
    let keeper = Keeper::start().await;
    let first = keeper.agent("a").await;
    first.wait_up().await;
    let second = Agent::start(
        first.identity.clone(),
        vec![keeper.listen],
        first.facts.clone(),
    );
    second.wait_up().await;
    first
        .wait("told", |seen| {
            seen.refused
                .as_ref()
                .is_some_and(|why| why.code == "replaced")
        })
        .await;
    assert_eq!(
        second.ask(Request::Presence).await.unwrap().connected.len(),
        1
    );
}
