use proptest::prelude::*;

use super::*;

/// Takes `room` bytes.
#[derive(Debug, Default)]
struct Sink {
    taken: Vec<u8>,
    room: usize,
}

impl Outside for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(self.room);
        self.room -= count;
        self.taken.extend_from_slice(&bytes[..count]);
        Ok(count)
    }
}

fn open(initial: u32) -> ReceiveBuffer {
    let mut buffer = ReceiveBuffer::after(initial);
    buffer.offered(buffer.window());
    buffer
}

#[test]
fn a_gap_is_told_and_closed() {
    let mut sink = Sink {
        room: 100,
        ..Sink::default()
    };
    let mut buffer = open(u32::MAX - 2);
    buffer.handle_data(5, b"hij", 1000, &mut sink).unwrap();
    buffer.handle_data(8, b"kl", 1000, &mut sink).unwrap();
    assert_eq!(buffer.early().collect::<Vec<_>>(), [(5, 10)]);
    assert_eq!(buffer.held(), 5);
    buffer
        .handle_data(u32::MAX - 1, b"abcdefg", 1000, &mut sink)
        .unwrap();
    assert_eq!(
        (sink.taken.as_slice(), buffer.next()),
        (&b"abcdefghijkl"[..], 10)
    );
    assert_eq!((buffer.held(), buffer.early().count()), (0, 0));
}

#[test]
fn what_the_outside_cannot_take_waits_and_narrows_the_window() {
    let mut sink = Sink {
        room: 2,
        ..Sink::default()
    };
    let mut buffer = open(0);
    buffer
        .handle_data(1, b"abcd", MAX_WINDOW, &mut sink)
        .unwrap();
    assert_eq!((buffer.next(), buffer.waiting()), (5, 2));
    assert_eq!(buffer.window(), MAX_WINDOW - 2);
    sink.room = 9;
    buffer.flush(&mut sink).unwrap();
    assert_eq!((sink.taken.as_slice(), buffer.waiting()), (&b"abcd"[..], 0));
    assert_eq!(buffer.window(), MAX_WINDOW);
}

#[test]
fn what_finds_no_room_is_not_acknowledged() {
    let mut sink = Sink::default();
    let mut buffer = open(0);
    buffer.handle_data(1, b"abcd", 3, &mut sink).unwrap();
    assert_eq!((buffer.next(), buffer.waiting()), (4, 3));
    buffer.handle_data(9, b"early", 3, &mut sink).unwrap();
    assert_eq!(buffer.early().count(), 0);
}

#[test]
fn single_bytes_with_gaps_are_bounded() {
    let mut sink = Sink::default();
    let mut buffer = open(0);
    for i in 0..5000 {
        buffer
            .handle_data(3 + 2 * i, b"x", 1 << 20, &mut sink)
            .unwrap();
    }
    assert_eq!(buffer.early().count(), MAX_EARLY);
}

#[test]
fn a_fin_counts_when_everything_before_it_is_here() {
    let mut sink = Sink {
        room: 100,
        ..Sink::default()
    };
    let mut buffer = open(0);
    assert!(!buffer.handle_fin(3));
    assert!(!buffer.finished());
    buffer.handle_data(1, b"ab", 100, &mut sink).unwrap();
    assert!(buffer.late_fin() && buffer.finished());
    assert_eq!(buffer.next(), 4);
    assert!(!buffer.late_fin());
}

#[test]
fn beyond_the_window_nothing_is_taken() {
    let mut sink = Sink {
        room: usize::MAX,
        ..Sink::default()
    };
    let mut buffer = open(0);
    assert!(!buffer.accepts(2 + length(MAX_WINDOW), 1));
    assert!(buffer.accepts(1, 0) && !buffer.accepts(0, 0));
    let long = vec![7; MAX_WINDOW + 10];
    buffer.handle_data(1, &long, 1 << 20, &mut sink).unwrap();
    assert_eq!(sink.taken.len(), MAX_WINDOW);
}

proptest! {
    /// Segments in any order, any overlap, again and again: the outside sees the stream.
    #[test]
    fn the_stream_comes_out_in_order(
        initial: u32,
        segments in proptest::collection::vec((0usize..400, 1usize..90), 1..120),
        rooms in proptest::collection::vec(0usize..40, 1..20),
    ) {
        let stream: Vec<u8> = (0..500usize).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect();
        let mut sink = Sink::default();
        let mut buffer = open(initial);
        let start = initial.wrapping_add(1);
        for (i, (from, len)) in segments.into_iter().enumerate() {
            sink.room = rooms[i % rooms.len()];
            let bytes = &stream[from..(from + len).min(500)];
            buffer.handle_data(start.wrapping_add(length(from)), bytes, 1000, &mut sink).unwrap();
            buffer.flush(&mut sink).unwrap();
            let next = usize::try_from(ahead(start, buffer.next())).unwrap();
            prop_assert_eq!(next, sink.taken.len() + buffer.waiting());
            prop_assert_eq!(&sink.taken[..], &stream[..sink.taken.len()]);
        }
        sink.room = 1000;
        buffer.flush(&mut sink).unwrap();
        buffer.handle_data(start, &stream, 1000, &mut sink).unwrap();
        prop_assert_eq!(sink.taken, stream);
        prop_assert_eq!(buffer.held(), 0);
    }
}
