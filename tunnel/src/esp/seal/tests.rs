use proptest::prelude::*;

use super::*;

fn material(byte: u8) -> KeyMaterial {
    KeyMaterial {
        key: [byte; 16],
        salt: [byte; SALT_LEN],
    }
}

fn pair(byte: u8) -> (SealingKey, OpeningKey) {
    let spi = Spi::new(0x1234).unwrap();
    (
        SealingKey::new(spi, &material(byte)),
        OpeningKey::new(spi, &material(byte)),
    )
}

fn sealed(key: &SealingKey, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; sealed_len(payload.len())];
    packet[ESP_HEADER_LEN..][..payload.len()].copy_from_slice(payload);
    let sequence = key.reserve(1).unwrap().next().unwrap();
    key.seal(sequence, &mut packet, payload.len()).unwrap();
    packet
}

/// Another implementation's view of RFC 8750 and RFC 4303: nonce, AAD and layout are put together by hand.
#[test]
fn the_packet_is_what_the_rfcs_say() {
    let (key, _) = pair(9);
    let packet = sealed(&key, b"hello");
    assert_eq!(packet[..8], [0, 0, 0x12, 0x34, 0, 0, 0, 1]);
    let cipher = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &[9; 16]).unwrap());
    let nonce = Nonce::assume_unique_for_key([9, 9, 9, 9, 0, 0, 0, 0, 0, 0, 0, 1]);
    let mut body = packet[8..].to_vec();
    let inside = cipher
        .open_in_place(nonce, Aad::from(&packet[..8]), &mut body)
        .unwrap();
    assert_eq!(inside, b"hello\x01\x01\x2f");
}

#[test]
fn a_packet_is_opened_once() {
    let (seal, open) = pair(1);
    let packet = sealed(&seal, b"frame");
    assert_eq!(open.open(&mut packet.clone()).unwrap(), b"frame");
    let mut replayed = packet.clone();
    let again = open.open(&mut replayed);
    assert_eq!(again, Err(OpenError::Replayed(Replayed::Duplicate)));
}

#[test]
fn a_forged_number_far_ahead_does_not_move_the_window() {
    let (seal, open) = pair(1);
    let mut forged = sealed(&seal, b"frame");
    forged[4] = 0xf0;
    assert_eq!(open.open(&mut forged), Err(OpenError::Forged));
    assert_eq!(open.open(&mut sealed(&seal, b"next")).unwrap(), b"next");
}

#[test]
fn another_session_s_packet_is_refused() {
    let (seal, _) = pair(1);
    let (_, open) = pair(2);
    assert_eq!(
        open.open(&mut sealed(&seal, b"frame")),
        Err(OpenError::Forged)
    );
    let other = OpeningKey::new(Spi::new(0x1235).unwrap(), &material(1));
    assert_eq!(
        other.open(&mut sealed(&seal, b"frame")),
        Err(OpenError::WrongSpi)
    );
}

#[test]
fn a_key_gives_out_its_last_number_and_then_none() {
    let (key, open) = pair(1);
    key.next.store(SEQUENCE_END - 2, Ordering::Relaxed);
    assert_eq!(key.reserve(3).unwrap_err(), Exhausted);
    assert_eq!(key.reserve(2).unwrap().count(), 2);
    assert_eq!(key.reserve(1).unwrap_err(), Exhausted);
    assert_eq!(key.packets(), u64::from(u32::MAX));
    key.next.store(SEQUENCE_END - 1, Ordering::Relaxed);
    assert_eq!(open.open(&mut sealed(&key, b"last")).unwrap(), b"last");
}

#[test]
fn workers_never_get_the_same_number() {
    let (key, _) = pair(1);
    let mut numbers: Vec<u32> = std::thread::scope(|scope| {
        let worker = || {
            (0..500)
                .flat_map(|_| key.reserve(7).unwrap())
                .map(|s| s.0)
                .collect::<Vec<_>>()
        };
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .flat_map(|w| w.join().unwrap())
            .collect()
    });
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=14_000).collect::<Vec<u32>>());
}

#[test]
fn a_wrong_buffer_is_refused_before_anything_is_written() {
    let (key, _) = pair(1);
    let mut packet = [0xaa; 64];
    let sequence = key.reserve(1).unwrap().next().unwrap();
    let refused = key.seal(sequence, &mut packet, 5);
    assert_eq!(
        refused,
        Err(SealError::WrongBuffer {
            needed: 32,
            present: 64
        })
    );
    assert_eq!(packet, [0xaa; 64]);
}

/// Authentic packets of a peer that keeps to another reading of the RFC.
#[test]
fn wrong_trailers_are_refused_by_name() {
    let bad = |inside: &[u8]| strip(&mut inside.to_vec()).map(|payload| payload.to_vec());
    assert_eq!(bad(&[7, 7, 0, 47]), Ok(vec![7, 7]));
    assert_eq!(bad(&[7, 1, 1, 47]), Ok(vec![7]));
    assert_eq!(bad(&[7, 9, 1, 47]), Err(OpenError::BadPadding));
    assert_eq!(bad(&[7, 7, 3, 47]), Err(OpenError::BadPadding));
    assert_eq!(bad(&[7, 7, 0, 59]), Err(OpenError::NextHeader(59)));
    assert_eq!(bad(&[47]), Err(OpenError::BadPadding));
}

proptest! {
    #[test]
    fn what_is_sealed_is_opened(payload in proptest::collection::vec(any::<u8>(), 0..3_000)) {
        let (seal, open) = pair(3);
        let mut packet = sealed(&seal, &payload);
        prop_assert_eq!(packet.len(), sealed_len(payload.len()));
        prop_assert_eq!(open.open(&mut packet).unwrap(), payload);
    }

    #[test]
    fn any_changed_bit_is_noticed(payload in proptest::collection::vec(any::<u8>(), 0..200), at: prop::sample::Index, bit in 0..8_u8) {
        let (seal, open) = pair(3);
        let mut packet = sealed(&seal, &payload);
        let at = at.index(packet.len());
        packet[at] ^= 1 << bit;
        prop_assert!(open.open(&mut packet).is_err());
    }

    #[test]
    fn bytes_of_strangers_are_refused(mut packet in proptest::collection::vec(any::<u8>(), 0..200)) {
        let (_, open) = pair(3);
        prop_assert!(open.open(&mut packet).is_err());
        if let Some(spi) = packet.first_chunk_mut::<4>() {
            *spi = 0x1234_u32.to_be_bytes();
        }
        prop_assert!(open.open(&mut packet).is_err());
    }
}
