use std::sync::Arc;

use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::net::TcpListener;

use super::*;

fn question() -> Question {
    Question {
        id: 1,
        query: Query::query(Name::from_ascii("example.com.").unwrap(), RecordType::A),
        recursion_desired: true,
        checking_disabled: false,
        authentic_data: false,
        edns: None,
    }
}

/// How a server of the tests behaves.
#[derive(Clone, Copy)]
enum Manner {
    Answers(u8),
    Refuses,
    Silent,
    /// Says what isn't asked, then the answer.
    Lies(u8),
    /// Over UDP only that there is more.
    Cuts(u8),
}

fn answer(asked: &[u8], last: u8) -> Message {
    let mut message = Message::from_vec(asked).unwrap();
    assert!(message.edns.is_some() && message.metadata.recursion_desired);
    message.metadata.message_type = MessageType::Response;
    let data = RData::from(Ipv4Addr::new(10, 0, 0, last));
    let name = message.queries[0].name().clone();
    message.answers.push(Record::from_rdata(name, 60, data));
    message
}

async fn server(manner: Manner) -> SocketAddr {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let udp = UdpSocket::bind(address).await.unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2000];
        loop {
            let (len, from) = udp.recv_from(&mut buffer).await.unwrap();
            for message in said(manner, &buffer[..len]) {
                udp.send_to(&message.to_vec().unwrap(), from).await.unwrap();
            }
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = tcp.accept().await.unwrap();
            let len = stream.read_u16().await.unwrap();
            let mut asked = vec![0; usize::from(len)];
            stream.read_exact(&mut asked).await.unwrap();
            let Manner::Cuts(last) = manner else { return };
            let bytes = answer(&asked, last).to_vec().unwrap();
            let len = u16::try_from(bytes.len()).unwrap();
            stream.write_u16(len).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
        }
    });
    address
}

fn said(manner: Manner, asked: &[u8]) -> Vec<Message> {
    match manner {
        Manner::Answers(last) => vec![answer(asked, last)],
        Manner::Refuses => {
            let mut message = answer(asked, 0);
            message.answers.clear();
            message.metadata.response_code = ResponseCode::ServFail;
            vec![message]
        }
        Manner::Silent => Vec::new(),
        Manner::Lies(last) => {
            let mut number = answer(asked, 66);
            number.metadata.id = number.metadata.id.wrapping_add(1);
            let mut name = answer(asked, 66);
            name.queries[0].set_name(Name::from_ascii("example.org.").unwrap());
            let mut query = answer(asked, 66);
            query.metadata.message_type = MessageType::Query;
            let mut none = answer(asked, 66);
            none.queries.clear();
            vec![number, name, query, none, answer(asked, last)]
        }
        Manner::Cuts(_) => {
            let mut message = answer(asked, 0);
            message.answers.clear();
            message.metadata.truncation = true;
            vec![message]
        }
    }
}

async fn ask(manners: &[Manner]) -> Option<Message> {
    let mut servers = Vec::new();
    for manner in manners {
        servers.push(server(*manner).await);
    }
    let upstreams = Upstreams::new(servers.clone(), Path::new("/nowhere"));
    assert_eq!(upstreams.servers(&[]), servers);
    upstreams.ask(&servers, &question()).await
}

fn last_byte(answer: Option<Message>) -> u8 {
    let answer = answer.unwrap();
    let RData::A(a) = answer.answers[0].data else {
        panic!("{answer}")
    };
    a.octets()[3]
}

#[tokio::test]
async fn the_first_that_answers_is_heard() {
    assert_eq!(last_byte(ask(&[Manner::Answers(1)]).await), 1);
    assert_eq!(
        last_byte(ask(&[Manner::Silent, Manner::Answers(2)]).await),
        2
    );
    assert_eq!(
        last_byte(ask(&[Manner::Refuses, Manner::Answers(3)]).await),
        3
    );
    assert_eq!(last_byte(ask(&[Manner::Lies(4)]).await), 4);
    assert_eq!(last_byte(ask(&[Manner::Cuts(5)]).await), 5);
}

#[tokio::test]
async fn a_refusal_is_heard_when_nobody_has_better() {
    let answer = ask(&[Manner::Refuses, Manner::Refuses]).await.unwrap();
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(ask(&[]).await, None);
    let nobody = UdpSocket::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let upstreams = Upstreams::new(vec![nobody], Path::new("/nowhere"));
    assert_eq!(upstreams.ask(&[nobody], &question()).await, None);
}

#[tokio::test]
async fn who_answered_begins_the_next_time() {
    let servers = vec![
        server(Manner::Silent).await,
        server(Manner::Answers(7)).await,
    ];
    let upstreams = Arc::new(Upstreams::new(servers.clone(), Path::new("/nowhere")));
    assert_eq!(last_byte(upstreams.ask(&servers, &question()).await), 7);
    let before = Instant::now();
    assert_eq!(last_byte(upstreams.ask(&servers, &question()).await), 7);
    assert!(before.elapsed() < HEAD_START);
}

#[test]
fn a_resolv_conf_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("resolv.conf");
    let upstreams = Upstreams::new(Vec::new(), &path);
    assert_eq!(upstreams.servers(&[]), []);
    let text = "# nameserver 9.9.9.9\nsearch lan\nnameserver 127.0.0.53\n nameserver fd00::53 # here\nnameserver\nnameserver x\noptions ndots:2\nnameserver fe80::1%1\n";
    std::fs::write(&path, text).unwrap();
    let Source::File(_, followed) = &upstreams.source else {
        panic!()
    };
    followed.lock().unwrap().looked = None;
    let servers: Vec<String> = upstreams
        .servers(&[])
        .iter()
        .map(SocketAddr::to_string)
        .collect();
    assert_eq!(
        servers,
        ["127.0.0.53:53", "[fd00::53]:53", "[fe80::1%1]:53"]
    );
    // Our own address would ask itself.
    assert_eq!(upstreams.servers(&["127.0.0.53".parse().unwrap()]).len(), 2);
    std::fs::remove_file(&path).unwrap();
    followed.lock().unwrap().looked = None;
    assert_eq!(upstreams.servers(&[]), []);
}
