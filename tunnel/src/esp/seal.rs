//! One direction of a session: payload to ESP packet and back, in place, by any number of workers at once.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::demux::Spi;
use super::keys::{KeyMaterial, SALT_LEN};
use super::replay::{ReplayWindow, Replayed};

/// SPI and sequence number, before the payload.
pub const ESP_HEADER_LEN: usize = 8;
/// Pad length and next header.
const TRAILER_LEN: usize = 2;
/// The integrity check value of AES-GCM (RFC 4106 section 6).
const ICV_LEN: usize = 16;
/// The trailer ends on a multiple of this (RFC 4303 section 2.4).
const ALIGNMENT: usize = 4;
/// GRE, from IANA's protocol numbers.
const NEXT_HEADER_GRE: u8 = 47;
/// Numbers never wrap under one key (RFC 4303 section 3.3.3), or a nonce would come again.
const SEQUENCE_END: u64 = 1 << 32;

/// Bytes of the ESP packet around `payload` bytes. Packets of equal payloads are equal: a train stays a train.
pub const fn sealed_len(payload: usize) -> usize {
    ESP_HEADER_LEN + (payload + TRAILER_LEN).next_multiple_of(ALIGNMENT) + ICV_LEN
}

/// The longest payload that an ESP packet of at most `packet` bytes has room for.
pub const fn payload_max(packet: usize) -> usize {
    let inside = packet.saturating_sub(ESP_HEADER_LEN + ICV_LEN);
    (inside - inside % ALIGNMENT).saturating_sub(TRAILER_LEN)
}

/// The key has no sequence numbers left for that many packets: the session must have rekeyed long before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the key's sequence numbers are used up")]
pub struct Exhausted;

/// A buffer that doesn't fit its payload, or a cipher that refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The buffer isn't [`sealed_len`] of the payload.
    #[error("an ESP packet needs a buffer of {needed} bytes, not {present}")]
    WrongBuffer {
        /// Bytes needed.
        needed: usize,
        /// Bytes there are.
        present: usize,
    },
    /// The cipher refused.
    #[error("the cipher refused")]
    Cipher,
}

/// Why a packet was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Shorter than any ESP packet, or not a multiple of four.
    #[error("no ESP packet has {present} bytes")]
    BadLength {
        /// Bytes there are.
        present: usize,
    },
    /// For another key.
    #[error("the SPI is another key's")]
    WrongSpi,
    /// See [`Replayed`].
    #[error(transparent)]
    Replayed(#[from] Replayed),
    /// Not sealed with this key, or changed on the way.
    #[error("the packet is not authentic")]
    Forged,
    /// Authentic, but the padding is not what RFC 4303 section 2.4 demands.
    #[error("the padding is wrong")]
    BadPadding,
    /// Authentic, but no GRE inside.
    #[error("next header {0} is not GRE")]
    NextHeader(u8),
}

/// The right to seal one packet under one key: made once per number, used up by [`SealingKey::seal`].
#[derive(Debug, PartialEq, Eq)]
pub struct Sequence(u32);

/// Numbers for a train, in order.
#[derive(Debug)]
pub struct Sequences(Range<u64>);

impl Iterator for Sequences {
    type Item = Sequence;

    fn next(&mut self) -> Option<Sequence> {
        let number = self.0.next()?;
        u32::try_from(number).ok().map(Sequence)
    }
}

struct Cipher {
    key: LessSafeKey,
    salt: [u8; SALT_LEN],
}

impl Cipher {
    fn new(material: &KeyMaterial) -> Self {
        let key =
            UnboundKey::new(&AES_128_GCM, &material.key).expect("the key has the cipher's length");
        Self {
            key: LessSafeKey::new(key),
            salt: material.salt,
        }
    }

    /// RFC 8750 section 4: salt, four zero bytes, the sequence number.
    fn nonce(&self, sequence: u32) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..SALT_LEN].copy_from_slice(&self.salt);
        nonce[8..].copy_from_slice(&sequence.to_be_bytes());
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Seals what goes to one peer.
pub struct SealingKey {
    cipher: Cipher,
    spi: Spi,
    next: AtomicU64,
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealingKey")
            .field("spi", &self.spi)
            .finish_non_exhaustive()
    }
}

impl SealingKey {
    /// The key under which the receiver knows `spi`. The material must serve no other key.
    pub fn new(spi: Spi, material: &KeyMaterial) -> Self {
        Self {
            cipher: Cipher::new(material),
            spi,
            // RFC 4303 section 3.3.3: the first packet has number 1.
            next: AtomicU64::new(1),
        }
    }

    /// Packets for which numbers were taken: what tells when to rekey.
    pub fn packets(&self) -> u64 {
        self.next.load(Ordering::Relaxed).min(SEQUENCE_END) - 1
    }

    /// Numbers for a train of `count` packets, all or none.
    ///
    /// # Errors
    /// [`Exhausted`] when fewer are left; then no packet leaves, however often this is asked.
    #[inline]
    pub fn reserve(&self, count: u32) -> Result<Sequences, Exhausted> {
        let more = |next: u64| {
            let end = next + u64::from(count);
            (end <= SEQUENCE_END).then_some(end)
        };
        match self
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
        {
            Ok(first) => Ok(Sequences(first..first + u64::from(count))),
            Err(_) => Err(Exhausted),
        }
    }

    /// Makes `packet`, which holds `payload` bytes behind [`ESP_HEADER_LEN`], an ESP packet. The sequence must be one
    /// that this key gave out.
    ///
    /// # Errors
    /// [`SealError`]; then `packet` must not be sent: it can still hold the payload in clear.
    #[inline]
    pub fn seal(
        &self,
        sequence: Sequence,
        packet: &mut [u8],
        payload: usize,
    ) -> Result<(), SealError> {
        let needed = sealed_len(payload);
        let present = packet.len();
        if present != needed {
            return Err(SealError::WrongBuffer { needed, present });
        }
        let (header, rest) = packet.split_at_mut(ESP_HEADER_LEN);
        header[..4].copy_from_slice(&self.spi.value().to_be_bytes());
        header[4..].copy_from_slice(&sequence.0.to_be_bytes());
        let (inside, icv) = rest.split_at_mut(needed - ESP_HEADER_LEN - ICV_LEN);
        // RFC 4303 section 2.4: padding is 1, 2, 3.
        let mut pad_length = 0;
        for byte in &mut inside[payload..needed - ESP_HEADER_LEN - ICV_LEN - TRAILER_LEN] {
            pad_length += 1;
            *byte = pad_length;
        }
        if let Some(trailer) = inside.last_chunk_mut::<TRAILER_LEN>() {
            *trailer = [pad_length, NEXT_HEADER_GRE];
        }
        let nonce = self.cipher.nonce(sequence.0);
        let tag = self
            .cipher
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(&*header), inside)
            .map_err(|_| SealError::Cipher)?;
        icv.copy_from_slice(tag.as_ref());
        Ok(())
    }
}

/// Opens what comes from one peer.
pub struct OpeningKey {
    cipher: Cipher,
    spi: Spi,
    window: ReplayWindow,
}

impl fmt::Debug for OpeningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpeningKey")
            .field("spi", &self.spi)
            .finish_non_exhaustive()
    }
}

impl OpeningKey {
    /// Which datagrams it opens.
    #[inline]
    pub const fn spi(&self) -> Spi {
        self.spi
    }

    /// The key behind our own `spi`.
    pub fn new(spi: Spi, material: &KeyMaterial) -> Self {
        Self {
            cipher: Cipher::new(material),
            spi,
            window: ReplayWindow::default(),
        }
    }

    /// The payload of a packet, opened in place. Only an authentic packet moves the window.
    ///
    /// # Errors
    /// [`OpenError`], one variant per cause; the bytes of `packet` are then of no use.
    #[inline]
    pub fn open<'a>(&self, packet: &'a mut [u8]) -> Result<&'a mut [u8], OpenError> {
        let present = packet.len();
        if present < sealed_len(0) || !present.is_multiple_of(ALIGNMENT) {
            return Err(OpenError::BadLength { present });
        }
        let Some((header, rest)) = packet.split_first_chunk_mut::<ESP_HEADER_LEN>() else {
            return Err(OpenError::BadLength { present });
        };
        let [s0, s1, s2, s3, number @ ..] = *header;
        if u32::from_be_bytes([s0, s1, s2, s3]) != self.spi.value() {
            return Err(OpenError::WrongSpi);
        }
        let sequence = u32::from_be_bytes(number);
        self.window.check(sequence)?;
        let nonce = self.cipher.nonce(sequence);
        let inside = self
            .cipher
            .key
            .open_in_place(nonce, Aad::from(*header), rest)
            .map_err(|_| OpenError::Forged)?;
        self.window.accept(sequence)?;
        strip(inside)
    }
}

/// Takes the trailer off.
fn strip(inside: &mut [u8]) -> Result<&mut [u8], OpenError> {
    let Some((rest, &mut [pad_length, next_header])) = inside.split_last_chunk_mut::<TRAILER_LEN>()
    else {
        return Err(OpenError::BadPadding);
    };
    if next_header != NEXT_HEADER_GRE {
        return Err(OpenError::NextHeader(next_header));
    }
    let Some(payload) = rest.len().checked_sub(usize::from(pad_length)) else {
        return Err(OpenError::BadPadding);
    };
    let (payload, padding) = rest.split_at_mut(payload);
    if (1..=pad_length).ne(padding.iter().copied()) {
        return Err(OpenError::BadPadding);
    }
    Ok(payload)
}

#[cfg(test)]
mod tests;
