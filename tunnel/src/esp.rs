//! ESP in UDP (RFC 4303, RFC 3948): the datagrams of encrypted networks, sealed with AES-128-GCM (RFC 4106) whose nonce
//! is made from the sequence number (RFC 8750: no IV on the wire, so no way to repeat one by mistake).
//!
//! ```text
//! SPI 4 | sequence number 4 | GRE with key 8 | inner frame | padding 0..3 | pad length 1 | next header 1 | ICV 16
//!  `------ authenticated --' `----------------- encrypted and authenticated -----------------------'
//! ```
//!
//! Pure: keys and bytes in, bytes out. Where keys come from, when they are changed, and which socket is used are
//! questions of the session. Workers share one [`SealingKey`] and one [`OpeningKey`] without a lock.
//!
//! The way out: [`SealingKey::reserve`] once per train, [`SealingKey::seal`] per datagram. The way in: [`classify`],
//! look up the [`Spi`], [`OpeningKey::open`]. Why this format: `docs/decisions/0009-esp-beside-quic.md`.

mod demux;
mod gre;
mod keys;
mod replay;
mod seal;

pub use demux::{Arrival, InvalidSpi, Spi, classify};
pub use gre::{GRE_HEADER_LEN, GreError, GreHeader};
pub use keys::{EXPORTER_LABEL, KeyMaterial, Sender, export_keys};
pub use replay::{REPLAY_WINDOW_PACKETS, ReplayWindow, Replayed};
pub use seal::{
    ESP_HEADER_LEN, Exhausted, OpenError, OpeningKey, SealError, SealingKey, Sequence, Sequences,
    payload_max, sealed_len,
};
