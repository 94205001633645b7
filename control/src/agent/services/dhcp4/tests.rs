use proptest::prelude::*;

use super::*;

const MAC: MacAddr = MacAddr([2, 0x57, 10, 1, 0, 2]);

fn lease() -> Lease {
    Lease {
        ip: Ipv4Addr::new(10, 1, 0, 2),
        subnet: "10.1.0.0/24".parse().unwrap(),
        gateway: Ipv4Addr::new(10, 1, 0, 1),
        routes: true,
        mtu: Mtu::new(1450).unwrap(),
        name: "web_1.a".to_owned(),
    }
}

fn says(kind: MessageType, change: impl FnOnce(&mut Message)) -> Vec<u8> {
    let none = Ipv4Addr::UNSPECIFIED;
    let mut message = Message::new_with_id(7, none, none, none, none, &MAC.0);
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    change(&mut message);
    message.to_vec().unwrap()
}

fn wants(ip: [u8; 4]) -> impl FnOnce(&mut Message) {
    move |message| {
        let option = DhcpOption::RequestedIpAddress(ip.into());
        message.opts_mut().insert(option);
    }
}

fn heard(answer: &Answer) -> Message {
    let message = Message::decode(&mut Decoder::new(&answer.bytes)).unwrap();
    assert_eq!(
        (message.xid(), message.opcode(), message.chaddr()),
        (7, Opcode::BootReply, &MAC.0[..])
    );
    assert_eq!(answer.from.to_string(), "10.1.0.1:67");
    message
}

fn kind_of(bytes: &[u8]) -> Option<(MessageType, String)> {
    let answer = handle(MAC, bytes, &lease())?;
    let kind = heard(&answer).opts().msg_type().unwrap();
    Some((kind, answer.to.to_string()))
}

#[test]
fn a_client_is_offered_what_its_port_has() {
    let bytes = says(MessageType::Discover, |message| {
        wants([10, 1, 0, 99])(message);
        let identifier = DhcpOption::ClientIdentifier(vec![1, 2, 3]);
        message.opts_mut().insert(identifier);
    });
    let answer = handle(MAC, &bytes, &lease()).unwrap();
    assert_eq!(answer.to.to_string(), "10.1.0.2:68");
    let offer = heard(&answer);
    assert_eq!(offer.yiaddr(), Ipv4Addr::new(10, 1, 0, 2));
    let gateway = Ipv4Addr::new(10, 1, 0, 1);
    for option in [
        DhcpOption::MessageType(MessageType::Offer),
        DhcpOption::ServerIdentifier(gateway),
        DhcpOption::ClientIdentifier(vec![1, 2, 3]),
        DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)),
        DhcpOption::BroadcastAddr(Ipv4Addr::new(10, 1, 0, 255)),
        DhcpOption::Router(vec![gateway]),
        DhcpOption::DomainNameServer(vec![gateway]),
        DhcpOption::InterfaceMtu(1450),
        DhcpOption::Hostname("web-1".to_owned()),
        DhcpOption::AddressLeaseTime(3600),
        DhcpOption::Renewal(1800),
        DhcpOption::Rebinding(3150),
    ] {
        assert_eq!(offer.opts().get(OptionCode::from(&option)), Some(&option));
    }
    // Clients may have no room for more than 576 bytes (RFC 2131 section 2).
    assert!(answer.bytes.len() <= 548);
}

#[test]
fn an_internal_network_has_no_router() {
    let inside = Lease {
        routes: false,
        ..lease()
    };
    let answer = handle(MAC, &says(MessageType::Discover, |_| {}), &inside).unwrap();
    assert!(!heard(&answer).opts().contains(OptionCode::Router));
}

#[test]
fn what_is_asked_for_is_promised_or_refused() {
    use MessageType::{Ack, Nak, Request};
    let ours = [10, 1, 0, 2];
    let to_client = |kind| Some((kind, "10.1.0.2:68".to_owned()));
    let to_all = |kind| Some((kind, "255.255.255.255:68".to_owned()));
    // Selecting, and after a reboot.
    let selects = |server: [u8; 4]| {
        says(Request, |message| {
            wants(ours)(message);
            let option = DhcpOption::ServerIdentifier(server.into());
            message.opts_mut().insert(option);
        })
    };
    assert_eq!(kind_of(&selects([10, 1, 0, 1])), to_client(Ack));
    assert_eq!(kind_of(&selects([10, 1, 0, 77])), None);
    assert_eq!(kind_of(&says(Request, wants(ours))), to_client(Ack));
    assert_eq!(kind_of(&says(Request, wants([10, 9, 9, 9]))), to_all(Nak));
    // Renewing and rebinding.
    let renews = |ip: [u8; 4]| {
        says(Request, |message| {
            message.set_ciaddr(ip);
        })
    };
    assert_eq!(kind_of(&renews(ours)), to_client(Ack));
    assert_eq!(kind_of(&renews([10, 1, 0, 3])), to_all(Nak));
    // Nothing is asked for.
    assert_eq!(kind_of(&says(Request, |_| {})), None);
    let deaf = says(MessageType::Discover, |message| {
        message.set_flags(Flags::default().set_broadcast());
    });
    assert_eq!(kind_of(&deaf), to_all(MessageType::Offer));
}

#[test]
fn an_inform_gets_options_and_no_address() {
    let informs = |ip: [u8; 4]| {
        says(MessageType::Inform, |message| {
            message.set_ciaddr(ip);
        })
    };
    let answer = handle(MAC, &informs([10, 1, 0, 2]), &lease()).unwrap();
    let ack = heard(&answer);
    assert_eq!(ack.opts().msg_type(), Some(MessageType::Ack));
    assert_eq!(ack.yiaddr(), Ipv4Addr::UNSPECIFIED);
    assert!(!ack.opts().contains(OptionCode::AddressLeaseTime));
    assert!(ack.opts().contains(OptionCode::DomainNameServer));
    assert_eq!(kind_of(&informs([10, 1, 0, 3])), None);
}

#[test]
fn what_is_not_the_stations_own_is_not_answered() {
    use MessageType::{Decline, Discover, Offer, Release};
    for kind in [Decline, Release, Offer] {
        assert_eq!(kind_of(&says(kind, wants([10, 1, 0, 2]))), None);
    }
    let another = says(Discover, |message| {
        message.set_chaddr(&[2, 0, 0, 0, 0, 9]);
    });
    assert_eq!(kind_of(&another), None);
    let relayed = says(Discover, |message| {
        message.set_giaddr([10, 1, 0, 9]);
    });
    assert_eq!(kind_of(&relayed), None);
    let reply = says(Discover, |message| {
        message.set_opcode(Opcode::BootReply);
    });
    assert_eq!(kind_of(&reply), None);
    let whole = says(Discover, |_| {});
    assert!(kind_of(&whole).is_some());
    for len in 0..=240 {
        assert_eq!(kind_of(&whole[..len]), None, "{len}");
    }
    let mut odd = whole.clone();
    odd[2] = 200;
    assert_eq!(kind_of(&odd), None);
    let mut bootp = whole.clone();
    bootp[236] = 0;
    assert_eq!(kind_of(&bootp), None);
    assert_eq!(kind_of(&[whole, vec![0; 1500]].concat()), None);
}

#[test]
fn an_endpoints_name_becomes_a_hosts() {
    assert_eq!(host_name("web_1.blue").as_deref(), Some("web-1"));
    assert_eq!(host_name("a").as_deref(), Some("a"));
    assert_eq!(host_name("_"), None);
}

#[test]
fn options_that_nobody_looks_at_are_not_read() {
    // A route to a prefix of 200 bits, a time of 3 bytes, a type of two, a status of none: all break the library.
    let hostile: [&[u8]; 4] = [
        &[121, 2, 200, 9],
        &[154, 3, 0, 0, 0],
        &[151, 0],
        &[249, 1, 255],
    ];
    let mut bytes = says(MessageType::Discover, |_| {});
    bytes.truncate(240);
    bytes.extend([53, 1, 1, 0, 0]);
    bytes.extend(hostile.concat());
    bytes.extend([53, 1, 3, END, 7, 7]);
    let offer = kind_of(&bytes);
    assert_eq!(offer, Some((MessageType::Offer, "10.1.0.2:68".to_owned())));
    // One of a wrong length says nothing, and one beyond the end makes it no message.
    bytes.truncate(240);
    assert_eq!(kind_of(&[&bytes[..], &[53, 2, 1, 1, END]].concat()), None);
    assert_eq!(
        kind_of(&[&bytes[..], &[53, 1, 1, 50, 4, 10]].concat()),
        None
    );
    assert_eq!(kind_of(&[&bytes[..], &[53, 1, 1, 50]].concat()), None);
    // The end may be missing.
    assert!(kind_of(&[&bytes[..], &[53, 1, 1]].concat()).is_some());
}

proptest! {
    #[test]
    fn any_options_are_survived(options in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut bytes = says(MessageType::Discover, |_| {});
        bytes.truncate(240);
        bytes.extend(options);
        if let Some(answer) = handle(MAC, &bytes, &lease()) {
            heard(&answer);
        }
    }
}
