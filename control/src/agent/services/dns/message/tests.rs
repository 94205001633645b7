use hickory_proto::rr::{Name, RData};
use proptest::prelude::*;

use super::*;

fn asked(change: impl FnOnce(&mut Message)) -> Vec<u8> {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(
        Name::from_ascii("Web.").unwrap(),
        RecordType::A,
    ));
    change(&mut message);
    message.to_vec().unwrap()
}

fn question(bytes: &[u8]) -> Question {
    let parsed = parse(bytes);
    let Parsed::Question(question) = parsed else {
        panic!("{parsed:?}")
    };
    question
}

fn refusal(bytes: &[u8]) -> ResponseCode {
    let parsed = parse(bytes);
    let Parsed::Refused(message) = parsed else {
        panic!("{parsed:?}")
    };
    assert_eq!(message.metadata.id, 77);
    assert_eq!(message.metadata.message_type, MessageType::Response);
    message.metadata.response_code
}

fn with_edns(payload: u16, dnssec_ok: bool) -> impl FnOnce(&mut Message) {
    move |message| {
        let mut edns = Edns::new();
        edns.set_max_payload(payload).set_dnssec_ok(dnssec_ok);
        message.set_edns(edns);
    }
}

#[test]
fn a_question_is_read_with_what_its_asker_takes() {
    let plain = question(&asked(|_| {}));
    assert_eq!(
        (plain.id, plain.recursion_desired, plain.edns),
        (77, true, None)
    );
    assert_eq!(plain.query.name().to_ascii(), "Web.");
    assert_eq!(plain.udp_limit(9000), 512);
    let edns = question(&asked(with_edns(4096, true)));
    assert_eq!(edns.edns, Some((4096, true)));
    assert_eq!((edns.udp_limit(9000), edns.udp_limit(548)), (1232, 548));
    assert_eq!(question(&asked(with_edns(100, false))).udp_limit(9000), 512);
}

#[test]
fn an_answer_repeats_the_question_and_answers_edns_with_edns() {
    let question = question(&asked(with_edns(4096, true)));
    let reply = question.reply(ResponseCode::NXDomain);
    let read = Message::from_vec(&encode(reply, 512).unwrap()).unwrap();
    assert_eq!(read.metadata.id, 77);
    assert!(read.metadata.recursion_desired && read.metadata.recursion_available);
    assert_eq!(read.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(read.queries[0].name().to_ascii(), "Web.");
    let edns = read.edns.unwrap();
    assert_eq!(
        (edns.max_payload(), edns.flags().dnssec_ok),
        (UDP_MAX, true)
    );
    assert_eq!(
        super::tests::question(&asked(|_| {}))
            .reply(ResponseCode::NoError)
            .edns,
        None
    );
}

#[test]
fn what_is_no_question_gets_no_answer_or_a_refusal() {
    assert_eq!(parse(&[]), Parsed::Ignored);
    assert_eq!(parse(&[0; 11]), Parsed::Ignored);
    // An answer to an answer would go on for ever.
    let answer = asked(|message| message.metadata.message_type = MessageType::Response);
    assert_eq!(parse(&answer), Parsed::Ignored);
    let op = asked(|message| message.metadata.op_code = OpCode::Notify);
    assert_eq!(refusal(&op), ResponseCode::NotImp);
    let none = asked(|message| message.queries.clear());
    assert_eq!(refusal(&none), ResponseCode::FormErr);
    let two = asked(|message| {
        message.add_query(Query::query(Name::root(), RecordType::NS));
    });
    assert_eq!(refusal(&two), ResponseCode::FormErr);
    let whole = asked(|_| {});
    for len in HEADER_LEN..whole.len() {
        assert_eq!(refusal(&whole[..len]), ResponseCode::FormErr, "{len}");
    }
    let chaos = asked(|message| {
        message.queries[0].set_query_class(DNSClass::CH);
    });
    assert_eq!(refusal(&chaos), ResponseCode::Refused);
    let transfer = asked(|message| {
        message.queries[0].set_query_type(RecordType::AXFR);
    });
    assert_eq!(refusal(&transfer), ResponseCode::Refused);
    let version = asked(|message| {
        let mut edns = Edns::new();
        edns.set_version(1);
        message.set_edns(edns);
    });
    // Its upper bits are in EDNS, so only a decoder sees all of it.
    let Parsed::Refused(refused) = parse(&version) else {
        panic!()
    };
    let read = Message::from_vec(&refused.to_vec().unwrap()).unwrap();
    assert_eq!(u16::from(read.metadata.response_code), 16);
}

#[test]
fn a_name_that_points_at_itself_is_refused() {
    // Header of one question, whose name is a pointer to itself.
    let mut bytes = vec![0, 77, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    bytes.extend([0xc0, 12, 0, 1, 0, 1]);
    assert_eq!(refusal(&bytes), ResponseCode::FormErr);
}

fn answer_of(count: u8, edns: bool) -> Message {
    let question = if edns {
        question(&asked(with_edns(4096, false)))
    } else {
        question(&asked(|_| {}))
    };
    let mut message = question.reply(ResponseCode::NoError);
    let name = question.query.name().clone();
    let records = (0..count).map(|last| {
        let ip = std::net::Ipv4Addr::new(10, 0, 0, last);
        Record::from_rdata(name.clone(), 1, RData::from(ip))
    });
    message.answers.extend(records);
    message
}

#[test]
fn what_does_not_fit_is_cut_and_says_so() {
    let whole = encode(answer_of(10, false), 512).unwrap();
    let read = Message::from_vec(&whole).unwrap();
    assert!(!read.metadata.truncation && read.answers.len() == 10);
    for edns in [false, true] {
        let cut = encode(answer_of(100, edns), 512).unwrap();
        assert!(cut.len() <= 512 && cut.len() > 480, "{}", cut.len());
        let read = Message::from_vec(&cut).unwrap();
        assert!(read.metadata.truncation && !read.answers.is_empty());
        assert_eq!(read.edns.is_some(), edns);
    }
    assert!(encode(answer_of(100, false), u16::MAX).unwrap().len() > 1232);
}

#[test]
fn what_was_heard_ages() {
    let mut heard = answer_of(2, false);
    heard.answers[0].ttl = 100;
    heard.answers[1].ttl = 5;
    heard.metadata.authentic_data = true;
    let asker = question(&asked(|_| {}));
    let passed = asker.pass_on(&heard, 10);
    let ttls: Vec<u32> = passed.answers.iter().map(|record| record.ttl).collect();
    assert_eq!(ttls, [90, 0]);
    // One who didn't ask for it gets no word of validation.
    assert!(!passed.metadata.authentic_data && passed.metadata.recursion_available);
    let asker = question(&asked(with_edns(1232, true)));
    assert!(asker.pass_on(&heard, 0).metadata.authentic_data);
}

proptest! {
    #[test]
    fn any_bytes_come_to_something(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Parsed::Refused(message) = parse(&bytes) {
            prop_assert!(encode(*message, 512).is_some());
        }
    }

    #[test]
    fn any_limit_is_kept(count in 0_u8..200, limit in 64_u16..2000, edns: bool) {
        let bytes = encode(answer_of(count, edns), limit);
        let bytes = bytes.expect("header, question and EDNS fit");
        prop_assert!(bytes.len() <= usize::from(limit));
        let read = Message::from_vec(&bytes).unwrap();
        prop_assert_eq!(read.metadata.truncation, read.answers.len() < usize::from(count));
    }
}
