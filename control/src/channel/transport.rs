//! How QUIC is set up for the control channel, and messages on its streams.

use std::sync::Arc;
use std::time::Duration;

use quinn::{Connection, IdleTimeout, RecvStream, SendStream, TransportConfig, VarInt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::codec::{self, DecodeError};

/// TLS and QUIC handshake together.
pub(crate) const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(5);
/// From the start of a message to its end.
pub(crate) const FRAME_PATIENCE: Duration = Duration::from_secs(5);
/// What a caller may take from the handshake to the whole of its hello.
pub(crate) const HELLO_PATIENCE: Duration = Duration::from_secs(3);
/// An idle connection says this often that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// A side that was silent for this long is dead.
const IDLE_MS: u32 = 4_000;
/// Hosts of a cluster are near each other: a lost first packet is repeated after three times this.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// Requests of one agent that the controller works on at once; further ones wait.
const MAX_REQUESTS: u32 = 64;
/// What may wait in memory of one agent's requests: several of the longest.
const MEMBER_WINDOW: u32 = 16 << 20;
/// The same of somebody who hasn't shown a certificate: one question.
const STRANGER_WINDOW: u32 = 64 << 10;
/// Questions of the controller that one agent works on at once.
const MAX_ASKS: u32 = 16;

/// Codes with which a connection is closed. Both sides know them.
pub(crate) mod close {
    /// The side is stopping in good order.
    pub(crate) const STOPPING: u32 = 0;
    /// The other side broke the protocol.
    pub(crate) const PROTOCOL: u32 = 1;
    /// The same node connected anew.
    pub(crate) const REPLACED: u32 = 2;
    /// The node was removed from the cluster.
    pub(crate) const REMOVED: u32 = 3;
    /// All was said.
    pub(crate) const DONE: u32 = 4;
}

fn transport(streams: u32) -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(streams))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_MS))))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .initial_rtt(INITIAL_RTT);
    config
}

/// For the controller's side, as long as it doesn't know who is there; see [`welcome`].
pub(crate) fn server_transport() -> Arc<TransportConfig> {
    let mut config = transport(1);
    config.receive_window(VarInt::from_u32(STRANGER_WINDOW));
    Arc::new(config)
}

/// A member may have more under way than a stranger.
pub(crate) fn welcome(member: &Connection) {
    member.set_receive_window(VarInt::from_u32(MEMBER_WINDOW));
    member.set_max_concurrent_bi_streams(VarInt::from_u32(MAX_REQUESTS));
}

/// For the agent's side.
pub(super) fn client_transport() -> Arc<TransportConfig> {
    Arc::new(transport(MAX_ASKS))
}

/// Why a message could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// The stream or connection ended.
    #[error("{0}")]
    Ended(String),
    /// The other side is too slow.
    #[error("no whole message within {} s", FRAME_PATIENCE.as_secs())]
    TooSlow,
    /// What came is no message.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// Sends one message.
pub(crate) async fn send<T: Serialize>(to: &mut SendStream, message: &T) -> Result<(), FrameError> {
    let bytes = codec::encode(message)?;
    let written = tokio::time::timeout(FRAME_PATIENCE, to.write_all(&bytes)).await;
    written
        .map_err(|_| FrameError::TooSlow)?
        .map_err(|error| FrameError::Ended(error.to_string()))
}

/// Receives the bytes of one message of at most `limit` bytes. Waits for its first byte as long as the connection
/// lives; the rest must come soon.
pub(crate) async fn receive_bytes(
    from: &mut RecvStream,
    limit: usize,
) -> Result<Vec<u8>, FrameError> {
    let ended = |error: quinn::ReadExactError| FrameError::Ended(error.to_string());
    let mut prefix = [0; 4];
    from.read_exact(&mut prefix).await.map_err(ended)?;
    let length = codec::decode_length(prefix, limit)?;
    let mut bytes = vec![0; length];
    let read = tokio::time::timeout(FRAME_PATIENCE, from.read_exact(&mut bytes)).await;
    read.map_err(|_| FrameError::TooSlow)?.map_err(ended)?;
    Ok(bytes)
}

/// Receives one message.
pub(crate) async fn receive<T: DeserializeOwned>(from: &mut RecvStream) -> Result<T, FrameError> {
    let bytes = receive_bytes(from, codec::MAX_MESSAGE_BYTES).await?;
    Ok(codec::decode(&bytes)?)
}
