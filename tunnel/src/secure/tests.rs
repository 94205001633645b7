use weft_wire::FrameRef;

use super::*;
use crate::esp::{KeyMaterial, Sender, export_keys};

fn material() -> KeyMaterial {
    let filled = export_keys(Sender::Initiator, 0, |out, _, _| {
        out.fill(7);
        Ok::<_, ()>(())
    });
    filled.unwrap()
}

fn peer() -> SecurePeer {
    SecurePeer::new(&SecureSpec {
        node: "b".to_owned(),
        port: 4788,
        keep: false,
    })
}

fn spi(number: u32) -> Spi {
    Spi::new(number).unwrap()
}

fn key() -> Arc<SealingKey> {
    Arc::new(SealingKey::new(Spi::new(256).unwrap(), &material()))
}

#[test]
fn frames_wait_in_order_and_leave_before_any_later_one() {
    let (sessions, peer) = (Sessions::default(), peer());
    let vni = Vni::new(5).unwrap();
    for byte in 0..3 {
        let laid = sessions.lay_by(&peer, vni, FrameRef::plain(&[byte; 60]));
        assert!(matches!(laid, Laid::By));
    }
    assert!(peer.take_want() && !peer.take_want());
    let mut sent = Vec::new();
    let to = "10.0.0.2:4788".parse().unwrap();
    peer.publish(key(), (spi(256), to), |sealing, held| {
        assert_eq!((sealing.remote, held.vni), (to, vni));
        sent.push(held.frame().bytes[0]);
    });
    assert_eq!(sent, [0, 1, 2]);
    let laid = sessions.lay_by(&peer, vni, FrameRef::plain(&[9; 60]));
    assert!(matches!(laid, Laid::Ready(_)));
    assert!(!peer.has_waiting());
}

#[test]
fn who_waits_is_bounded_in_number_bytes_and_time() {
    let (sessions, peer) = (Sessions::default(), peer());
    let vni = Vni::new(5).unwrap();
    let laid = |len: usize| sessions.lay_by(&peer, vni, FrameRef::plain(&vec![0; len]));
    let taken = (0..100).filter(|_| matches!(laid(60), Laid::By)).count();
    assert_eq!(taken, WAITING_FRAMES);
    assert_eq!(peer.expire(Instant::now()), 0);
    assert_eq!(peer.expire(Instant::now() + WAITING_FOR), WAITING_FRAMES);
    let taken = (0..100)
        .filter(|_| matches!(laid(60_000), Laid::By))
        .count();
    assert_eq!(taken, WAITING_BYTES / 60_000);
}

#[test]
fn datagrams_follow_the_peer_to_its_new_address_by_the_session_in_use_only() {
    let peer = Arc::new(peer());
    let [first, then, elsewhere]: [SocketAddr; 3] =
        ["10.0.0.2:4788", "10.7.0.2:1024", "192.0.2.9:9"].map(|text| text.parse().unwrap());
    let opening = |number| {
        let key = OpeningKey::new(spi(number), &material());
        Opening::new(key, PeerId(1), Arc::clone(&peer))
    };
    let (old, new) = (opening(256), opening(257));
    let remote = || peer.sealing().as_ref().map(|sealing| sealing.remote);
    // Without a session there is nothing to send.
    old.came_from(then);
    assert_eq!(remote(), None);
    peer.publish(key(), (spi(256), first), |_, _| {});
    old.came_from(first);
    assert_eq!(remote(), Some(first));
    old.came_from(then);
    assert_eq!(remote(), Some(then));
    // Another session takes its place: what somebody held back under the old key comes from elsewhere.
    peer.publish(key(), (spi(257), then), |_, _| {});
    old.came_from(elsewhere);
    assert_eq!(remote(), Some(then));
    // Were it the new one's, the next genuine datagram would undo it.
    new.came_from(elsewhere);
    new.came_from(then);
    assert_eq!(remote(), Some(then));
}

#[test]
fn every_key_has_an_spi_of_its_own_until_it_is_closed() {
    let sessions = Sessions::default();
    let mut opener = sessions.opener();
    let secure = Arc::new(peer());
    let open = || {
        sessions.open_with(|spi| {
            let key = OpeningKey::new(spi, &material());
            Opening::new(key, PeerId(1), Arc::clone(&secure))
        })
    };
    let spis: Vec<Spi> = (0..50).map(|_| open()).collect();
    assert_eq!(opener.openings().len(), 50);
    for spi in &spis[1..] {
        sessions.close(*spi);
    }
    assert_eq!(opener.openings().keys().collect::<Vec<_>>(), [&spis[0]]);
}
