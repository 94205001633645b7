use std::net::UdpSocket;
use std::time::Duration;

use hickory_proto::op::{MessageType, OpCode, Query};
use hickory_proto::rr::{RData, Record};

use super::super::names::tests::{mac, names};
use super::*;

/// An upstream that answers every question with 192.0.2.7 after a while, and how often it was asked.
fn upstream(patience: Duration) -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    std::thread::spawn(move || {
        let mut buffer = [0; 2000];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            counter.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(patience);
            let mut message = Message::from_vec(&buffer[..len]).unwrap();
            message.metadata.message_type = MessageType::Response;
            let name = message.queries[0].name().clone();
            let data = RData::from(std::net::Ipv4Addr::new(192, 0, 2, 7));
            message.answers.push(Record::from_rdata(name, 60, data));
            socket.send_to(&message.to_vec().unwrap(), from).unwrap();
        }
    });
    (address, asked)
}

fn server(upstreams: Vec<SocketAddr>) -> Arc<NameServer> {
    let server = NameServer::new(upstreams, Path::new("/nowhere"));
    server.publish(names(), vec!["10.1.0.1".parse().unwrap()]);
    server
}

fn asker(network: &str, ip: &str) -> Asker {
    (NetworkId(network.into()), mac(ip))
}

fn question(name: &str, record_type: RecordType) -> Vec<u8> {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), record_type));
    message.to_vec().unwrap()
}

async fn ask(
    server: &Arc<NameServer>,
    asker: &Asker,
    name: &str,
    record_type: RecordType,
) -> Message {
    let bytes = match server.handle(asker, &question(name, record_type), Room::Udp(1400)) {
        Outcome::Answer(bytes) => bytes,
        Outcome::Wait(waiting) => waiting.answer().await.unwrap(),
        Outcome::Nothing => panic!("no answer"),
    };
    let message = Message::from_vec(&bytes).unwrap();
    assert_eq!(
        (message.metadata.id, message.metadata.message_type),
        (77, MessageType::Response)
    );
    message
}

fn data(message: &Message) -> Vec<String> {
    message
        .answers
        .iter()
        .map(|record| record.data.to_string())
        .collect()
}

#[tokio::test]
async fn names_of_the_cluster_are_known_and_others_asked_on() {
    let (address, asked) = upstream(Duration::ZERO);
    let server = server(vec![address]);
    let c2 = asker("blue", "10.1.0.3");
    let known = ask(&server, &c2, "web1.", RecordType::A).await;
    assert_eq!(data(&known), ["10.1.0.11"]);
    assert!(known.metadata.authoritative && known.metadata.recursion_available);
    let none = ask(&server, &c2, "web2.", RecordType::AAAA).await;
    assert_eq!(none.metadata.response_code, ResponseCode::NoError);
    assert!(none.answers.is_empty() && none.authorities[0].ttl <= 1);
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    let other = ask(&server, &c2, "example.com.", RecordType::A).await;
    assert_eq!(data(&other), ["192.0.2.7"]);
    assert!(!other.metadata.authoritative);
    // The second time it is remembered, for whoever asks.
    let again = ask(
        &server,
        &asker("red", "10.3.0.9"),
        "Example.COM.",
        RecordType::A,
    )
    .await;
    assert_eq!(data(&again), ["192.0.2.7"]);
    assert_eq!(again.queries[0].name().to_ascii(), "Example.COM.");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    let view = server.view();
    assert_eq!(
        (view.questions, view.known, view.cached, view.asked),
        (4, 2, 1, 1)
    );
}

#[tokio::test]
async fn an_internal_network_asks_nobody() {
    let (address, asked) = upstream(Duration::ZERO);
    let server = server(vec![address]);
    let inside = asker("green", "10.2.0.5");
    let message = ask(&server, &inside, "example.com.", RecordType::A).await;
    assert_eq!(message.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(
        data(&ask(&server, &inside, "db.", RecordType::A).await),
        ["10.2.0.5"]
    );
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    // One that is on another network too has a way out.
    let both = asker("green", "10.2.0.2");
    assert_eq!(
        data(&ask(&server, &both, "example.com.", RecordType::A).await),
        ["192.0.2.7"]
    );
}

#[tokio::test]
async fn without_an_upstream_there_is_no_outside_and_with_a_dead_one_no_answer() {
    let c2 = asker("blue", "10.1.0.3");
    let alone = server(Vec::new());
    let message = ask(&alone, &c2, "example.com.", RecordType::A).await;
    assert_eq!(message.metadata.response_code, ResponseCode::NXDomain);
    // The gateway itself is nobody to ask.
    let itself = server(vec!["10.1.0.1:53".parse().unwrap()]);
    let message = ask(&itself, &c2, "example.com.", RecordType::A).await;
    assert_eq!(message.metadata.response_code, ResponseCode::NXDomain);
    let nobody = UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let dead = server(vec![nobody]);
    let message = ask(&dead, &c2, "example.com.", RecordType::A).await;
    assert_eq!(message.metadata.response_code, ResponseCode::ServFail);
    let message = ask(&dead, &c2, "example.com.", RecordType::A).await;
    assert_eq!(message.metadata.response_code, ResponseCode::ServFail);
    let view = dead.view();
    assert_eq!((view.asked, view.failed, view.cached), (1, 1, 1));
}

#[tokio::test]
async fn the_same_question_is_asked_once_and_one_port_does_not_take_all_turns() {
    let (address, asked) = upstream(Duration::from_millis(300));
    let server = server(vec![address]);
    let c2 = asker("blue", "10.1.0.3");
    let mut waiting = Vec::new();
    for _ in 0..MAX_WAITING_PER_PORT {
        match server.handle(&c2, &question("example.com.", RecordType::A), Room::Tcp) {
            Outcome::Wait(wait) => waiting.push(wait),
            Outcome::Answer(_) | Outcome::Nothing => panic!("not asked on"),
        }
    }
    let beyond = server.handle(&c2, &question("example.org.", RecordType::A), Room::Tcp);
    assert!(matches!(beyond, Outcome::Nothing));
    // Another port has turns of its own, and what is known needs none.
    let other = asker("blue", "10.1.0.2");
    let others = server.handle(&other, &question("example.com.", RecordType::A), Room::Tcp);
    assert!(matches!(others, Outcome::Wait(_)));
    assert_eq!(
        data(&ask(&server, &c2, "web1.", RecordType::A).await),
        ["10.1.0.11"]
    );
    for wait in waiting {
        let message = Message::from_vec(&wait.answer().await.unwrap()).unwrap();
        assert_eq!(data(&message), ["192.0.2.7"]);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    drop(others);
    assert!(lock(&server.waiting).is_empty());
    assert_eq!(server.view().dropped, 1);
}

#[tokio::test]
async fn both_families_of_several_have_turns_of_their_own() {
    let server = server(Vec::new());
    let c2 = asker("blue", "10.1.0.3");
    let mut first = Vec::new();
    for _ in 0..4 {
        first.push(data(&ask(&server, &c2, "web.", RecordType::A).await)[0].clone());
        ask(&server, &c2, "WEB.", RecordType::AAAA).await;
    }
    assert_eq!(first, ["10.1.0.11", "10.1.0.12", "10.1.0.11", "10.1.0.12"]);
}

#[test]
fn hostile_bytes_get_a_refusal_or_nothing() {
    let server = server(Vec::new());
    let c2 = asker("blue", "10.1.0.3");
    let nothing = server.handle(&c2, &[0xff; 40], Room::Udp(1400));
    assert!(matches!(nothing, Outcome::Nothing));
    let mut zone = question("blue.", RecordType::AXFR);
    let refused = server.handle(&c2, &zone, Room::Tcp);
    assert!(matches!(refused, Outcome::Answer(_)));
    zone.truncate(20);
    let Outcome::Answer(bytes) = server.handle(&c2, &zone, Room::Udp(1400)) else {
        panic!()
    };
    let message = Message::from_vec(&bytes).unwrap();
    assert_eq!(message.metadata.response_code, ResponseCode::FormErr);
    assert_eq!(server.view().refused, 3);
}
