//! What the outside said and the container has not acknowledged yet. Bytes lie where they were read from the host's
//! socket; segments point into them, so that a payload byte is copied by the kernel only. It grows and shrinks with
//! what is on the way.

use std::collections::VecDeque;

use super::super::pool::Pool;

/// A chunk up to this size is appended to the one before it, if that has room up to [`JOINED`]: many short reads must
/// not make many chunks.
const SHORT: usize = 8 << 10;
/// How long an appended chunk may get.
const JOINED: usize = 32 << 10;

/// Bytes as they were read.
#[derive(Debug)]
struct Chunk {
    bytes: Vec<u8>,
    len: usize,
}

/// Unacknowledged bytes in order.
#[derive(Debug, Default)]
pub(in crate::egress) struct SendBuffer {
    chunks: VecDeque<Chunk>,
    /// Bytes of the first chunk that are acknowledged.
    skip: usize,
    len: usize,
    held: usize,
}

impl SendBuffer {
    /// Bytes not acknowledged.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// Memory in use, in bytes.
    pub(super) const fn held(&self) -> usize {
        self.held
    }

    /// Takes the first `len` bytes of a pool's buffer; a long one is kept as it is, the bytes of a short one are copied
    /// and the buffer goes back.
    pub(super) fn push(&mut self, buffer: Vec<u8>, len: usize, pool: &mut Pool) {
        self.len += len;
        if len > JOINED {
            self.held += buffer.len();
            self.chunks.push_back(Chunk { bytes: buffer, len });
            return;
        }
        let bytes = buffer.get(..len).unwrap_or_default();
        match self.chunks.back_mut() {
            Some(last)
                if len <= SHORT && last.len + len <= JOINED && last.len == last.bytes.len() =>
            {
                last.bytes.extend_from_slice(bytes);
                last.len += len;
            }
            Some(_) | None => self.chunks.push_back(Chunk {
                bytes: bytes.to_vec(),
                len,
            }),
        }
        self.held += len;
        pool.put(buffer);
    }

    /// Lets the first `count` bytes go.
    pub(super) fn acknowledge(&mut self, count: usize, pool: &mut Pool) {
        let count = count.min(self.len);
        self.len -= count;
        self.skip += count;
        while self
            .chunks
            .front()
            .is_some_and(|first| first.len <= self.skip)
        {
            if let Some(first) = self.chunks.pop_front() {
                self.skip -= first.len;
                self.held -= first.bytes.len();
                pool.put(first.bytes);
            }
        }
    }

    /// Where `max` bytes from `offset` on lie, in as many pieces as `out` has room for; says how many pieces and how many
    /// bytes that are.
    pub(super) fn pieces<'a>(
        &'a self,
        offset: usize,
        max: usize,
        out: &mut [&'a [u8]],
    ) -> (usize, usize) {
        let (mut skip, mut left) = (offset + self.skip, max);
        let mut count = 0;
        for chunk in &self.chunks {
            if skip >= chunk.len {
                skip -= chunk.len;
                continue;
            }
            let Some(place) = out.get_mut(count).filter(|_| left > 0) else {
                break;
            };
            let end = chunk.len.min(skip + left);
            *place = chunk.bytes.get(skip..end).unwrap_or_default();
            left -= place.len();
            count += 1;
            skip = 0;
        }
        (count, max - left)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(buffer: &SendBuffer, offset: usize, max: usize) -> Vec<u8> {
        let mut pieces = [&[][..]; 64];
        let (count, _) = buffer.pieces(offset, max, &mut pieces);
        pieces[..count].concat()
    }

    #[test]
    fn short_reads_make_no_chunk_each() {
        let mut pool = Pool::default();
        let mut buffer = SendBuffer::default();
        for i in 0..200u8 {
            let mut read = pool.take();
            read[0] = i;
            buffer.push(read, 1, &mut pool);
        }
        assert_eq!((buffer.chunks.len(), buffer.held()), (1, 200));
        buffer.acknowledge(50, &mut pool);
        assert_eq!(all(&buffer, 1, 3), [51, 52, 53]);
        buffer.acknowledge(1000, &mut pool);
        assert_eq!(
            (buffer.len(), buffer.held(), buffer.chunks.len()),
            (0, 0, 0)
        );
    }

    proptest! {
        #[test]
        fn it_is_a_window_on_what_was_pushed(steps in proptest::collection::vec((1usize..60_000, 0usize..70_000), 1..12)) {
            let mut pool = Pool::default();
            let (mut buffer, mut model) = (SendBuffer::default(), Vec::new());
            for (i, (len, acknowledged)) in steps.into_iter().enumerate() {
                let mut read = pool.take();
                for (at, byte) in read[..len].iter_mut().enumerate() {
                    *byte = u8::try_from((at * 31 + i) % 251).unwrap();
                }
                model.extend_from_slice(&read[..len]);
                buffer.push(read, len, &mut pool);
                model.drain(..acknowledged.min(model.len()));
                buffer.acknowledge(acknowledged, &mut pool);
                prop_assert_eq!(buffer.len(), model.len());
                let from = model.len() / 3;
                prop_assert_eq!(&all(&buffer, from, model.len())[..], &model[from..]);
                prop_assert!(buffer.held() >= buffer.len());
            }
            buffer.acknowledge(buffer.len(), &mut pool);
            prop_assert_eq!((buffer.len(), buffer.held()), (0, 0));
        }
    }
}
