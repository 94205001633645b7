use super::*;

fn joining() -> Plugin {
    let (phase, phases) = watch::channel(Phase::Joining("no controller answers".to_owned()));
    // Whoever holds the sender is the agent that starts; the last phase stays readable without it.
    drop(phase);
    Plugin::new(phases)
}

async fn asked(path: &str, body: &'static str) -> (StatusCode, serde_json::Value) {
    let uri = path.parse().unwrap();
    let body = Ok(Bytes::from_static(body.as_bytes()));
    let response = handle(State(joining()), uri, body).await;
    let status = response.status();
    let kind = response.headers()[header::CONTENT_TYPE].clone();
    assert_eq!(kind, CONTENT_TYPE);
    let body = axum::body::to_bytes(response.into_body(), 1 << 16).await;
    (status, serde_json::from_slice(&body.unwrap()).unwrap())
}

#[tokio::test]
async fn dockerd_comes_up_while_the_agent_still_joins() {
    for (path, key) in [
        ("/Plugin.Activate", "Implements"),
        ("/NetworkDriver.GetCapabilities", "Scope"),
        ("/IpamDriver.GetCapabilities", "RequiresMACAddress"),
        (
            "/IpamDriver.GetDefaultAddressSpaces",
            "LocalDefaultAddressSpace",
        ),
    ] {
        let (status, reply) = asked(path, "").await;
        assert_eq!(status, StatusCode::OK);
        assert!(reply.get(key).is_some(), "{path}: {reply}");
    }
}

#[tokio::test]
async fn what_needs_the_agent_fails_at_once_with_a_sentence_while_it_joins() {
    let both = r#"{"NetworkID":"n","EndpointID":"e"}"#;
    for (path, body, field) in [
        (
            "/NetworkDriver.CreateNetwork",
            r#"{"NetworkID":"n"}"#,
            "Err",
        ),
        ("/NetworkDriver.CreateEndpoint", both, "Err"),
        ("/NetworkDriver.Join", both, "Err"),
        ("/NetworkDriver.DeleteEndpoint", both, "Err"),
        (
            "/NetworkDriver.DeleteNetwork",
            r#"{"NetworkID":"n"}"#,
            "Err",
        ),
        (
            "/IpamDriver.RequestPool",
            r#"{"Pool":"10.40.0.0/16"}"#,
            "Error",
        ),
        ("/IpamDriver.RequestAddress", r#"{"PoolID":"p"}"#, "Error"),
        (
            "/IpamDriver.ReleaseAddress",
            r#"{"PoolID":"p","Address":"10.0.0.1"}"#,
            "Error",
        ),
        ("/IpamDriver.ReleasePool", r#"{"PoolID":"p"}"#, "Error"),
    ] {
        let (status, reply) = asked(path, body).await;
        assert_eq!(
            status,
            StatusCode::OK,
            "Docker reads the sentence of a 200 only"
        );
        let sentence = reply[field].as_str().unwrap_or_default();
        assert!(
            sentence.contains("no controller answers"),
            "{path}: {reply}"
        );
        assert!(sentence.contains("weft status --wait"), "{path}: {reply}");
    }
}

#[tokio::test]
async fn a_wrong_call_is_answered_in_the_form_of_its_half() {
    let (status, reply) = asked("/NetworkDriver.Join", "{}").await;
    assert_eq!((status, reply["Err"].is_string()), (StatusCode::OK, true));
    let (status, reply) = asked("/IpamDriver.ReleasePool", "{}").await;
    assert_eq!((status, reply["Error"].is_string()), (StatusCode::OK, true));
    let (status, reply) = asked("/NetworkDriver.Explode", "{}").await;
    assert_eq!(
        (status, reply["Err"].is_string()),
        (StatusCode::NOT_FOUND, true)
    );
    let (_, reply) = asked("/NetworkDriver.AllocateNetwork", "{}").await;
    assert!(reply["Err"].as_str().unwrap().contains("swarm"), "{reply}");
}

#[tokio::test]
async fn one_thing_in_order_others_beside_it() {
    let lanes = Arc::<Lanes>::default();
    let first = lanes.enter("a".to_owned());
    let second = lanes.enter("a".to_owned());
    let other = lanes.enter("b".to_owned());
    let turn = first.turn.lock().await;
    assert!(other.turn.try_lock().is_ok());
    assert!(second.turn.try_lock().is_err());
    drop(turn);
    assert!(second.turn.try_lock().is_ok());
    drop((first, other));
    assert_eq!(
        lanes.open.lock().unwrap().len(),
        1,
        "the second call is in its lane"
    );
    drop(second);
    assert!(lanes.open.lock().unwrap().is_empty());
}

/// Calls that end when they are told to.
struct Calls {
    lanes: Arc<Lanes>,
    begun: Arc<Mutex<Vec<&'static str>>>,
    taken_back: Arc<Mutex<Vec<&'static str>>>,
}

type Answered = tokio::task::JoinHandle<Result<&'static str, ApiError>>;

impl Calls {
    fn new() -> Self {
        Self {
            lanes: Arc::default(),
            begun: Arc::default(),
            taken_back: Arc::default(),
        }
    }

    /// A call for the thing `key`; it ends when the sender says how.
    fn call(
        &self,
        key: &str,
        name: &'static str,
    ) -> (oneshot::Sender<Result<(), ApiError>>, Answered) {
        let (end, ended) = oneshot::channel::<Result<(), ApiError>>();
        let (begun, taken_back) = (Arc::clone(&self.begun), Arc::clone(&self.taken_back));
        let (lanes, key) = (Arc::clone(&self.lanes), Some(key.to_owned()));
        let work = async move {
            begun.lock().unwrap().push(name);
            ended.await.unwrap().map(|()| name)
        };
        let take_back = move |name| async move { taken_back.lock().unwrap().push(name) };
        let answered = tokio::spawn(async move { lanes.answer(key, work, take_back).await });
        (end, answered)
    }

    fn begun(&self) -> Vec<&'static str> {
        self.begun.lock().unwrap().clone()
    }

    fn taken_back(&self) -> Vec<&'static str> {
        self.taken_back.lock().unwrap().clone()
    }
}

/// Everything that can go on has gone on: the clock of these tests stands still until then.
async fn settled() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn calls_for_one_container_are_done_in_order_and_for_others_meanwhile() {
    let calls = Calls::new();
    let (end_first, first) = calls.call("web", "create web");
    settled().await;
    let (end_second, second) = calls.call("web", "delete web");
    settled().await;
    let (end_other, other) = calls.call("db", "create db");
    settled().await;
    assert_eq!(calls.begun(), ["create web", "create db"]);
    end_other.send(Ok(())).unwrap();
    assert_eq!(other.await.unwrap().unwrap(), "create db");
    assert!(!first.is_finished() && !second.is_finished());
    end_first.send(Ok(())).unwrap();
    assert_eq!(first.await.unwrap().unwrap(), "create web");
    settled().await;
    assert_eq!(calls.begun(), ["create web", "create db", "delete web"]);
    end_second.send(Ok(())).unwrap();
    assert_eq!(second.await.unwrap().unwrap(), "delete web");
    assert_eq!(calls.taken_back(), Vec::<&str>::new());
    assert!(calls.lanes.open.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_any_more_is_taken_back_before_the_next_call() {
    let calls = Calls::new();
    let (end_first, first) = calls.call("web", "create web");
    settled().await;
    let (end_next, next) = calls.call("web", "create web again");
    settled().await;
    // dockerd dies in the middle of its call.
    first.abort();
    settled().await;
    assert_eq!(calls.begun(), ["create web"], "its turn isn't over");
    end_first.send(Ok(())).unwrap();
    settled().await;
    assert_eq!(calls.taken_back(), ["create web"]);
    assert_eq!(calls.begun(), ["create web", "create web again"]);
    end_next.send(Ok(())).unwrap();
    assert_eq!(next.await.unwrap().unwrap(), "create web again");
    // What failed made nothing.
    let (end, failed) = calls.call("web", "create web badly");
    settled().await;
    failed.abort();
    end.send(Err(ApiError::internal("no room"))).unwrap();
    settled().await;
    assert_eq!(calls.taken_back(), ["create web"]);
    assert!(calls.lanes.open.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_takes_too_long_is_answered_and_taken_back_when_it_ends() {
    let calls = Calls::new();
    let (end, answered) = calls.call("web", "create web");
    let began = tokio::time::Instant::now();
    let error = answered.await.unwrap().unwrap_err();
    assert_eq!(error.reply.code, "timed_out");
    assert!(sentence(&error).contains("try again"), "{error:?}");
    assert_eq!(began.elapsed().as_secs(), ANSWER_WITHIN.as_secs());
    assert_eq!(calls.taken_back(), Vec::<&str>::new(), "it goes on");
    end.send(Ok(())).unwrap();
    settled().await;
    assert_eq!(calls.taken_back(), ["create web"]);
    // One that fails without a word is answered, too.
    let (end, answered) = calls.call("web", "panics");
    settled().await;
    drop(end);
    let error = answered.await.unwrap().unwrap_err();
    assert_eq!(error.reply.code, "internal");
    assert!(calls.lanes.open.lock().unwrap().is_empty());
}
