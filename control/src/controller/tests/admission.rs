//! Who is let in: tokens, names, certificates, versions.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_joins_with_a_token_and_its_identity_survives_on_disk() {
    let keeper = Keeper::start().await;
    let dir = tempfile::tempdir().unwrap();
    let identity = keeper.join("n1", &dir).await.unwrap();
    assert_eq!(identity.cluster, *keeper.handle().cluster());
    assert_eq!(identity.node_name, "n1");
    assert_eq!(identity.controllers, [keeper.listen]);
    let loaded = Identity::load(dir.path()).unwrap().unwrap();
    assert_eq!(loaded.node_id, identity.node_id);
    let agent = Agent::start(loaded, vec![keeper.listen], facts());
    agent.wait_up().await;
    let map = agent.map();
    assert_eq!(map.node_named("n1").unwrap().id, identity.node_id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_lets_one_node_in_and_the_same_key_again() {
    let keeper = Keeper::start().await;
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let token = keeper.token().await;
    let asked = request("n1");
    let identity = join(&[keeper.listen], &token, &asked, first.path())
        .await
        .unwrap();
    // The answer was lost: the key is there, the certificate isn't.
    std::fs::remove_file(first.path().join("node.crt")).unwrap();
    assert!(Identity::load(first.path()).unwrap().is_none());
    let again = join(&[keeper.listen], &token, &asked, first.path())
        .await
        .unwrap();
    assert_eq!(again.node_id, identity.node_id);
    let other = refusal(join(&[keeper.listen], &token, &request("n2"), second.path()).await);
    assert_eq!(other.code, "token_used");
    assert!(other.message.contains("n1"), "{other}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_and_expired_tokens_are_refused_with_what_to_do() {
    let keeper = Keeper::start().await;
    let dir = tempfile::tempdir().unwrap();
    let good = keeper.token().await;
    let wrong_secret = JoinToken {
        secret: JoinToken::mint(good.ca).secret,
        ..good.clone()
    };
    let unknown = JoinToken::mint(good.ca);
    for token in [wrong_secret, unknown] {
        let refused = refusal(join(&[keeper.listen], &token, &request("n"), dir.path()).await);
        assert_eq!(refused.code, "bad_token");
        assert!(refused.hint.unwrap().contains("weft controller token"));
    }
    let short = keeper
        .handle()
        .mint_token(Duration::from_secs(1))
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(2100)).await;
    let refused = refusal(join(&[keeper.listen], &short, &request("n"), dir.path()).await);
    assert_eq!(refused.code, "token_expired");
    // Of another cluster: told by the certificate, before anything secret is said.
    let other = Keeper::start().await;
    let token = other.token().await;
    let refused = refusal(join(&[keeper.listen], &token, &request("n"), dir.path()).await);
    assert_eq!(refused.code, "foreign_controller");
    assert!(
        refused.message.contains(&keeper.listen.to_string()),
        "{refused}"
    );
    // One of the addresses is the right one.
    join(
        &[keeper.listen, other.listen],
        &token,
        &request("n"),
        dir.path(),
    )
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_join_that_fails_leaves_the_token_good() {
    let keeper = Keeper::start().await;
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let taken = request("n1");
    join(
        &[keeper.listen],
        &keeper.token().await,
        &taken,
        dirs[0].path(),
    )
    .await
    .unwrap();
    let token = keeper.token().await;
    let refused = refusal(join(&[keeper.listen], &token, &request("n1"), dirs[1].path()).await);
    assert_eq!(refused.code, "node_name_taken");
    assert!(
        refused.message.contains(&taken.facts.underlay.to_string()),
        "{refused}"
    );
    assert!(refused.hint.unwrap().contains("weft nodes rm n1"));
    let same_underlay = JoinRequest {
        node_name: "n2".to_owned(),
        facts: taken.facts,
    };
    let refused = refusal(join(&[keeper.listen], &token, &same_underlay, dirs[1].path()).await);
    assert_eq!(refused.code, "underlay_taken");
    let refused = refusal(join(&[keeper.listen], &token, &request("-"), dirs[1].path()).await);
    assert_eq!(refused.code, "bad_name");
    join(&[keeper.listen], &token, &request("n2"), dirs[1].path())
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_there_is_not_final() {
    let dir = tempfile::tempdir().unwrap();
    let token = JoinToken::mint([0; 32]);
    let nowhere = SocketAddr::new(own_address(), 9);
    let error = join(&[nowhere], &token, &request("n"), dir.path())
        .await
        .unwrap_err();
    assert!(!error.is_final());
    assert!(error.to_string().contains(&nowhere.to_string()), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_cluster_is_refused_by_both_sides() {
    let (ours, theirs) = (Keeper::start().await, Keeper::start().await);
    let dir = tempfile::tempdir().unwrap();
    let foreigner = theirs.join("f", &dir).await.unwrap();
    let agent = Agent::start(foreigner.clone(), vec![ours.listen], facts());
    agent.wait("refused", |seen| seen.refused.is_some()).await;
    let refused = agent.seen.borrow().refused.clone().unwrap();
    assert_eq!(refused.code, "foreign_controller");
    assert!(refused.message.contains(&foreigner.cluster.0), "{refused}");
    // One that doesn't mind whom it talks to gets nowhere either.
    let cas = ours.handle().core.authorities.load().trusted();
    let key = NodeKey::load(dir.path()).unwrap().unwrap();
    let cert = foreigner.chain()[0].clone();
    let issued = crate::identity::Issued { cert, cas };
    let gullible = Identity::assemble(&key, issued, vec![ours.listen]).unwrap();
    let agent = Agent::start(gullible, vec![ours.listen], facts());
    agent.wait("refused", |seen| seen.refused.is_some()).await;
    assert_eq!(
        agent.seen.borrow().refused.as_ref().unwrap().code,
        "certificate_refused"
    );
    assert!(ours.handle().core.sessions.connected().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_node_is_refused_and_all_of_it_is_gone() {
    let keeper = Keeper::start().await;
    let (a, b) = (keeper.agent("a").await, keeper.agent("b").await);
    a.wait_up().await;
    b.wait_up().await;
    let blue = a.create("blue", &["10.1.0.0/16"]).await;
    b.wait("knows blue", |seen| {
        seen.map.network_named("blue").is_some()
    })
    .await;
    let block = b.block(&blue).await;
    let endpoint = b.endpoint(&blue, "c", block.hosts().nth(5).unwrap());
    b.done(Request::PutEndpoint {
        endpoint: endpoint.clone(),
    })
    .await;
    let remove = |name: &str| Request::RemoveNode {
        name: name.to_owned(),
    };
    // It couldn't hear what came of it.
    assert_eq!(a.ask(remove("a")).await.unwrap_err().code, "own_node");
    a.done(remove("b")).await;
    let map = a.map();
    assert!(map.node_named("b").is_none() && map.endpoints.is_empty() && map.blocks.is_empty());
    b.wait("refused", |seen| seen.refused.is_some()).await;
    let refused = b.seen.borrow().refused.clone().unwrap();
    assert_eq!(refused.code, "node_removed");
    assert!(refused.hint.unwrap().contains("join again"));
    // Also when it comes anew.
    let b = Agent::start(b.identity.clone(), vec![keeper.listen], b.facts.clone());
    b.wait("refused", |seen| seen.refused.is_some()).await;
    assert_eq!(
        b.seen.borrow().refused.as_ref().unwrap().code,
        "node_removed"
    );
    assert!(matches!(
        b.link.request(Request::Presence).await,
        Err(RequestError::Offline { .. })
    ));
    assert_eq!(a.ask(remove("b")).await.unwrap_err().code, "unknown_node");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_node_stays_out_when_the_controller_starts_again_but_may_join_anew() {
    let mut keeper = Keeper::start().await;
    let a = keeper.agent("a").await;
    a.wait_up().await;
    let dir = tempfile::tempdir().unwrap();
    let token = keeper.several(3).await;
    let asked = request("b");
    let identity = join(&[keeper.listen], &token, &asked, dir.path())
        .await
        .unwrap();
    a.done(Request::RemoveNode {
        name: "b".to_owned(),
    })
    .await;
    // Its token would let in others, but not the one that was thrown out.
    let refused = refusal(join(&[keeper.listen], &token, &asked, dir.path()).await);
    assert_eq!(refused.code, "token_used");
    keeper.stop().await;
    keeper.start_again().await;
    let b = Agent::start(identity, vec![keeper.listen], asked.facts.clone());
    b.wait("refused", |seen| seen.refused.is_some()).await;
    assert_eq!(
        b.seen.borrow().refused.as_ref().unwrap().code,
        "node_removed"
    );
    // Its operator may change their mind.
    let identity = join(&[keeper.listen], &keeper.token().await, &asked, dir.path())
        .await
        .unwrap();
    let b = Agent::start(identity, vec![keeper.listen], asked.facts);
    b.wait_up().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_when_its_node_is_gone_whoever_removed_it() {
    let keeper = Keeper::start().await;
    let (a, b) = (keeper.agent("a").await, keeper.agent("b").await);
    a.wait_up().await;
    b.wait_up().await;
    // As another controller does it: by the map alone.
    let core = &keeper.handle().core;
    let decide = |map: &ClusterMap| {
        let (changes, id) = decide::node::remove(map, &a.identity.node_id, "b")?;
        Ok((changes, id))
    };
    core.ledger.decide(decide).await.unwrap();
    let started = Instant::now();
    b.wait("refused", |seen| seen.refused.is_some()).await;
    assert!(started.elapsed() < Duration::from_secs(1));
    assert_eq!(
        b.seen.borrow().refused.as_ref().unwrap().code,
        "node_removed"
    );
    assert_eq!(
        core.sessions.connected(),
        BTreeSet::from([a.identity.node_id.clone()])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_lets_in_as_many_nodes_as_it_says_until_it_is_revoked() {
    let keeper = Keeper::start().await;
    let dirs: Vec<TempDir> = (0..4).map(|_| tempfile::tempdir().unwrap()).collect();
    let token = keeper.several(2).await;
    for (dir, name) in dirs.iter().zip(["n1", "n2"]) {
        join(&[keeper.listen], &token, &request(name), dir.path())
            .await
            .unwrap();
    }
    let refused = refusal(join(&[keeper.listen], &token, &request("n3"), dirs[2].path()).await);
    assert_eq!(refused.code, "token_used");
    for words in ["n1", "n2", &token.id.0] {
        assert!(refused.message.contains(words), "{refused}");
    }
    assert!(refused.hint.unwrap().contains("2 nodes"));
    let open = keeper.several(5).await;
    join(&[keeper.listen], &open, &request("n3"), dirs[2].path())
        .await
        .unwrap();
    let core = &keeper.handle().core;
    let listed = core.tokens().await.unwrap();
    let row = |token: &JoinToken| listed.iter().find(|row| row.id == token.id.0).unwrap();
    assert_eq!(row(&token).state, crate::api::TokenState::Used);
    assert_eq!(row(&token).nodes, ["n1", "n2"]);
    assert_eq!(row(&open).state, crate::api::TokenState::Valid);
    assert_eq!((row(&open).uses, row(&open).nodes.len()), (5, 1));
    core.revoke_token(&open.id.0).await.unwrap();
    core.revoke_token(&open.id.0).await.unwrap();
    let refused = refusal(join(&[keeper.listen], &open, &request("n4"), dirs[3].path()).await);
    assert_eq!(refused.code, "token_revoked");
    let unknown = core.revoke_token("0000000000000000").await.unwrap_err();
    assert!(matches!(unknown, ControllerError::UnknownToken(_)));
    // Who joined with it stays in.
    let identity = Identity::load(dirs[2].path()).unwrap().unwrap();
    let agent = Agent::start(identity, vec![keeper.listen], facts());
    agent.wait_up().await;
}

/// Speaks the protocol by hand.
async fn raw(identity: &Identity, controller: SocketAddr) -> (quinn::Endpoint, quinn::Connection) {
    let client = crate::channel::tests_only_client(identity);
    let endpoint = quinn::Endpoint::client(SocketAddr::new(own_address(), 0)).unwrap();
    let name = crate::identity::ca::CONTROLLER_NAME;
    let connection = endpoint
        .connect_with(client, controller, name)
        .unwrap()
        .await
        .unwrap();
    (endpoint, connection)
}

async fn exchange_raw(connection: &quinn::Connection, bytes: &[u8]) -> Vec<u8> {
    let (mut to, mut from) = connection.open_bi().await.unwrap();
    to.write_all(bytes).await.unwrap();
    let mut prefix = [0; 4];
    from.read_exact(&mut prefix).await.unwrap();
    let mut answer = vec![0; codec::decode_length(prefix, codec::MAX_MESSAGE_BYTES).unwrap()];
    from.read_exact(&mut answer).await.unwrap();
    answer
}

fn hello(identity: &Identity, protocols: Protocols) -> Hello {
    Hello {
        protocols,
        version: "9.9".to_owned(),
        cluster: identity.cluster.clone(),
        node: identity.node_id.clone(),
        have: 0,
        incarnation: String::new(),
        facts: facts(),
        credentials: None,
        interest: None,
        wish: 0,
        has: None,
        returns_claims: false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_protocol_versions_are_refused_naming_both() {
    let keeper = Keeper::start().await;
    let dir = tempfile::tempdir().unwrap();
    let identity = keeper.join("n", &dir).await.unwrap();
    for (protocols, older) in [
        (Protocols { min: 7, max: 8 }, "update the controller"),
        (Protocols { min: 0, max: 0 }, "update the agent"),
    ] {
        let (_endpoint, connection) = raw(&identity, keeper.listen).await;
        let bytes = codec::encode(&hello(&identity, protocols)).unwrap();
        let answer: Result<Welcome, Refusal> =
            codec::decode(&exchange_raw(&connection, &bytes).await).unwrap();
        let refused = answer.unwrap_err();
        assert_eq!(refused.code, "protocol_mismatch");
        assert!(
            refused.message.contains("weft 9.9")
                && refused.message.contains(&protocols.to_string())
        );
        assert!(
            refused.message.contains(env!("CARGO_PKG_VERSION")),
            "{refused}"
        );
        assert!(refused.hint.unwrap().contains(older));
    }
    // A range that overlaps is fine, and so are fields that nobody knows yet.
    let (_endpoint, connection) = raw(&identity, keeper.listen).await;
    let hello = hello(&identity, Protocols { min: 0, max: 9 });
    let mut value = ciborium::Value::serialized(&hello).unwrap();
    let ciborium::Value::Map(fields) = &mut value else {
        panic!("named fields")
    };
    fields.push(("from_the_future".into(), 7.into()));
    let answer: Result<Welcome, Refusal> =
        codec::decode(&exchange_raw(&connection, &codec::encode(&value).unwrap()).await).unwrap();
    assert_eq!(answer.unwrap().protocol, PROTOCOLS.max);
    // The session is up: a request of an unknown kind is refused, and the connection stays.
    for request in [
        codec::encode(&"dance").unwrap(),
        vec![0, 0, 0, 3, 0xff, 0xff, 0xff],
    ] {
        let answer: Result<Reply, Refusal> =
            codec::decode(&exchange_raw(&connection, &request).await).unwrap();
        assert!(["unsupported", "bad_request"].contains(&answer.unwrap_err().code.as_str()));
    }
    let presence = codec::encode(&Request::Presence).unwrap();
    let answer: Result<Reply, Refusal> =
        codec::decode(&exchange_raw(&connection, &presence).await).unwrap();
    assert!(answer.unwrap().connected.contains(&identity.node_id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_node_that_joins_is_refused_naming_both_versions() {
    let keeper = Keeper::start().await;
    let token = keeper.token().await;
    let client = crate::channel::tests_only_joiner(token.ca);
    let endpoint = quinn::Endpoint::client(SocketAddr::new(own_address(), 0)).unwrap();
    let name = crate::identity::ca::CONTROLLER_NAME;
    let connection = endpoint
        .connect_with(client, keeper.listen, name)
        .unwrap()
        .await
        .unwrap();
    let hello = JoinHello {
        protocols: Protocols { min: 2, max: 3 },
        version: "9.9".to_owned(),
        token_id: token.id.0.clone(),
        secret: token.secret.reveal(),
        node_name: "n".to_owned(),
        facts: facts(),
        csr: NodeKey::make().unwrap().csr().unwrap(),
    };
    let bytes = codec::encode(&hello).unwrap();
    let answer: Result<crate::channel::messages::JoinWelcome, Refusal> =
        codec::decode(&exchange_raw(&connection, &bytes).await).unwrap();
    let refused = answer.unwrap_err();
    assert_eq!(refused.code, "protocol_mismatch");
    assert!(refused.message.contains("weft 9.9"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_who_say_nothing_keep_no_member_out_and_fill_no_memory() {
    let keeper = Keeper::start().await;
    let dir = tempfile::tempdir().unwrap();
    let identity = keeper.join("n", &dir).await.unwrap();
    let token = keeper.token().await;
    let endpoint = quinn::Endpoint::client(SocketAddr::new(own_address(), 0)).unwrap();
    let name = crate::identity::ca::CONTROLLER_NAME;
    let mut idle = Vec::new();
    for _ in 0..40 {
        let client = crate::channel::tests_only_joiner(token.ca);
        let connecting = endpoint.connect_with(client, keeper.listen, name).unwrap();
        idle.push(connecting.await.unwrap());
    }
    // One stream, and not much on it.
    let (mut first, _from) = idle[0].open_bi().await.unwrap();
    let second = tokio::time::timeout(Duration::from_millis(200), idle[0].open_bi()).await;
    assert!(second.is_err(), "a stranger has one stream");
    let filling = first.write_all(&[0; 1 << 20]);
    let filled = tokio::time::timeout(Duration::from_millis(500), filling).await;
    assert!(
        !matches!(filled, Ok(Ok(()))),
        "nobody keeps a megabyte of a stranger's"
    );
    let agent = Agent::start(identity, vec![keeper.listen], facts());
    agent.wait_up().await;
    // They are sent away for saying nothing; most at once, as one address may have only so many places.
    for stranger in idle {
        let ended = tokio::time::timeout(PATIENCE, stranger.closed()).await;
        assert!(ended.is_ok(), "still there");
    }
}
