//! QUIC's connection ids.

use std::time::Duration;

use quinn::{ConnectionId, ConnectionIdGenerator};

/// Connection ids that say nothing. quinn's own are made with a key of the process, by which a process that was started
/// anew takes those of the one before for noise: it would not tell their owners that their connection is gone (stateless
/// reset, RFC 9000 section 10.3).
#[derive(Clone, Copy, Debug, Default)]
pub struct RandomIds;

impl RandomIds {
    /// Enough that two never meet, and what quinn's own have (bytes).
    const LEN: usize = 8;
}

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut bytes = [0; Self::LEN];
        aws_lc_rs::rand::fill(&mut bytes).expect("the system's random numbers never end");
        ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        Self::LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}
