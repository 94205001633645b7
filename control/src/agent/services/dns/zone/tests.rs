use super::*;
use crate::agent::services::names::Names;
use crate::agent::services::names::tests::{mac, names};
use crate::model::NetworkId;

fn services(name: &str, protocol: &str) -> Option<u16> {
    (name == "http" && protocol == "tcp").then_some(80)
}

/// What an endpoint of network blue is told, in text.
fn ask_as(names: &Names, ip: &str, question: (&str, RecordType), turn: usize) -> Known {
    let view = names.seen_by(&NetworkId("blue".into()), mac(ip));
    let name = Name::from_ascii(question.0).unwrap();
    look_up(&view, (&name, question.1), turn, &services)
}

fn ask(question: &str, record_type: RecordType) -> Known {
    ask_as(&names(), "10.1.0.3", (question, record_type), 0)
}

fn data(known: Known) -> Vec<String> {
    let Known::Records { answers, .. } = known else {
        panic!("{known:?}")
    };
    assert!(answers.iter().all(|record| record.ttl <= 1));
    answers
        .iter()
        .map(|record| record.data.to_string())
        .collect()
}

#[test]
fn names_have_their_addresses_whatever_the_spelling() {
    use RecordType::{A, AAAA, ANY};
    assert_eq!(data(ask("web1.", A)), ["10.1.0.11"]);
    assert_eq!(data(ask("WEB1.", AAAA)), ["fd01::11"]);
    assert_eq!(data(ask("web1.Blue.", A)), ["10.1.0.11"]);
    assert_eq!(data(ask("c1-ALIAS.", A)), ["10.1.0.2"]);
    assert_eq!(data(ask("web1.", ANY)), ["10.1.0.11", "fd01::11"]);
    let Known::Records { answers, .. } = ask("WeB1.", A) else {
        panic!()
    };
    // The spelling of the question comes back (draft-vixie-dnsext-dns0x20).
    assert_eq!(answers[0].name.to_ascii(), "WeB1.");
}

#[test]
fn a_missing_family_is_no_missing_name() {
    assert_eq!(ask("web2.", RecordType::AAAA), Known::NoData);
    assert_eq!(ask("web2.blue.", RecordType::MX), Known::NoData);
    assert_eq!(ask("web2.", RecordType::HTTPS), Known::NoData);
}

#[test]
fn what_is_not_on_a_shared_network_is_elsewhere() {
    for name in [
        "db.",
        "db.green.",
        "far.",
        "example.com.",
        ".",
        "web.red.",
        "we\\.b1.",
    ] {
        assert_eq!(ask(name, RecordType::A), Known::Elsewhere, "{name}");
    }
    let known = ask_as(&names(), "10.1.0.2", ("db.", RecordType::A), 0);
    assert_eq!(data(known), ["10.2.0.5"]);
}

#[test]
fn several_of_one_name_are_told_in_turn() {
    let names = names();
    let turn = |turn| data(ask_as(&names, "10.1.0.3", ("web.", RecordType::A), turn));
    assert_eq!(turn(0), ["10.1.0.11", "10.1.0.12"]);
    assert_eq!(turn(1), ["10.1.0.12", "10.1.0.11"]);
    assert_eq!(turn(2), turn(0));
    assert_eq!(turn(usize::MAX), ["10.1.0.12", "10.1.0.11"]);
}

#[test]
fn the_second_network_is_asked_for_a_family_the_first_does_not_have() {
    // c1 is on blue with IPv6 and on green without.
    let names = names();
    let view = names.seen_by(&NetworkId("green".into()), mac("10.2.0.2"));
    let name = Name::from_ascii("c1.").unwrap();
    let known = look_up(&view, (&name, RecordType::AAAA), 0, &services);
    assert_eq!(data(known), ["fd01::2"]);
    let known = look_up(&view, (&name, RecordType::A), 0, &services);
    assert_eq!(data(known), ["10.2.0.2"]);
}

#[test]
fn addresses_lead_back_to_names_that_lead_to_them() {
    use RecordType::PTR;
    assert_eq!(data(ask("11.0.1.10.in-addr.arpa.", PTR)), ["web1.blue."]);
    let v6 = "1.1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.d.f.ip6.arpa.";
    assert_eq!(data(ask(v6, PTR)), ["web1.blue."]);
    assert_eq!(data(ask("web1.blue.", RecordType::A)), ["10.1.0.11"]);
    assert_eq!(ask("99.0.1.10.in-addr.arpa.", PTR), Known::NoName);
    assert_eq!(
        ask("11.0.1.10.in-addr.arpa.", RecordType::TXT),
        Known::NoData
    );
    for not_ours in [
        "5.0.2.10.in-addr.arpa.",
        "8.8.8.8.in-addr.arpa.",
        "1.10.in-addr.arpa.",
    ] {
        assert_eq!(ask(not_ours, PTR), Known::Elsewhere, "{not_ours}");
    }
    for odd in [
        "1.2.3.4.5.in-addr.arpa.",
        "x.0.1.10.in-addr.arpa.",
        "1.ip6.arpa.",
        "arpa.",
    ] {
        assert_eq!(ask(odd, PTR), Known::Elsewhere, "{odd}");
    }
}

#[test]
fn services_are_where_the_name_is() {
    use RecordType::{A, SRV};
    let Known::Records {
        answers,
        additionals,
    } = ask("_http._tcp.web.", SRV)
    else {
        panic!()
    };
    let text = |records: &[Record]| -> Vec<String> {
        let line = |record: &Record| format!("{} {}", record.name, record.data);
        records.iter().map(line).collect()
    };
    assert_eq!(
        text(&answers),
        [
            "_http._tcp.web. 0 0 80 web1.blue.",
            "_http._tcp.web. 0 0 80 web2.blue."
        ]
    );
    let addresses = [
        "web1.blue. 10.1.0.11",
        "web1.blue. fd01::11",
        "web2.blue. 10.1.0.12",
    ];
    assert_eq!(text(&additionals), addresses);
    assert_eq!(
        data(ask("_8080._tcp.web2.blue.", SRV)),
        ["0 0 8080 web2.blue."]
    );
    assert_eq!(ask("_nonsense._tcp.web.", SRV), Known::NoName);
    assert_eq!(ask("_80._sctp.web.", SRV), Known::NoName);
    assert_eq!(ask("_http.tcp.web.", SRV), Known::NoName);
    assert_eq!(ask("_http._tcp.web.", A), Known::NoData);
    assert_eq!(ask("_http._tcp.example.com.", SRV), Known::Elsewhere);
    assert_eq!(ask("_tcp.web.", SRV), Known::Elsewhere);
}

#[test]
fn localhost_is_answered_here() {
    assert_eq!(data(ask("localhost.", RecordType::A)), ["127.0.0.1"]);
    assert_eq!(data(ask("x.localhost.", RecordType::AAAA)), ["::1"]);
    assert_eq!(ask("localhost.", RecordType::MX), Known::NoData);
}

#[test]
fn no_data_says_for_how_long() {
    let soa = start_of_authority(&Name::from_ascii("web2.").unwrap());
    let RData::SOA(data) = &soa.data else {
        panic!()
    };
    assert!(soa.ttl <= 1 && data.minimum <= 1);
}
