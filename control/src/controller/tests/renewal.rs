//! Certificates that end and are renewed; authorities that are replaced.

use super::*;
use crate::api::AuthorityStep;
use crate::identity::Issued;
use crate::identity::ca::Applicant;
use crate::identity::cert;

/// A certificate for that key, as the controller gives it out, but with that lifetime.
fn issue(keeper: &Keeper, key: &NodeKey, ttl: Duration) -> Issued {
    let applicant = Applicant::from_csr(&key.csr().unwrap()).unwrap();
    let authorities = keeper.handle().core.authorities.load();
    authorities.issue(applicant, ("n", ttl)).unwrap()
}

async fn step(keeper: &Keeper) -> AuthorityStep {
    let core = &keeper.handle().core;
    let record = core.ledger.store().authority().await.unwrap();
    let info = core.ledger.read(|map| rotation::describe(record, map));
    info.unwrap().step
}

async fn wait_for_step(keeper: &Keeper, wanted: AuthorityStep) {
    let started = Instant::now();
    while step(keeper).await != wanted {
        assert!(started.elapsed() < PATIENCE, "never {wanted:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_in_time_and_the_session_stays() {
    let keeper = Keeper::start_with(Duration::from_secs(10)).await;
    let dir = tempfile::tempdir().unwrap();
    let identity = keeper.join("n", &dir).await.unwrap();
    let first = identity.validity();
    let config = LinkConfig {
        identity: identity.clone(),
        identity_dir: Some(dir.path().to_owned()),
        controllers: vec![keeper.listen],
        facts: facts(),
        have: 0,
        incarnation: String::new(),
        interest: None,
        has: None,
    };
    let (link, mut events) = Link::start(config).unwrap();
    let mut identities = link.identity();
    let renewed = tokio::time::timeout(PATIENCE, identities.changed()).await;
    renewed.expect("in time").unwrap();
    let renewed = Arc::clone(&identities.borrow_and_update());
    assert!(renewed.validity().until > first.until);
    assert_eq!(renewed.node_id, identity.node_id);
    let saved = Identity::load(dir.path()).unwrap().unwrap();
    assert_eq!(saved.chain(), renewed.chain());
    // The controller knows, and agents aren't told.
    let core = &keeper.handle().core;
    let noted = || {
        core.ledger.read(|map| {
            let found = map.credentials.get(&identity.node_id);
            found.map(|found| found.object.expires)
        })
    };
    let started = Instant::now();
    while noted() != Some(renewed.validity().until) {
        assert!(started.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut ups = 0;
    while let Ok(event) = events.try_recv() {
        match event {
            LinkEvent::Up { .. } => ups += 1,
            LinkEvent::Down { reason } => panic!("the session ended: {reason}"),
            LinkEvent::Snapshot { map, .. } => assert!(map.credentials.is_empty()),
            LinkEvent::Changes { changes, .. } => assert!(
                !changes
                    .iter()
                    .any(|(_, change)| format!("{change:?}").contains("Credentials")),
                "{changes:?}"
            ),
            LinkEvent::CaughtUp
            | LinkEvent::Watched { .. }
            | LinkEvent::Controllers { .. }
            | LinkEvent::Refused { .. }
            | LinkEvent::Ask { .. } => {}
        }
    }
    assert_eq!(ups, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_certificate_ended_while_it_was_away_gets_a_new_one_by_its_key() {
    let keeper = Keeper::start().await;
    let dir = tempfile::tempdir().unwrap();
    let identity = keeper.join("n", &dir).await.unwrap();
    let key = NodeKey::load(dir.path()).unwrap().unwrap();
    let ended = identity
        .renewed(issue(&keeper, &key, Duration::ZERO))
        .unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    // As it is, it opens no door.
    let client = crate::channel::tests_only_client(&ended);
    let endpoint = quinn::Endpoint::client(SocketAddr::new(own_address(), 0)).unwrap();
    let name = crate::identity::ca::CONTROLLER_NAME;
    if let Ok(connection) = endpoint
        .connect_with(client, keeper.listen, name)
        .unwrap()
        .await
    {
        let closed = tokio::time::timeout(PATIENCE, connection.closed()).await;
        let closed = closed.expect("an ended certificate is refused").to_string();
        assert!(closed.contains("expired"), "{closed}");
    }
    assert!(keeper.handle().core.sessions.connected().is_empty());
    let agent = Agent::start(ended.clone(), vec![keeper.listen], facts());
    agent.wait_up().await;
    let renewed = Arc::clone(&agent.link.identity().borrow());
    assert!(renewed.validity().until > ended.validity().until + 3600);
    // The key of somebody who isn't a member gets nothing.
    let other = keeper.agent("other").await;
    other.wait_up().await;
    other
        .done(Request::RemoveNode {
            name: "n".to_owned(),
        })
        .await;
    let agent = Agent::start(ended, vec![keeper.listen], facts());
    agent.wait("refused", |seen| seen.refused.is_some()).await;
    let refused = agent.seen.borrow().refused.clone().unwrap();
    assert_eq!(refused.code, "node_removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gets_a_certificate_for_a_key_of_another_by_a_session() {
    let keeper = Keeper::start().await;
    let (a, b) = (keeper.agent("a").await, keeper.agent("b").await);
    a.wait_up().await;
    b.wait_up().await;
    let csr = b.identity.csr().unwrap();
    let refused = a.ask(Request::Renew { csr }).await.unwrap_err();
    assert_eq!(refused.code, "identity_mismatch");
    for rubbish in [Vec::new(), vec![0x30, 0x82, 0xff, 0xff]] {
        let refused = a.ask(Request::Renew { csr: rubbish }).await.unwrap_err();
        assert_eq!(refused.code, "bad_request");
    }
    let credentials = crate::model::Credentials {
        trusts: vec!["x".repeat(9000)],
        ..crate::model::Credentials::default()
    };
    let refused = a.ask(Request::NoteCredentials { credentials }).await;
    assert_eq!(refused.unwrap_err().code, "bad_request");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::too_many_lines, reason = "a scenario is told in order")]
async fn the_authority_is_replaced_under_running_sessions_once_everybody_is_ready() {
    let mut keeper = Keeper::start().await;
    let (a, b) = (keeper.agent("a").await, keeper.agent("b").await);
    a.wait_up().await;
    b.wait_up().await;
    let away = tempfile::tempdir().unwrap();
    let asked = request("c");
    let token = keeper.token().await;
    let identity = join(&[keeper.listen], &token, &asked, away.path())
        .await
        .unwrap();
    let old_token = keeper.several(9).await;
    let core = Arc::clone(&keeper.handle().core);
    let old = core.authorities.load().serving().id();
    rotation::begin(core.ledger.store()).await.unwrap();
    assert!(rotation::begin(core.ledger.store()).await.is_err());
    core.rotated.notify_one();
    // `c` is a member that nobody hears of: it is waited for.
    let waiting = || async {
        let record = core.ledger.store().authority().await.unwrap();
        core.ledger
            .read(|map| rotation::describe(record, map))
            .unwrap()
            .waiting
    };
    let started = Instant::now();
    while waiting().await != ["c"] {
        assert!(started.elapsed() < PATIENCE, "{:?}", waiting().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(step(&keeper).await, AuthorityStep::Announced);
    assert_eq!(a.link.identity().borrow().cas().len(), 2);
    // In the middle of it everything may be started again, and somebody may join.
    drop(core);
    keeper.stop().await;
    keeper.start_again().await;
    let d = keeper.agent("d").await;
    d.wait_up().await;
    let joined = tempfile::tempdir().unwrap();
    join(&[keeper.listen], &old_token, &request("e"), joined.path())
        .await
        .unwrap();
    let e = Identity::load(joined.path()).unwrap().unwrap();
    assert_eq!(e.cas().len(), 2);
    let e = Agent::start(e, vec![keeper.listen], facts());
    let c = Agent::start(identity.clone(), vec![keeper.listen], asked.facts.clone());
    wait_for_step(&keeper, AuthorityStep::Settled).await;
    let core = Arc::clone(&keeper.handle().core);
    let current = core.ledger.store().authority().await.unwrap();
    let new = Authorities::restore(current).unwrap().serving().id();
    assert_ne!(new, old);
    for agent in [&a, &b, &c, &d, &e] {
        let mut identities = agent.link.identity();
        let done = identities.wait_for(|identity| {
            let issuer = cert::issuer_id(&identity.chain()[0]).unwrap();
            issuer == new && identity.cas().len() == 1
        });
        tokio::time::timeout(PATIENCE, done).await.unwrap().unwrap();
        agent.wait_up().await;
    }
    // Only the controller's own stop ended sessions.
    assert_eq!((a.seen.borrow().ups, c.seen.borrow().ups), (2, 1));
    drop(core);
    keeper.stop().await;
    keeper.start_again().await;
    a.wait("up again", |seen| seen.ups >= 3).await;
    // What is only of the old authority is of no cluster any more.
    let refused = refusal(join(&[keeper.listen], &old_token, &request("f"), joined.path()).await);
    assert_eq!(refused.code, "foreign_controller");
    let late = Agent::start(identity, vec![keeper.listen], asked.facts);
    late.wait("refused", |seen| seen.refused.is_some()).await;
    assert_eq!(
        late.seen.borrow().refused.as_ref().unwrap().code,
        "foreign_controller"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_may_go_on_without_a_node_that_is_away() {
    let keeper = Keeper::start().await;
    let dir = tempfile::tempdir().unwrap();
    keeper.join("away", &dir).await.unwrap();
    let store = || keeper.handle().core.ledger.store();
    assert!(rotation::advance(store()).await.is_err());
    rotation::begin(store()).await.unwrap();
    assert_eq!(step(&keeper).await, AuthorityStep::Announced);
    rotation::advance(store()).await.unwrap();
    assert_eq!(step(&keeper).await, AuthorityStep::Switched);
    rotation::advance(store()).await.unwrap();
    assert_eq!(step(&keeper).await, AuthorityStep::Settled);
    keeper.handle().core.rotated.notify_one();
    let started = Instant::now();
    let newest = store().authority().await.unwrap();
    while *keeper.handle().core.authorities.load().record() != newest {
        assert!(started.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let agent = keeper.agent("new").await;
    agent.wait_up().await;
}
