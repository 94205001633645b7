use super::*;

fn joining() -> Plugin {
    let (phase, phases) = watch::channel(Phase::Joining("no controller answers".to_owned()));
    // Whoever holds the sender is the agent that starts; the last phase stays readable without it.
    drop(phase);
    Plugin::new(phases)
}

async fn asked(path: &str, body: &'static str) -> (StatusCode, serde_json::Value) {
    let uri = path.parse().unwrap();
    let response = handle(State(joining()), uri, Bytes::from_static(body.as_bytes())).await;
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
