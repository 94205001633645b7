//! Callers that mean harm or are broken: turned away, counted, and without effect on others.

use super::*;
use crate::identity::Issued;
use crate::identity::ca::Applicant;

/// Waits until so many of that reason are counted.
async fn counted(keeper: &Keeper, reason: &str, at_least: u64) {
    let counts = || keeper.handle().core.refusals.counts();
    let started = Instant::now();
    while counts().get(reason).copied().unwrap_or(0) < at_least {
        assert!(started.elapsed() < PATIENCE, "no {reason}: {:?}", counts());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Calls with that configuration, whatever comes of it.
async fn call(
    keeper: &Keeper,
    client: quinn::ClientConfig,
) -> (
    quinn::Endpoint,
    Result<quinn::Connection, quinn::ConnectionError>,
) {
    let endpoint = quinn::Endpoint::client(SocketAddr::new(own_address(), 0)).unwrap();
    let name = crate::identity::ca::CONTROLLER_NAME;
    let connection = endpoint
        .connect_with(client, keeper.listen, name)
        .unwrap()
        .await;
    (endpoint, connection)
}

/// Says so many bytes on a stream of its own, and waits for the other side to end the connection.
async fn say(connection: &quinn::Connection, bytes: &[u8]) {
    let (mut to, _from) = connection.open_bi().await.unwrap();
    // It may end while we speak.
    let _ = to.write_all(bytes).await;
    let closed = tokio::time::timeout(PATIENCE, connection.closed()).await;
    assert!(closed.is_ok(), "the controller still listens");
}

/// What an agent says first that has nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_of_every_kind_are_turned_away_and_counted_while_a_member_works_on() {
    let (keeper, elsewhere) = (Keeper::start().await, Keeper::start().await);
    let member = keeper.agent("m").await;
    member.wait_up().await;
    let blue = member.create("blue", &["10.1.0.0/16"]).await;
    let token = keeper.token().await;
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];

    // Another cluster's certificate, by one that doesn't mind whom it talks to; and one that ended.
    let foreign = elsewhere.join("x", &dirs[0]).await.unwrap();
    let key = NodeKey::load(dirs[0].path()).unwrap().unwrap();
    let cas = keeper.handle().core.authorities.load().trusted();
    let cert = foreign.chain()[0].clone();
    let gullible = Identity::assemble(&key, Issued { cert, cas }, vec![keeper.listen]).unwrap();
    let ours = keeper.join("y", &dirs[1]).await.unwrap();
    let key = NodeKey::load(dirs[1].path()).unwrap().unwrap();
    let applicant = Applicant::from_csr(&key.csr().unwrap()).unwrap();
    let authorities = keeper.handle().core.authorities.load_full();
    let ended = authorities.issue(applicant, ("y", Duration::ZERO)).unwrap();
    let ended = ours.renewed(ended).unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    for identity in [&gullible, &ended] {
        let (_endpoint, connection) =
            call(&keeper, crate::channel::tests_only_client(identity)).await;
        if let Ok(connection) = connection {
            tokio::time::timeout(PATIENCE, connection.closed())
                .await
                .expect("turned away");
        }
    }
    counted(&keeper, refusals::HANDSHAKE, 2).await;

    // A message that is too long, one that is none, and one that never ends.
    let joiner = || crate::channel::tests_only_joiner(token.ca);
    for bytes in [vec![0xff; 64], [&[0, 0, 0, 5][..], b"hello"].concat()] {
        let (_endpoint, connection) = call(&keeper, joiner()).await;
        say(&connection.unwrap(), &bytes).await;
    }
    counted(&keeper, refusals::BAD_MESSAGE, 1).await;
    counted(&keeper, "bad_request", 1).await;
    let (_endpoint, slow) = call(&keeper, joiner()).await;
    say(&slow.unwrap(), &[0, 0, 1]).await;
    counted(&keeper, refusals::SLOW, 1).await;

    // Garbage is no handshake: nobody answers it.
    let socket = UdpSocket::bind(SocketAddr::new(own_address(), 0)).unwrap();
    for len in 0..1400_usize {
        let garbage: Vec<u8> = (0..len).map(|_| rand::random()).collect();
        socket.send_to(&garbage, keeper.listen).unwrap();
    }

    // None of it was noticed by who belongs here.
    member.block(&blue).await;
    assert_eq!(member.seen.borrow().ups, 1);
    assert!(member.seen.borrow().refused.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_claims_what_is_anothers_is_refused_and_counted() {
    let keeper = Keeper::start().await;
    let (good, bad) = (keeper.agent("good").await, keeper.agent("bad").await);
    good.wait_up().await;
    bad.wait_up().await;
    let blue = good.create("blue", &["10.1.0.0/16"]).await;
    let block = good.block(&blue).await;
    let mine = good.endpoint(&blue, "c", block.hosts().nth(5).unwrap());
    let put = |endpoint: &Endpoint| Request::PutEndpoint {
        endpoint: endpoint.clone(),
    };
    good.done(put(&mine)).await;
    bad.wait("knows it", |seen| seen.map.endpoints.contains_key(&mine.id))
        .await;
    // Its endpoint, its block, an address of it, its name.
    let moved = Endpoint {
        node: bad.identity.node_id.clone(),
        ..mine.clone()
    };
    let squatter = bad.endpoint(&blue, "d", block.hosts().nth(6).unwrap());
    let give_back = Request::ReturnBlock {
        network: blue.id.clone(),
        prefix: block,
        revision: None,
    };
    let steal = Request::DeleteEndpoint {
        id: mine.id.clone(),
    };
    for (request, code) in [
        (put(&mine), "foreign_endpoint"),
        (put(&moved), "foreign_endpoint"),
        (put(&squatter), "foreign_block"),
        (give_back, "foreign_block"),
        (steal, "foreign_endpoint"),
    ] {
        assert_eq!(bad.ask(request).await.unwrap_err().code, code);
    }
    let counts = keeper.handle().core.refusals.counts();
    assert_eq!(
        (counts["foreign_endpoint"], counts["foreign_block"]),
        (3, 2)
    );
    // Another's name with one's own certificate.
    let (_endpoint, connection) =
        call(&keeper, crate::channel::tests_only_client(&bad.identity)).await;
    let hello = Hello {
        node: good.identity.node_id.clone(),
        ..hello_of(&bad.identity, None)
    };
    say(&connection.unwrap(), &codec::encode(&hello).unwrap()).await;
    counted(&keeper, "identity_mismatch", 1).await;
    assert_eq!(good.map().endpoints.len(), 1);
    assert_eq!(good.seen.borrow().ups, 1);
}

fn hello_of(identity: &Identity, interest: Option<BTreeSet<NetworkId>>) -> Hello {
    Hello {
        protocols: PROTOCOLS,
        version: "test".to_owned(),
        cluster: identity.cluster.clone(),
        node: identity.node_id.clone(),
        have: 0,
        incarnation: String::new(),
        facts: facts(),
        credentials: None,
        interest,
        wish: 0,
        has: None,
        returns_claims: true,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_members_hello_may_name_a_mebibyte_of_networks_and_no_more() {
    let keeper = Keeper::start().await;
    let member = keeper.agent("m").await;
    member.wait_up().await;
    let dir = tempfile::tempdir().unwrap();
    let identity = keeper.join("big", &dir).await.unwrap();
    // Seventeen bytes each.
    let hello = |networks: u32| {
        let networks = (0..networks).map(|number| NetworkId(format!("{number:016x}")));
        codec::encode(&hello_of(&identity, Some(networks.collect()))).unwrap()
    };
    let (fits, too_long) = (hello(61_000), hello(62_000));
    assert!(fits.len() < 1 << 20 && too_long.len() > 1 << 20);
    let client = || crate::channel::tests_only_client(&identity);
    let (_endpoint, connection) = call(&keeper, client()).await;
    let (mut to, mut from) = connection.unwrap().open_bi().await.unwrap();
    to.write_all(&fits).await.unwrap();
    let answer = crate::channel::receive_bytes(&mut from, codec::MAX_MESSAGE_BYTES);
    let answer = tokio::time::timeout(PATIENCE, answer).await.unwrap();
    let welcome: Result<Welcome, Refusal> = codec::decode(&answer.unwrap()).unwrap();
    // It is read, and refused for what it says only: that is more networks than a host can have.
    let refusal = welcome.unwrap_err();
    assert!(refusal.message.contains("to hear of 61000"), "{refusal:?}");
    assert!(
        !keeper
            .handle()
            .core
            .refusals
            .counts()
            .contains_key(refusals::BAD_MESSAGE)
    );

    let (_endpoint, connection) = call(&keeper, client()).await;
    let connection = connection.unwrap();
    say(&connection, &too_long).await;
    let Some(quinn::ConnectionError::ApplicationClosed(closed)) = connection.close_reason() else {
        panic!("{:?}", connection.close_reason());
    };
    let why = String::from_utf8_lossy(&closed.reason).into_owned();
    assert!(why.contains("1048576"), "{why}");
    counted(&keeper, refusals::BAD_MESSAGE, 1).await;
    // Nobody else noticed.
    member.create("blue", &["10.1.0.0/16"]).await;
    assert_eq!(member.seen.borrow().ups, 1);
}

/// Each time it is believed costs every agent its whole map.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_says_it_knows_what_never_was_is_not_believed_for_ever() {
    let keeper = Keeper::start().await;
    let good = keeper.agent("good").await;
    good.wait_up().await;
    good.create("blue", &["10.1.0.0/16"]).await;
    let dir = tempfile::tempdir().unwrap();
    let identity = keeper.join("liar", &dir).await.unwrap();
    let life = || keeper.handle().core.ledger.incarnation();
    let facts = facts();
    let lie = || {
        let map = ClusterMap {
            revision: 1 << 40,
            ..ClusterMap::default()
        };
        let (identity, facts) = (identity.clone(), facts.clone());
        Agent::start_with(identity, vec![keeper.listen], (facts, map, life()), None)
    };
    let mut lives = BTreeSet::from([life()]);
    for believed in 1..=3 {
        let liar = lie();
        liar.wait("told all anew", |seen| seen.snapshots == 1).await;
        liar.link.close().await;
        lives.insert(life());
        assert_eq!(lives.len(), believed + 1);
    }
    let liar = lie();
    counted(&keeper, setbacks::SET_BACK, 1).await;
    assert!(lives.contains(&life()), "no further life begins");
    assert_eq!(liar.seen.borrow().snapshots, 0);
    liar.link.close().await;
    // Who belongs here has all of it, and works on.
    good.wait("the last life's map", |seen| {
        seen.incarnation == life() && seen.map.network_named("blue").is_some()
    })
    .await;
    good.wait_up().await;
    good.create("red", &["10.2.0.0/16"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_wants_to_hear_of_more_than_a_host_can_have_is_refused_and_counted() {
    let keeper = Keeper::start().await;
    let bad = keeper.agent("bad").await;
    bad.wait_up().await;
    let ids = |count: u32| -> BTreeSet<NetworkId> {
        let ids = (0..count).map(|id| NetworkId(id.to_string()));
        ids.collect()
    };
    let long = BTreeSet::from([NetworkId("x".repeat(1000))]);
    for (networks, times) in [(ids(20_000), 1), (long, 3)] {
        let interest = Some(networks.clone());
        let hello = Hello {
            interest,
            ..hello_of(&bad.identity, None)
        };
        let client = crate::channel::tests_only_client(&bad.identity);
        let (_endpoint, connection) = call(&keeper, client).await;
        say(&connection.unwrap(), &codec::encode(&hello).unwrap()).await;
        counted(&keeper, "bad_request", times).await;
        let refused = bad.ask(Request::Watch { networks, wish: 1 }).await;
        assert_eq!(refused.unwrap_err().code, "bad_request");
        counted(&keeper, "bad_request", times + 1).await;
    }
    // Networks that nobody knows may be another controller's newest.
    let networks = ids(1000);
    bad.ask(Request::Watch { networks, wish: 1 }).await.unwrap();
    assert_eq!(bad.seen.borrow().ups, 1);
}
