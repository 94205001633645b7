//! What the fuzz target of the tunnel (testbed/fuzz) runs on its input, here so that `cargo test` replays the corpus
//! through the same function. Not for use by weft itself: a broken promise of this crate panics.

use crate::esp::{
    Arrival, GRE_HEADER_LEN, GreHeader, KeyMaterial, OpeningKey, Sender, Spi, classify, export_keys,
};
use crate::{ecn, session};

/// Bytes as a datagram from anybody, as what was sealed, and as a session's messages.
///
/// # Panics
/// If bytes make a promise of the crate untrue.
pub fn esp(bytes: &[u8]) {
    if let Arrival::Esp(spi) = classify(bytes) {
        assert_eq!(spi.value().to_be_bytes(), bytes[..4]);
        let mut copy = bytes.to_vec();
        // Nobody can seal without the key.
        assert!(OpeningKey::new(spi, &material()).open(&mut copy).is_err());
    }
    if let Ok((vni, inner)) = GreHeader::parse(bytes) {
        assert_eq!(GreHeader::to_bytes(vni), bytes[..GRE_HEADER_LEN]);
        assert_eq!(inner, &bytes[GRE_HEADER_LEN..]);
    }
    let mut frame = bytes.to_vec();
    let before = ecn::of(&frame);
    if ecn::mark(&mut frame).is_ok() && frame != bytes {
        assert_ne!((before, ecn::of(&frame)), (0, 0));
        assert_eq!(ecn::of(&frame), ecn::CE);
    }
    session::fuzz_hello(bytes);
    let _ = Spi::from_random(bytes.len().try_into().unwrap_or(0));
}

fn material() -> KeyMaterial {
    let filled = export_keys(Sender::Initiator, 0, |out, _, _| {
        out.fill(0x5a);
        Ok::<_, std::convert::Infallible>(())
    });
    match filled {
        Ok(material) => material,
        Err(never) => match never {},
    }
}
