#![expect(clippy::disallowed_methods, reason = "a test has a clock")]

use hickory_proto::op::{MessageType, OpCode, Query};
use hickory_proto::rr::rdata::SOA;

use super::*;

fn question(name: &str) -> Question {
    Question {
        id: 1,
        query: Query::query(Name::from_ascii(name).unwrap(), RecordType::A),
        recursion_desired: true,
        checking_disabled: false,
        authentic_data: false,
        edns: None,
    }
}

fn key(name: &str) -> Key {
    Key::of(&question(name))
}

fn answer(code: ResponseCode, answers: &[u32], soa: Option<(u32, u32)>) -> Message {
    let mut message = Message::new(1, MessageType::Response, OpCode::Query);
    message.metadata.response_code = code;
    let name = Name::from_ascii("example.com.").unwrap();
    for ttl in answers {
        let data = RData::from(std::net::Ipv4Addr::LOCALHOST);
        message
            .answers
            .push(Record::from_rdata(name.clone(), *ttl, data));
    }
    if let Some((ttl, minimum)) = soa {
        let soa = SOA::new(name.clone(), name.clone(), 1, 1, 1, 1, minimum);
        message
            .authorities
            .push(Record::from_rdata(name, ttl, RData::SOA(soa)));
    }
    message
}

fn kept(message: Message) -> u64 {
    lifetime(&message).as_secs()
}

#[test]
fn an_answer_holds_as_long_as_its_shortest_record() {
    use ResponseCode::{NXDomain, NoError, ServFail};
    assert_eq!(kept(answer(NoError, &[300, 60], None)), 60);
    assert_eq!(kept(answer(NoError, &[300, 0], None)), 0);
    assert_eq!(kept(answer(NoError, &[u32::MAX], None)), 0);
    assert_eq!(kept(answer(NoError, &[1_000_000], None)), 3600);
    assert_eq!(kept(answer(NXDomain, &[], Some((600, 30)))), 30);
    assert_eq!(kept(answer(NXDomain, &[], Some((20, 30)))), 20);
    assert_eq!(kept(answer(NoError, &[], Some((900, 900)))), 300);
    // Nothing says for how long.
    assert_eq!(kept(answer(NoError, &[], None)), 0);
    assert_eq!(kept(answer(NXDomain, &[], None)), 0);
    assert_eq!(kept(answer(ServFail, &[], None)), 1);
    let mut cut = answer(NoError, &[60], None);
    cut.metadata.truncation = true;
    assert_eq!(kept(cut), 0);
    assert_eq!(kept(answer(NoError, &[60; 129], None)), 0);
}

#[test]
fn what_is_kept_is_found_until_its_time() {
    let mut cache = Cache::default();
    let now = Instant::now();
    let heard = Some(Arc::new(answer(ResponseCode::NoError, &[60], None)));
    cache.insert(key("Example.com."), heard.clone(), now);
    let after = |secs| now + Duration::from_secs(secs);
    assert_eq!(
        cache.lookup(&key("example.COM."), after(10)),
        Some((heard, 10))
    );
    assert_eq!(cache.lookup(&key("example.com."), after(60)), None);
    let mut other = question("example.com.");
    other.checking_disabled = true;
    assert_eq!(cache.lookup(&Key::of(&other), now), None);
    cache.insert(key("dead."), None, now);
    assert_eq!(cache.lookup(&key("dead."), now), Some((None, 0)));
    assert_eq!(cache.lookup(&key("dead."), now + FAILURE_TTL), None);
}

#[test]
fn a_flood_of_names_pushes_out_the_oldest_only() {
    let mut cache = Cache::default();
    let now = Instant::now();
    let heard = Some(Arc::new(answer(ResponseCode::NoError, &[60], None)));
    for number in 0..MAX_ENTRIES + 10 {
        cache.insert(key(&format!("n{number}.")), heard.clone(), now);
    }
    assert_eq!(cache.entries.len(), MAX_ENTRIES);
    assert_eq!(cache.lookup(&key("n9."), now), None);
    assert!(cache.lookup(&key("n10."), now).is_some());
    // One name again and again doesn't grow it.
    for _ in 0..3 * MAX_ENTRIES {
        cache.insert(key("n10."), heard.clone(), now);
    }
    assert!(cache.order.len() <= 2 * MAX_ENTRIES && cache.entries.len() <= MAX_ENTRIES);
    assert!(cache.lookup(&key("n10."), now).is_some());
}
