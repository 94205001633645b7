use std::num::NonZeroU64;

use super::super::Rate;
use super::*;

const MS: Duration = Duration::from_millis(1);
const FRAME: [u8; 1000] = [0x5a; 1000];

fn line(impairment: Impairment) -> Line {
    Line::new(impairment, 7)
}

fn numbered(number: u32) -> Vec<u8> {
    let mut frame = number.to_be_bytes().to_vec();
    frame.resize(1000, 0);
    frame
}

fn number_of(frame: &OwnedFrame) -> u32 {
    u32::from_be_bytes(*frame.as_ref().bytes.first_chunk().unwrap())
}

/// Sends so many frames, one every millisecond, and says which arrive when.
fn run(line: &mut Line, frames: u32) -> Vec<(Duration, u32)> {
    let mut arrived = Vec::new();
    for number in 0..frames {
        let now = MS * number;
        while let Some(due) = line.next_due().filter(|due| *due <= now) {
            arrived.push((due, number_of(&line.pop(due).unwrap())));
        }
        line.push(now, FrameRef::plain(&numbered(number)));
    }
    while let Some(due) = line.next_due() {
        arrived.push((due, number_of(&line.pop(due).unwrap())));
    }
    arrived
}

#[test]
fn a_line_without_impairment_passes_everything_at_once() {
    let mut line = line(Impairment::default());
    line.push(MS, FrameRef::plain(&FRAME));
    assert_eq!(line.pop(MS).unwrap().as_ref().bytes, FRAME);
    assert_eq!(line.next_due(), None);
}

#[test]
fn a_frame_takes_its_delay_and_is_not_had_before() {
    let mut line = line(Impairment {
        delay: 20 * MS,
        ..Impairment::default()
    });
    line.push(5 * MS, FrameRef::plain(&FRAME));
    assert_eq!(line.next_due(), Some(25 * MS));
    assert_eq!(line.pop(24 * MS), None);
    assert!(line.pop(25 * MS).is_some());
}

#[test]
fn jitter_stays_in_its_bounds_and_keeps_the_order() {
    let mut line = line(Impairment {
        delay: 20 * MS,
        jitter: 3 * MS,
        ..Impairment::default()
    });
    let arrived = run(&mut line, 2000);
    let numbers: Vec<u32> = arrived.iter().map(|(_, number)| *number).collect();
    assert_eq!(numbers, (0..2000).collect::<Vec<_>>());
    let took = arrived.iter().map(|(at, number)| *at - MS * *number);
    assert!(took.clone().all(|took| (17 * MS..=23 * MS).contains(&took)));
    let distinct: std::collections::BTreeSet<Duration> = took.collect();
    assert!(distinct.len() > 500, "{}", distinct.len());
}

#[test]
fn chances_are_what_was_asked_for_and_the_same_for_a_seed() {
    let impairment = Impairment {
        delay: 20 * MS,
        loss: 0.1,
        duplicate: 0.05,
        reorder: 0.02,
        ..Impairment::default()
    };
    let fate = |seed| {
        let mut line = Line::new(impairment, seed);
        let arrived = run(&mut line, 10_000);
        (arrived, line.stats())
    };
    let (arrived, stats) = fate(1);
    assert_eq!(fate(1), (arrived.clone(), stats));
    assert_ne!(fate(2).0, arrived);
    assert_eq!(stats.frames, 10_000);
    assert!((850..1150).contains(&stats.lost), "{stats:?}");
    assert!((350..550).contains(&stats.duplicated), "{stats:?}");
    assert!((120..280).contains(&stats.reordered), "{stats:?}");
    let left = stats.frames - stats.lost + stats.duplicated;
    assert_eq!(arrived.len() as u64, left);
    let overtaken = arrived.windows(2).filter(|two| two[0].1 > two[1].1).count();
    assert!(overtaken > 100, "{overtaken}");
}

#[test]
fn nothing_but_loss_loses_everything() {
    let mut line = line(Impairment {
        loss: 1.0,
        ..Impairment::default()
    });
    assert!(run(&mut line, 100).is_empty());
    assert_eq!(line.stats().lost, 100);
}

#[test]
fn a_bucket_lets_a_burst_go_and_then_its_rate() {
    // 1000 bytes are a millisecond.
    let rate = Rate {
        bits: NonZeroU64::new(8_000_000).unwrap(),
        burst: 3000,
    };
    let mut line = line(Impairment {
        rate: Some(rate),
        ..Impairment::default()
    });
    for number in 0..8 {
        line.push(100 * MS, FrameRef::plain(&numbered(number)));
    }
    let mut at = Vec::new();
    while let Some(due) = line.next_due() {
        at.push((due - 100 * MS).as_millis());
        line.pop(due);
    }
    assert_eq!(at, [0, 0, 0, 1, 2, 3, 4, 5]);
    // After a pause it is full again, and no fuller.
    for _ in 0..5 {
        line.push(500 * MS, FrameRef::plain(&FRAME));
    }
    let due: Vec<_> = std::iter::from_fn(|| line.pop(500 * MS)).collect();
    assert_eq!(due.len(), 3);
}

#[test]
fn a_superframe_longer_than_the_bucket_waits_until_that_is_full() {
    let rate = Rate {
        bits: NonZeroU64::new(8_000_000).unwrap(),
        burst: 100,
    };
    let mut line = line(Impairment {
        rate: Some(rate),
        ..Impairment::default()
    });
    for number in 0..3 {
        line.push(MS, FrameRef::plain(&numbered(number)));
    }
    let mut at = Vec::new();
    while let Some(due) = line.next_due() {
        at.push(due.as_millis());
        line.pop(due);
    }
    assert_eq!(at, [1, 2, 3]);
}

#[test]
fn a_full_line_drops_and_has_room_again() {
    let mut line = line(Impairment {
        delay: 10 * MS,
        limit: 2500,
        ..Impairment::default()
    });
    for _ in 0..5 {
        line.push(MS, FrameRef::plain(&FRAME));
    }
    assert_eq!(line.stats().overflowed, 3);
    while line.pop(11 * MS).is_some() {}
    line.push(20 * MS, FrameRef::plain(&FRAME));
    assert_eq!(line.stats().overflowed, 3);
    let mut narrow = Line::new(
        Impairment {
            limit: 10,
            ..Impairment::default()
        },
        0,
    );
    narrow.push(MS, FrameRef::plain(&FRAME));
    assert!(narrow.pop(MS).is_some(), "one frame has always room");
}
