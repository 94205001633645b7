//! The vnet header against good frames, lies and attacks.

use proptest::prelude::*;

use super::*;
use crate::frame::FrameRef;
use crate::segment::{SegmentError, SegmentPlan};

/// Ethernet, IPv4 at 14, TCP at 34, `payload` bytes at 54.
fn tcp4(payload: usize) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    let total = u16::try_from(40 + payload).unwrap().to_be_bytes();
    frame.extend([0x45, 0, total[0], total[1], 0, 7, 0x40, 0, 64, 6, 0, 0]);
    frame.extend([10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([
        0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x18, 1, 0, 0, 0, 0, 0,
    ]);
    frame.extend(vec![0x5a; payload]);
    frame
}

fn with_protocol(mut frame: Vec<u8>, protocol: u8) -> Vec<u8> {
    frame[23] = protocol;
    frame
}

const CSUM: VnetHdr = VnetHdr {
    flags: 1,
    gso_type: 0,
    hdr_len: 54,
    gso_size: 0,
    csum_start: 34,
    csum_offset: 16,
};
const TSO: VnetHdr = VnetHdr {
    gso_type: 1,
    gso_size: 1448,
    ..CSUM
};

fn place(start: u16, offset: u16) -> VnetHdr {
    VnetHdr {
        csum_start: start,
        csum_offset: offset,
        ..CSUM
    }
}

#[test]
fn a_header_of_zeros_asks_for_nothing_even_of_a_runt() {
    assert_eq!(VnetHdr::default().offload(&[]), Ok(Offload::NONE));
    let known_good = VnetHdr {
        flags: 2,
        hdr_len: 9,
        ..VnetHdr::default()
    };
    assert_eq!(known_good.offload(&tcp4(3)), Ok(Offload::NONE));
}

#[test]
fn what_the_kernel_writes_is_understood_and_written_back() {
    let frame = tcp4(5000);
    let offload = TSO.offload(&frame).unwrap();
    let checksum = Some(PartialChecksum {
        start: 34,
        offset: 16,
    });
    let gso = Some(Gso {
        kind: GsoKind::Tcp4,
        size: NonZeroU16::new(1448).unwrap(),
        ecn: false,
    });
    assert_eq!(offload, Offload { checksum, gso });
    assert_eq!(VnetHdr::from_offload(&offload, &frame), TSO);
    let ecn = VnetHdr {
        gso_type: 0x81,
        ..TSO
    };
    assert_eq!(
        VnetHdr::from_offload(&ecn.offload(&frame).unwrap(), &frame),
        ecn
    );
    let only = CSUM.offload(&frame).unwrap();
    assert_eq!(
        VnetHdr::from_offload(&only, &frame),
        VnetHdr { hdr_len: 0, ..CSUM }
    );
    assert_eq!(
        VnetHdr::from_offload(&Offload::NONE, &frame),
        VnetHdr::default()
    );
}

#[test]
fn a_wrong_header_length_hint_changes_nothing() {
    let frame = tcp4(5000);
    for hdr_len in [0, 1, 65_535] {
        assert_eq!(
            VnetHdr { hdr_len, ..TSO }.offload(&frame),
            TSO.offload(&frame)
        );
    }
}

#[test]
fn what_was_not_offered_is_refused() {
    let frame = tcp4(5000);
    for gso_type in [2, 3, 6, 0x7f, 0x80, 0x83, 0x85] {
        let header = VnetHdr { gso_type, ..TSO };
        assert_eq!(
            header.offload(&frame),
            Err(VnetError::UnknownGsoType(gso_type))
        );
    }
    let zero = VnetHdr { gso_size: 0, ..TSO };
    assert_eq!(zero.offload(&frame), Err(VnetError::ZeroGsoSize));
    let bare = VnetHdr { flags: 0, ..TSO };
    assert_eq!(bare.offload(&frame), Err(VnetError::GsoWithoutChecksum));
}

#[test]
fn a_superframe_must_be_what_it_says() {
    let frame = tcp4(5000);
    for gso_type in [4, 5] {
        let header = VnetHdr { gso_type, ..TSO };
        assert_eq!(header.offload(&frame), Err(VnetError::WrongProtocol));
    }
    let mut fragment = frame.clone();
    fragment[20] = 0x20;
    assert_eq!(TSO.offload(&fragment), Err(VnetError::WrongProtocol));
    let padded = [&frame[..], &[0]].concat();
    assert_eq!(TSO.offload(&padded), Err(VnetError::WrongLength));
    let mut no_length = frame.clone();
    no_length[16..18].fill(0);
    assert!(matches!(TSO.offload(&no_length), Err(VnetError::Frame(_))));
    let mut beyond = tcp4(0);
    beyond[46] = 0xf0;
    assert!(matches!(TSO.offload(&beyond), Err(VnetError::Frame(_))));
    let elsewhere = VnetHdr {
        csum_start: 35,
        ..TSO
    };
    let (start, offset) = (35, 16);
    assert_eq!(
        elsewhere.offload(&frame),
        Err(VnetError::BadChecksumPlace { start, offset })
    );
}

#[test]
fn a_checksum_cannot_be_written_over_what_the_spoof_check_has_seen() {
    let frame = tcp4(100);
    for start in 0..34 {
        for offset in [0, 6, 16] {
            assert!(
                place(start, offset).offload(&frame).is_err(),
                "{start} {offset}"
            );
        }
    }
    for header in [place(34, 0), place(34, 15), place(35, 15), place(36, 16)] {
        assert!(header.offload(&frame).is_err(), "{header:?}");
    }
    let neighbor = with_protocol(frame.clone(), 58);
    assert!(place(34, 8).offload(&neighbor).is_err());
    assert!(place(34, 2).offload(&neighbor).is_ok());
    let mut arp = frame.clone();
    arp[13] = 6;
    assert_eq!(place(14, 14).offload(&arp), Err(VnetError::NotIp));
    let mut fragment = frame;
    fragment[21] = 1;
    assert!(CSUM.offload(&fragment).is_err());
}

#[test]
fn the_checksum_of_a_container_s_own_tunnel_may_lie_further_in() {
    let udp = with_protocol(tcp4(100), 17);
    assert!(place(34, 6).offload(&udp).is_ok());
    assert!(place(34, 8).offload(&udp).is_err());
    assert!(place(84, 16).offload(&udp).is_ok());
    assert!(place(54, 16).offload(&with_protocol(tcp4(100), 47)).is_ok());
}

#[test]
fn a_checksum_beyond_the_end_is_refused() {
    let udp = with_protocol(tcp4(100), 17);
    assert!(place(152, 0).offload(&udp).is_ok());
    for (start, offset) in [(153, 0), (154, 0), (65_535, 65_535), (84, 69)] {
        let refused = VnetError::BadChecksumPlace { start, offset };
        assert_eq!(place(start, offset).offload(&udp), Err(refused));
    }
}

#[test]
fn stacked_tags_hide_no_ip() {
    let frame = tcp4(100);
    let tags = [0x88, 0xa8, 0, 1, 0x81, 0, 0, 2, 0x81, 0, 0, 3];
    let stacked = [&frame[..12], &tags, &frame[12..]].concat();
    assert!(
        VnetHdr {
            csum_start: 46,
            ..CSUM
        }
        .offload(&stacked)
        .is_ok()
    );
    assert!(CSUM.offload(&stacked).is_err());
    assert_eq!(
        place(46, 16)
            .offload(&stacked[..22])
            .map_err(|e| matches!(e, VnetError::Frame(_))),
        Err(true)
    );
}

#[test]
fn an_offload_made_up_elsewhere_is_checked_again_before_cutting() {
    let frame = tcp4(5000);
    let offload = TSO.offload(&frame).unwrap();
    let arp = [&frame[..12], &[8, 6], &frame[14..]].concat();
    let plan = |bytes: &[u8], offload| {
        SegmentPlan::new(FrameRef {
            tail: crate::Tail::NONE,
            bytes,
            offload,
        })
        .map(|_| ())
    };
    assert_eq!(
        plan(&arp, offload),
        Err(SegmentError::Offload(VnetError::NotIp))
    );
    assert!(plan(&frame[..60], offload).is_err());
    let no_checksum = Offload {
        checksum: None,
        ..offload
    };
    let refused = SegmentError::Offload(VnetError::GsoWithoutChecksum);
    assert_eq!(plan(&frame, no_checksum), Err(refused));
    let checksum = |start, offset| {
        let checksum = Some(PartialChecksum { start, offset });
        plan(
            &frame,
            Offload {
                checksum,
                gso: None,
            },
        )
    };
    let (at, len) = (5053, 5054);
    assert_eq!(
        checksum(5053, 0),
        Err(SegmentError::ChecksumBeyondEnd { at, len })
    );
    assert_eq!(
        checksum(255, 0),
        Err(SegmentError::HeaderTooLong { len: 257 })
    );
    assert_eq!(checksum(254, 0), Ok(()));
}

#[test]
fn an_amplifying_gso_size_is_refused() {
    let frame = tcp4(8192);
    let plan = |gso_size| {
        let offload = VnetHdr { gso_size, ..TSO }.offload(&frame).unwrap();
        SegmentPlan::new(FrameRef {
            tail: crate::Tail::NONE,
            bytes: &frame,
            offload,
        })
        .map(|plan| plan.count())
    };
    assert_eq!(plan(1), Err(SegmentError::TooManySegments { count: 8192 }));
    assert_eq!(plan(2), Ok(4096));
}

proptest! {
    #[test]
    fn bytes_and_fields_are_the_same(bytes: [u8; 10]) {
        prop_assert_eq!(VnetHdr::parse(&bytes).to_bytes(), bytes);
    }
}
