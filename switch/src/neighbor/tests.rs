use weft_wire::checksum::pseudo_header_v6;

use super::*;

const ASKER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const OWNER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const HERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const HERE_6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
const THERE_6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

fn solicitation(source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let ends = NeighborEnds {
        source_mac: ASKER,
        destination_mac: MacAddr([0x33, 0x33, 0xff, 0, 0, 2]),
        source,
        destination: Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 2),
    };
    let message = NeighborMessage::solicitation(target, ASKER);
    let mut frame = message.to_frame(&ends).to_vec();
    if source.is_unspecified() {
        // Without the option: there is nothing to tell of whoever has no address.
        frame.truncate(78);
        frame[18..20].copy_from_slice(&24u16.to_be_bytes());
        frame[56..58].fill(0);
        let pseudo = pseudo_header_v6(source, ends.destination, IpProtocol::ICMP6, 24);
        let sum = pseudo.and(&frame[54..]).finish();
        frame[56..58].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

fn question(frame: &[u8]) -> Option<Question> {
    Question::of(&EthernetFrame::new(frame).unwrap())
}

fn claim(frame: &[u8]) -> Option<IpAddr> {
    claimed(&EthernetFrame::new(frame).unwrap())
}

#[test]
fn a_question_is_answered_in_the_owners_name_to_the_one_who_asked() {
    let asked = question(&ArpMessage::request(ASKER, HERE, THERE).to_frame()).unwrap();
    assert_eq!((asked.target, asked.is_probe), (THERE.into(), false));
    let answer = asked.answer(OWNER, ASKER).unwrap();
    let reply = ArpMessage::request(ASKER, HERE, THERE).answer(OWNER);
    assert_eq!(answer, reply.to_frame());

    let asked = question(&solicitation(HERE_6, THERE_6)).unwrap();
    assert_eq!((asked.target, asked.is_probe), (THERE_6.into(), false));
    let answer = asked.answer(OWNER, ASKER).unwrap();
    let ethernet = EthernetFrame::new(&answer).unwrap();
    assert_eq!((ethernet.source(), ethernet.destination()), (OWNER, ASKER));
    let packet = Ipv6::new(ethernet.payload()).unwrap();
    assert_eq!((packet.source(), packet.destination()), (THERE_6, HERE_6));
    let (kind, told) = neighbor_message(&packet).unwrap();
    let flags = AdvertisementFlags::OVERRIDE.with(AdvertisementFlags::SOLICITED);
    assert_eq!(kind, NeighborKind::Advertisement(flags));
    assert_eq!((told.target, told.target_link), (THERE_6, Some(OWNER)));
}

#[test]
fn who_wants_an_address_that_is_taken_is_told_so() {
    let probe = ArpMessage::request(ASKER, Ipv4Addr::UNSPECIFIED, THERE).to_frame();
    let asked = question(&probe).unwrap();
    assert!(asked.is_probe);
    let answer = asked.answer(OWNER, ASKER).unwrap();
    assert_eq!(Arp::new(&answer[14..]).unwrap().sender_ip(), THERE);
    assert_eq!(claim(&probe), Some(THERE.into()));

    let probe = solicitation(Ipv6Addr::UNSPECIFIED, THERE_6);
    let asked = question(&probe).unwrap();
    assert!(asked.is_probe);
    let answer = asked.answer(OWNER, ASKER).unwrap();
    let ethernet = EthernetFrame::new(&answer).unwrap();
    assert_eq!(ethernet.destination(), ALL_NODES_MAC);
    assert_eq!(claim(&probe), Some(THERE_6.into()));
}

#[test]
fn announcements_and_answers_ask_nothing_and_claim() {
    let announced = announcement(THERE.into(), OWNER);
    assert_eq!(question(&announced), None);
    assert_eq!(claim(&announced), Some(THERE.into()));
    let announced = announcement(THERE_6.into(), OWNER);
    assert_eq!(question(&announced), None);
    assert_eq!(claim(&announced), Some(THERE_6.into()));
    let ethernet = EthernetFrame::new(&announced).unwrap();
    assert_eq!(ethernet.source(), OWNER);
    assert!(ethernet.destination().is_multicast());
}

#[test]
fn what_is_short_damaged_or_was_routed_asks_nothing() {
    let whole = solicitation(HERE_6, THERE_6);
    for len in 14..whole.len() {
        assert_eq!(question(&whole[..len]), None, "{len} bytes");
    }
    for at in 54..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 4;
        assert_eq!(question(&damaged), None, "byte {at}");
    }
    let mut routed = whole;
    routed[21] = 254;
    assert_eq!(question(&routed), None);
}
