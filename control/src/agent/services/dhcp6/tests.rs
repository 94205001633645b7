use proptest::prelude::*;

use super::*;

fn ip(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn lease() -> Lease {
    Lease {
        ips: vec![ip("fd01::2")],
        subnets: vec!["fd01::/64".parse().unwrap()],
        gateway: ip("fd01::1"),
    }
}

fn says(kind: MessageType, options: Vec<DhcpOption>) -> Vec<u8> {
    let mut message = Message::new_with_id(kind, [1, 2, 3]);
    for option in options {
        message.opts_mut().insert(option);
    }
    message.to_vec().unwrap()
}

fn client() -> DhcpOption {
    DhcpOption::ClientId(vec![0, 3, 0, 1, 2, 0, 0, 0, 0, 9])
}

fn server() -> DhcpOption {
    DhcpOption::ServerId(server_id())
}

fn association(id: u32, held: &[&str]) -> DhcpOption {
    let mut opts = DhcpOptions::new();
    for held in held {
        opts.insert(address(ip(held), 1, 1));
    }
    DhcpOption::IANA(IANA {
        id,
        t1: 0,
        t2: 0,
        opts,
    })
}

/// An association's addresses with their valid lifetimes.
type Held = (u32, Vec<(String, u32)>);

/// Kind of the answer, and the addresses of each association with their valid lifetimes.
fn answer(bytes: &[u8]) -> Option<(MessageType, Vec<Held>)> {
    let bytes = handle(bytes, &lease())?;
    let message = Message::decode(&mut Decoder::new(&bytes)).unwrap();
    assert_eq!(message.xid(), [1, 2, 3]);
    assert_eq!(message.opts().get(OptionCode::ServerId), Some(&server()));
    let held = |association: &IANA| -> Vec<(String, u32)> {
        let options = association.opts.iter();
        let addresses = options.filter_map(|option| {
            let DhcpOption::IAAddr(address) = option else {
                return None;
            };
            Some((address.addr.to_string(), address.valid_life))
        });
        let mut held: Vec<_> = addresses.collect();
        held.sort();
        held
    };
    let mut all: Vec<Held> = associations(&message)
        .map(|association| (association.id, held(association)))
        .collect();
    all.sort();
    Some((message.msg_type(), all))
}

fn ours(id: u32) -> Held {
    (id, vec![("fd01::2".to_owned(), VALID_SECS)])
}

#[test]
fn a_client_gets_what_its_port_has() {
    use MessageType::{Advertise, Rebind, Renew, Reply, Request, Solicit};
    let solicits = says(Solicit, vec![client(), association(7, &[])]);
    assert_eq!(answer(&solicits), Some((Advertise, vec![ours(7)])));
    let rapid = says(
        Solicit,
        vec![client(), association(7, &[]), DhcpOption::RapidCommit],
    );
    assert_eq!(answer(&rapid), Some((Reply, vec![ours(7)])));
    let bytes = handle(&rapid, &lease()).unwrap();
    let message = Message::decode(&mut Decoder::new(&bytes)).unwrap();
    for option in [
        client(),
        DhcpOption::RapidCommit,
        DhcpOption::DomainNameServers(vec![ip("fd01::1")]),
    ] {
        assert_eq!(message.opts().get(OptionCode::from(&option)), Some(&option));
    }
    for kind in [Request, Renew] {
        let asks = says(kind, vec![client(), server(), association(7, &["fd01::2"])]);
        assert_eq!(answer(&asks), Some((Reply, vec![ours(7)])));
    }
    // Another address it is to give up, and there is nothing for a second association.
    let asks = [client(), association(7, &["fd01::9"]), association(8, &[])];
    let mut expected = ours(7);
    expected.1.push(("fd01::9".to_owned(), 0));
    let answered = answer(&says(Rebind, asks.to_vec()));
    assert_eq!(answered, Some((Reply, vec![expected, (8, vec![])])));
    // Whoever has them keeps them.
    let asks = vec![client(), association(7, &[]), association(8, &["fd01::2"])];
    let answered = answer(&says(Rebind, asks));
    assert_eq!(answered, Some((Reply, vec![(7, vec![]), ours(8)])));
}

#[test]
fn addresses_are_confirmed_by_their_link() {
    let confirms = |held: &[&str]| {
        let bytes = says(MessageType::Confirm, vec![client(), association(7, held)]);
        let bytes = handle(&bytes, &lease())?;
        let message = Message::decode(&mut Decoder::new(&bytes)).unwrap();
        match message.opts().get(OptionCode::StatusCode) {
            Some(DhcpOption::StatusCode(code)) => Some(code.status),
            _ => None,
        }
    };
    assert_eq!(confirms(&["fd01::2"]), Some(Status::Success));
    assert_eq!(confirms(&["fd01::2", "fd02::2"]), Some(Status::NotOnLink));
    assert_eq!(confirms(&[]), None);
}

#[test]
fn who_speaks_to_another_server_or_says_nothing_of_itself_is_not_answered() {
    use MessageType::{
        Advertise, Confirm, Decline, InformationRequest, Rebind, RelayForw, Release, Renew, Reply,
        Request, Solicit,
    };
    let other = DhcpOption::ServerId(vec![1, 2, 3]);
    for kind in [Request, Renew, Release, Decline] {
        assert_eq!(answer(&says(kind, vec![client()])), None);
        assert_eq!(answer(&says(kind, vec![client(), other.clone()])), None);
        assert!(answer(&says(kind, vec![client(), server()])).is_some());
        assert_eq!(answer(&says(kind, vec![server()])), None);
    }
    for kind in [Solicit, Rebind, Confirm] {
        assert_eq!(
            answer(&says(
                kind,
                vec![client(), server(), association(1, &["fd01::2"])]
            )),
            None
        );
    }
    assert!(answer(&says(InformationRequest, vec![])).is_some());
    assert_eq!(answer(&says(InformationRequest, vec![other])), None);
    for kind in [Advertise, Reply, RelayForw] {
        assert_eq!(answer(&says(kind, vec![client(), server()])), None);
    }
    let long = DhcpOption::ClientId(vec![7; MAX_DUID + 1]);
    assert_eq!(answer(&says(Solicit, vec![long])), None);
}

#[test]
fn options_that_nobody_looks_at_are_not_read() {
    let solicits = vec![client(), association(7, &["fd01::2"])];
    let whole = says(MessageType::Solicit, solicits);
    // A status without a code, a relayed message of nothing, a name that points at itself.
    let hostile = [0, 13, 0, 0, 0, 9, 0, 1, 0, 0, 24, 0, 2, 0xc0, 0];
    let with = [&whole[..], &hostile].concat();
    assert_eq!(answer(&with), answer(&whole));
    assert!(answer(&whole).is_some());
    // None is beyond the end, and what is too short for its kind makes it no message.
    for wrong in [&[0, 14, 0, 1][..], &[0, 3, 0, 2, 0, 0], &[0, 14, 0]] {
        assert_eq!(answer(&[&whole[..], wrong].concat()), None);
    }
}

#[test]
fn nested_options_end_where_a_message_does() {
    // IA_NA in IA_NA in IA_NA...
    let mut bytes = vec![1, 1, 2, 3];
    let levels = 3000_u16;
    for level in 0..levels {
        bytes.extend([0, 3]);
        bytes.extend((12 + 16 * (levels - level - 1)).to_be_bytes());
        bytes.extend([0; 12]);
    }
    assert_eq!(handle(&bytes, &lease()), None);
    bytes.truncate(MAX_MESSAGE);
    assert_eq!(handle(&bytes, &lease()), None);
}

proptest! {
    #[test]
    fn any_options_are_survived(kind in 1_u8..14, options in proptest::collection::vec(any::<u8>(), 0..400)) {
        let bytes = [&[kind, 1, 2, 3][..], &options].concat();
        answer(&bytes);
    }
}
