//! What the two sides of a session say to each other, once, on the session's one stream: CBOR with named fields, so that
//! an older side skips what it doesn't know. TLS has said who they are by then.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::esp::Spi;

/// The cipher of the frames, by its name in IANA's registry of IKEv2 transforms: the only one there is so far.
pub const CIPHER: &str = "ENCR_AES_GCM_16_IIV-128";
/// Longest message: a hello has a tenth of it.
pub(super) const MESSAGE_MAX: usize = 1024;

/// From the side that opens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    /// Another one after each start of the sender.
    pub(super) incarnation: u64,
    /// Higher than of any session that the two had, as far as the sender knows.
    pub(super) number: u64,
    /// To be put on datagrams to the sender.
    pub(super) spi: u32,
    /// What the sender can seal and open frames with, best first.
    pub(super) ciphers: Vec<String>,
}

/// From the other side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reply {
    /// Another one after each start of the sender.
    pub(super) incarnation: u64,
    /// To be put on datagrams to the sender.
    pub(super) spi: u32,
    /// The chosen cipher.
    pub(super) cipher: String,
    /// Where the hello came from: another address than the sender's own means NAT.
    pub(super) seen: SocketAddr,
}

impl Hello {
    /// Checks what came.
    pub(super) fn checked(bytes: &[u8]) -> Result<(Self, Spi), String> {
        let hello: Self = decode(bytes)?;
        let spi = Spi::new(hello.spi).map_err(|error| error.to_string())?;
        if !hello.ciphers.iter().any(|cipher| cipher == CIPHER) {
            let theirs = hello.ciphers.join(", ");
            return Err(format!(
                "no common cipher: they have {theirs:?}, we {CIPHER}"
            ));
        }
        Ok((hello, spi))
    }
}

impl Reply {
    /// Checks what came.
    pub(super) fn checked(bytes: &[u8]) -> Result<(Self, Spi), String> {
        let reply: Self = decode(bytes)?;
        let spi = Spi::new(reply.spi).map_err(|error| error.to_string())?;
        if reply.cipher != CIPHER {
            return Err(format!(
                "they chose a cipher that we don't have: {:?}",
                reply.cipher
            ));
        }
        Ok((reply, spi))
    }
}

/// To bytes.
pub(super) fn encode(message: &impl Serialize) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(message, &mut bytes).expect("memory takes all, and messages are plain");
    bytes
}

fn decode<T: for<'d> Deserialize<'d>>(bytes: &[u8]) -> Result<T, String> {
    ciborium::from_reader(bytes).map_err(|error| format!("no message of ours: {error}"))
}

/// What a fuzz target runs: any bytes as either message, which must come back if they are one.
///
/// # Panics
/// If they don't.
pub(crate) fn fuzz_hello(bytes: &[u8]) {
    if let Ok((hello, _)) = Hello::checked(bytes) {
        assert_eq!(
            Hello::checked(&encode(&hello)).map(|(hello, _)| hello),
            Ok(hello)
        );
    }
    if let Ok((reply, _)) = Reply::checked(bytes) {
        assert_eq!(
            Reply::checked(&encode(&reply)).map(|(reply, _)| reply),
            Ok(reply)
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hello(spi: u32, cipher: &str) -> Hello {
        Hello {
            incarnation: u64::MAX,
            number: 7,
            spi,
            ciphers: vec!["better".to_owned(), cipher.to_owned()],
        }
    }

    #[test]
    fn each_fault_is_named() {
        let spi = 0x8000_1234;
        let good = hello(spi, CIPHER);
        let (back, checked) = Hello::checked(&encode(&good)).unwrap();
        assert_eq!((back, checked.value()), (good, spi));
        let other = Hello::checked(&encode(&hello(spi, "ROT13"))).unwrap_err();
        assert!(other.contains("ROT13"), "{other}");
        for spi in [0, 255, 0x4000_0000] {
            assert!(Hello::checked(&encode(&hello(spi, CIPHER))).is_err());
        }
        let reply = |cipher: &str| Reply {
            incarnation: 1,
            spi,
            cipher: cipher.to_owned(),
            seen: "[::1]:9".parse().unwrap(),
        };
        assert!(Reply::checked(&encode(&reply(CIPHER))).is_ok());
        assert!(Reply::checked(&encode(&reply("better"))).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0_usize..200) {
            fuzz_hello(&bytes);
            let good = encode(&hello(0x8000_0000, CIPHER));
            fuzz_hello(&good[..cut.min(good.len())]);
        }
    }
}
