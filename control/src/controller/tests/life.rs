//! Starting, stopping, dying and coming back; tokens from outside.

use std::path::Path;

use super::*;
use crate::store::etcd::testing::Server;
use crate::store::redb::FILE_NAME;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_controller_knows_all_it_ever_told() {
    let mut keeper = Keeper::start().await;
    let a = keeper.agent("a").await;
    a.wait_up().await;
    let blue = a.create("blue", &["10.32.0.0/16", "fd32::/64"]).await;
    let block = a.block(&blue).await;
    let endpoint = a.endpoint(&blue, "c", block.hosts().nth(5).unwrap());
    a.done(Request::PutEndpoint { endpoint }).await;
    let before = a.map();
    let cluster = keeper.handle().cluster().clone();
    keeper.stop().await;
    a.wait("down", |seen| !seen.up).await;
    let offline = a.link.request(Request::Presence).await.unwrap_err();
    assert!(matches!(offline, RequestError::Offline { .. }), "{offline}");
    keeper.start_again().await;
    assert_eq!(*keeper.handle().cluster(), cluster);
    a.wait_up().await;
    assert_eq!(a.seen.borrow().snapshots, 1, "it had everything already");
    assert_eq!(a.map(), before);
    let b = keeper.agent("b").await;
    b.wait_up().await;
    a.wait("knows b", |seen| seen.map.node_named("b").is_some())
        .await;
    // What `b` can prove is noted when its session begins: a revision without news for agents.
    a.done(Request::Newest).await;
    assert_eq!(b.map(), a.map());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_finds_a_killed_controller_again_within_three_seconds() {
    let mut keeper = Keeper::start().await;
    let a = keeper.agent("a").await;
    a.wait_up().await;
    a.create("blue", &["10.32.0.0/16"]).await;
    // At once: the connection looks alive to the agent until it is reset.
    keeper.kill();
    keeper.start_again().await;
    let back = Instant::now();
    a.wait("up again", |seen| seen.ups == 2 && seen.caught_up == 2)
        .await;
    assert!(
        back.elapsed() < Duration::from_secs(3),
        "took {:?}",
        back.elapsed()
    );
    a.create("red", &["10.33.0.0/16"]).await;
    // Later: the agent has noticed and is calling.
    keeper.kill();
    a.wait("down", |seen| !seen.up).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    keeper.start_again().await;
    let back = Instant::now();
    a.wait("up again", |seen| seen.ups == 3 && seen.caught_up == 3)
        .await;
    assert!(
        back.elapsed() < Duration::from_secs(3),
        "took {:?}",
        back.elapsed()
    );
    assert_eq!(a.seen.borrow().snapshots, 1);
    assert_eq!(a.map().networks.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_was_set_back_makes_agents_forget_what_it_lost() {
    let mut keeper = Keeper::start().await;
    let a = keeper.agent("a").await;
    a.wait_up().await;
    a.create("kept", &["10.32.0.0/16"]).await;
    keeper.stop().await;
    let file = keeper.data.path().join(FILE_NAME);
    let copy = std::fs::read(&file).unwrap();
    keeper.start_again().await;
    a.wait("up again", |seen| seen.ups == 2 && seen.caught_up == 2)
        .await;
    a.create("lost", &["10.33.0.0/16"]).await;
    keeper.stop().await;
    std::fs::write(&file, copy).unwrap();
    keeper.start_again().await;
    a.wait("up again", |seen| seen.ups == 3 && seen.caught_up == 3)
        .await;
    assert_eq!(a.seen.borrow().snapshots, 2);
    let names: Vec<_> = a
        .map()
        .networks
        .into_values()
        .map(|network| network.object.name)
        .collect();
    assert_eq!(names, ["kept"]);
    // From here on deltas are enough again.
    a.create("new", &["10.33.0.0/16"]).await;
    assert_eq!(a.seen.borrow().snapshots, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shared_store_that_was_set_back_is_noticed_although_entering_it_is_a_change() {
    let mut server = Server::start();
    let store = server.config("set-back");
    let mut keeper = Keeper::start_on(Some(store), CERT_TTL).await;
    let a = keeper.agent("a").await;
    a.wait_up().await;
    a.create("kept", &["10.32.0.0/16"]).await;
    keeper.stop().await;
    server.save();
    keeper.start_again().await;
    a.wait("up again", |seen| seen.ups == 2 && seen.caught_up == 2)
        .await;
    assert_eq!(a.seen.borrow().snapshots, 1);
    // What is lost is no more than that it has its session here: it will be written again, and have the same number.
    keeper.stop().await;
    server.set_back();
    keeper.start_again().await;
    a.wait("up again", |seen| seen.ups == 3 && seen.caught_up == 3)
        .await;
    assert_eq!(a.seen.borrow().snapshots, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_starts_first_waits_for_its_controller() {
    let mut keeper = Keeper::start().await;
    let dir = tempfile::tempdir().unwrap();
    let identity = keeper.join("n", &dir).await.unwrap();
    keeper.stop().await;
    let nowhere = SocketAddr::new(own_address(), 9);
    let agent = Agent::start(identity, vec![nowhere, keeper.listen], facts());
    agent.wait("down", |seen| seen.down.is_some()).await;
    keeper.start_again().await;
    agent.wait_up().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_minted_beside_a_running_controller_and_without_one() {
    let mut keeper = Keeper::start().await;
    let ttl = Duration::from_secs(60);
    let mint = |data: PathBuf| {
        tokio::task::spawn_blocking(move || mint_token(&data, TokenSpec::once(ttl)))
    };
    let running = mint(keeper.data.path().to_owned()).await.unwrap().unwrap();
    keeper.kill();
    // The dead one's socket is still there.
    let without = loop {
        match mint(keeper.data.path().to_owned()).await.unwrap() {
            Err(ControllerError::Store(StoreError::Locked { .. })) => {}
            other => break other.unwrap(),
        }
    };
    keeper.start_again().await;
    for (name, token) in [("a", running), ("b", without)] {
        let dir = tempfile::tempdir().unwrap();
        join(&[keeper.listen], &token, &request(name), dir.path())
            .await
            .unwrap();
    }
    let empty = tempfile::tempdir().unwrap();
    let error = mint(empty.path().to_owned()).await.unwrap().unwrap_err();
    assert!(
        error.to_string().contains("weft controller run --data"),
        "{error}"
    );
    for ttl in [Duration::ZERO, Duration::from_secs(60 * 60 * 24 * 365 * 11)] {
        assert!(matches!(
            mint_token(empty.path(), TokenSpec::once(ttl)),
            Err(ControllerError::Ttl(_))
        ));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_listed_and_revoked_beside_a_running_controller_and_without_one() {
    let mut keeper = Keeper::start().await;
    let data = keeper.data.path().to_owned();
    let alone = |work: fn(&Path) -> Vec<String>| {
        let data = data.clone();
        tokio::task::spawn_blocking(move || work(&data))
    };
    let ids = |data: &Path| -> Vec<String> {
        let listed = list_tokens(data).unwrap();
        listed.into_iter().map(|row| row.id).collect()
    };
    let revoke_unknown = |data: &Path| vec![revoke_token(data, "nosuch").unwrap_err().to_string()];
    let running = keeper.token().await;
    assert_eq!(alone(ids).await.unwrap(), [running.id.0.as_str()]);
    let told = alone(revoke_unknown).await.unwrap();
    keeper.stop().await;
    assert_eq!(alone(ids).await.unwrap(), [running.id.0.as_str()]);
    assert_eq!(alone(revoke_unknown).await.unwrap(), told);
    assert!(
        told[0].contains("nosuch") && told[0].contains("token ls"),
        "{told:?}"
    );
    let (at, id) = (data.clone(), running.id.0.clone());
    tokio::task::spawn_blocking(move || revoke_token(&at, &id))
        .await
        .unwrap()
        .unwrap();
    keeper.start_again().await;
    let dir = tempfile::tempdir().unwrap();
    let refused = refusal(join(&[keeper.listen], &running, &request("d"), dir.path()).await);
    assert_eq!(refused.code, "token_revoked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_socket_works_in_a_directory_with_a_long_name() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("d".repeat(120));
    let config = ControllerConfig::new(data.clone(), SocketAddr::new(own_address(), 0));
    let handle = start(config).await.unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(data.join("admin.sock"))
            .unwrap()
            .permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    let ttl = Duration::from_secs(9);
    let at = data.clone();
    tokio::task::spawn_blocking(move || mint_token(&at, TokenSpec::once(ttl)))
        .await
        .unwrap()
        .unwrap();
    handle.stop().await;
    assert!(!data.join("admin.sock").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_controller_cannot_have_is_named() {
    let keeper = Keeper::start().await;
    let dir = tempfile::tempdir().unwrap();
    let config = |data: &Path, listen| ControllerConfig::new(data.to_owned(), listen);
    let fresh = dir.path().join("fresh");
    let error = start(config(&fresh, keeper.listen)).await.unwrap_err();
    assert!(
        matches!(error, ControllerError::PortTaken { .. }),
        "{error}"
    );
    let error = start(config(&fresh, "192.0.2.1:4".parse().unwrap()))
        .await
        .unwrap_err();
    assert!(
        matches!(error, ControllerError::NotOurAddress { .. }),
        "{error}"
    );
    assert!(!fresh.exists(), "nothing half-made stays");
    let free = SocketAddr::new(own_address(), 0);
    let error = start(config(keeper.data.path(), free)).await.unwrap_err();
    assert!(
        matches!(error, ControllerError::Store(StoreError::Locked { .. })),
        "{error}"
    );
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = start(config(&file.join("data"), free))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("file/data") && error.contains("--data"),
        "{error}"
    );
}
