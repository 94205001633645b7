//! Buffers to read superframes into, used again and again.

/// Bytes of a buffer: no payload of a superframe is longer.
pub(super) const BUFFER_LEN: usize = 64 << 10;
/// Buffers kept for later: what a few fast flows have on the way.
const KEPT: usize = 64;

/// Buffers of [`BUFFER_LEN`] bytes.
#[derive(Debug, Default)]
pub(super) struct Pool {
    free: Vec<Vec<u8>>,
}

impl Pool {
    /// A buffer with whatever was in it.
    pub(super) fn take(&mut self) -> Vec<u8> {
        self.free.pop().unwrap_or_else(|| vec![0; BUFFER_LEN])
    }

    /// Gives a buffer back; one of another size is let go.
    pub(super) fn put(&mut self, buffer: Vec<u8>) {
        if buffer.len() == BUFFER_LEN && self.free.len() < KEPT {
            self.free.push(buffer);
        }
    }
}
