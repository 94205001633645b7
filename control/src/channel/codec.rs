//! Messages as bytes: four bytes of length, most significant first, then CBOR with named fields.
//!
//! Decoding is total: whatever the bytes, it ends in a message or a [`DecodeError`]; lengths are checked before memory
//! is taken, nesting is limited by the CBOR reader.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::messages::Request;

/// The longest message: a full report of some ten thousand endpoints.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// The longest message of somebody who hasn't proved anything yet.
pub const MAX_STRANGER_BYTES: usize = 16 << 10;
/// How deep a message may be nested; ours need less than ten levels.
const MAX_DEPTH: usize = 32;

/// Why bytes are no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It is of a kind that this build doesn't know.
    #[error("unknown kind of message {0:?}")]
    UnknownKind(String),
    /// It is no CBOR, or a field is missing or of another type.
    #[error("malformed message: {0}")]
    Malformed(String),
    /// Its length is above the limit.
    #[error("message of {length} bytes, at most {limit} are taken")]
    TooLong {
        /// As announced.
        length: usize,
        /// What is taken.
        limit: usize,
    },
    /// It ends early.
    #[error("message cut off after {have} of {length} bytes")]
    CutOff {
        /// What is there.
        have: usize,
        /// As announced.
        length: usize,
    },
}

/// Encodes a message, with its length in front.
///
/// # Errors
/// [`DecodeError::TooLong`]: the receiver wouldn't take it.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, DecodeError> {
    let mut bytes = vec![0; 4];
    ciborium::into_writer(message, &mut bytes).expect("a Vec takes every write");
    let length = bytes.len() - 4;
    if length > MAX_MESSAGE_BYTES {
        return Err(DecodeError::TooLong {
            length,
            limit: MAX_MESSAGE_BYTES,
        });
    }
    let prefix = u32::try_from(length).expect("below the limit");
    bytes[..4].copy_from_slice(&prefix.to_be_bytes());
    Ok(bytes)
}

/// How long something is in a message. Takes no memory for it.
pub fn encoded_len<T: Serialize>(value: &T) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    ciborium::into_writer(value, &mut count).expect("counting takes every write");
    count.0
}

/// The length that four bytes announce.
///
/// # Errors
/// [`DecodeError::TooLong`].
pub fn decode_length(prefix: [u8; 4], limit: usize) -> Result<usize, DecodeError> {
    let length = u32::from_be_bytes(prefix) as usize;
    if length > limit {
        return Err(DecodeError::TooLong { length, limit });
    }
    Ok(length)
}

/// Decodes a message from its bytes, the length already taken off.
///
/// # Errors
/// [`DecodeError::Malformed`].
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let mut rest = bytes;
    let message = ciborium::de::from_reader_with_recursion_limit(&mut rest, MAX_DEPTH)
        .map_err(|error| DecodeError::Malformed(error.to_string()))?;
    if !rest.is_empty() {
        return Err(DecodeError::Malformed(format!(
            "{} bytes behind its end",
            rest.len()
        )));
    }
    Ok(message)
}

/// Decodes a message with its length in front: one whole frame.
///
/// # Errors
/// [`DecodeError`].
pub fn decode_frame<T: DeserializeOwned>(frame: &[u8]) -> Result<T, DecodeError> {
    let Some((prefix, bytes)) = frame.split_first_chunk::<4>() else {
        return Err(DecodeError::CutOff {
            have: frame.len(),
            length: 4,
        });
    };
    let length = decode_length(*prefix, MAX_MESSAGE_BYTES)?;
    let message = bytes.get(..length).ok_or(DecodeError::CutOff {
        have: bytes.len(),
        length,
    })?;
    if bytes.len() > length {
        return Err(DecodeError::Malformed(format!(
            "{} bytes behind its end",
            bytes.len() - length
        )));
    }
    decode(message)
}

/// Decodes a request; one of an unknown kind is told from a broken one, so that a newer agent learns why.
///
/// # Errors
/// [`DecodeError::UnknownKind`], [`DecodeError::Malformed`].
pub fn decode_request(bytes: &[u8]) -> Result<Request, DecodeError> {
    decode(bytes).map_err(|error| match kind(bytes) {
        Some(kind) if !Request::KINDS.contains(&kind.as_str()) => DecodeError::UnknownKind(kind),
        Some(_) | None => error,
    })
}

/// The kind of a message: it is a text, or a map with one text key.
fn kind(bytes: &[u8]) -> Option<String> {
    let value: ciborium::Value =
        ciborium::de::from_reader_with_recursion_limit(bytes, MAX_DEPTH).ok()?;
    let only_key = || match value.as_map()?.as_slice() {
        [(key, _)] => key.as_text(),
        [] | [_, _, ..] => None,
    };
    let kind = value.as_text().or_else(only_key)?;
    Some(kind.chars().take(64).collect())
}
