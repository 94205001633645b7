//! The control channel: QUIC with mutual TLS between agents and controllers, length-prefixed CBOR with named fields.
//!
//! ```text
//! agent                                               controller
//!   | -- bidirectional stream 1: Hello ------------------> |   who I am, what I have, which protocols I speak
//!   | <----------------- Welcome | Refused --------------- |
//!   | <----------------- Push, Push, ... ----------------- |   snapshot or what changed, then what changes
//!   |                                                      |
//!   | -- bidirectional stream: Request ------------------> |   any number, each its own stream
//!   | <----------------- Reply or Refusal ---------------- |
//!   |                                                      |
//!   | <----------------- Ask ----------------------------- |   the controller's own questions
//!   | -- Answer or Refusal ------------------------------> |
//! ```
//!
//! A node without a certificate speaks another protocol on the same port: one stream, one [`messages::JoinHello`], one
//! answer ([`join`]). Unknown fields are skipped and unknown kinds of messages are answered with a refusal, so that an
//! older side keeps working beside a newer one; what it can't bridge is refused at `Hello`, naming both versions.
//!
//! This module is the agent's half ([`Link`], [`join`]) and what both halves share; the controller's half is
//! `controller::serve`. Nothing here decides what may be done.

pub mod codec;
mod link;
pub mod messages;
mod join;
pub mod tls;
mod transport;

pub use join::{JoinError, JoinRequest, join};
pub use link::{Link, LinkConfig, LinkEvent, RequestError};
pub use messages::{Answer, Ask, Interest, NodeFacts, Refusal, Reply, Request, RouterChange};
pub(crate) use transport::{
    FRAME_PATIENCE, FrameError, HANDSHAKE_PATIENCE, HELLO_PATIENCE, close, receive_bytes, send,
    server_transport, welcome,
};

/// For tests that speak the protocol by hand.
#[cfg(test)]
pub(crate) fn tests_only_client(identity: &crate::identity::Identity) -> quinn::ClientConfig {
    link::client_config(tls::member(identity).expect("an identity that a controller gave out"))
}

/// For tests that join by hand.
#[cfg(test)]
pub(crate) fn tests_only_joiner(fingerprint: [u8; 32]) -> quinn::ClientConfig {
    link::client_config(tls::joiner(fingerprint).expect("the crypto library works"))
}

#[cfg(test)]
mod tests;
