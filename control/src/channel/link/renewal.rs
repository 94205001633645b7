//! A node's certificate is renewed before it ends: over the session that is there, and by the key alone when it ended
//! while the node was away. Whether the node is a member is for the controller to say, each time.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quinn::Connection;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::{
    CALL_PATIENCE, DialError, REQUEST_PATIENCE, RequestError, client_config, dial, exchange,
};
use crate::channel::codec;
use crate::channel::join::ask_over;
use crate::channel::messages::{
    Answer, JoinWelcome, PROTOCOLS, Refusal, RenewHello, Reply, Request,
};
use crate::channel::tls;
use crate::identity::Identity;
use crate::identity::cert::Validity;

/// Between two looks at the clock: it may be set.
const LOOK: Duration = Duration::from_secs(60);
/// Between two tries at least.
const AGAIN_MIN: Duration = Duration::from_secs(1);
/// A part of the time that is left is between two tries.
const AGAIN_PART: u32 = 10;
/// A part of the time until the renewal by which nodes differ, so that they don't all ask in one moment.
const JITTER_PART: u32 = 8;

/// Why there is no new certificate.
pub(super) enum RenewError {
    /// No controller, or not ours.
    Dial(DialError),
    /// The controller says no.
    Refused(Refusal),
    /// Something here.
    Failed(String),
}

/// The node's identity, and where it is kept.
pub(super) struct Keepsake {
    identity: watch::Sender<Arc<Identity>>,
    dir: Option<PathBuf>,
    /// One renewal at a time: the timer's and the one that the controller asks for.
    renewing: tokio::sync::Mutex<()>,
}

impl Keepsake {
    pub(super) fn new(identity: Identity, dir: Option<PathBuf>) -> Self {
        Self {
            identity: watch::Sender::new(Arc::new(identity)),
            dir,
            renewing: tokio::sync::Mutex::default(),
        }
    }

    /// The newest one.
    pub(super) fn identity(&self) -> Arc<Identity> {
        Arc::clone(&self.identity.borrow())
    }

    /// All of them from now on.
    pub(super) fn follow(&self) -> watch::Receiver<Arc<Identity>> {
        self.identity.subscribe()
    }

    /// Whether the certificate has ended by this host's clock.
    pub(super) fn is_over(&self) -> bool {
        self.identity().validity().until < now()
    }

    /// Renews the certificate whenever it is time, as long as the session lives.
    pub(super) async fn keep_fresh(&self, connection: &Connection) -> Infallible {
        loop {
            sleep(until_renewal(
                self.identity().validity(),
                now(),
                rand::random_range(0.0..1.0),
            ))
            .await;
            let identity = self.identity();
            let (now, validity) = (now(), identity.validity());
            if now < validity.renewal() {
                continue;
            }
            if let Err(cause) = self.renew_over(connection).await {
                let left = Duration::from_secs(validity.until.saturating_sub(now));
                warn!(
                    left_secs = left.as_secs(),
                    "this node's certificate could not be renewed: {cause}; it is tried again"
                );
                sleep((left / AGAIN_PART).clamp(AGAIN_MIN, LOOK * 60)).await;
            }
        }
    }

    /// The controller wants us to have a new certificate.
    pub(super) async fn renew_when_told(&self, connection: &Connection) -> Result<Answer, Refusal> {
        match self.renew_over(connection).await {
            Ok(()) => Ok(Answer::Renewed),
            Err(cause) => Err(Refusal::new("not_renewed", cause)),
        }
    }

    async fn renew_over(&self, connection: &Connection) -> Result<(), String> {
        let _one_at_a_time = self.renewing.lock().await;
        let csr = self.identity().csr().map_err(|error| error.to_string())?;
        let reply = request(connection, &Request::Renew { csr }).await?;
        let issued = reply
            .issued
            .ok_or("the controller's answer has no certificate")?;
        self.take(issued).await?;
        let credentials = self.identity().credentials();
        let noted = request(connection, &Request::NoteCredentials { credentials }).await;
        if let Err(error) = noted {
            // It is told again at the next hello.
            debug!(%error, "the controller didn't hear of the new certificate");
        }
        Ok(())
    }

    /// Asks a controller that doesn't take our certificate.
    pub(super) async fn renew_by_key(
        &self,
        controller: SocketAddr,
        source: IpAddr,
    ) -> Result<(), RenewError> {
        let _one_at_a_time = self.renewing.lock().await;
        let failed = |error: &dyn std::fmt::Display| RenewError::Failed(error.to_string());
        let identity = self.identity();
        let tls = tls::returning(&identity).map_err(|error| failed(&error))?;
        let hello = RenewHello {
            protocols: PROTOCOLS,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            csr: identity.csr().map_err(|error| failed(&error))?,
        };
        let dialled = dial(&client_config(tls), source, controller, CALL_PATIENCE).await;
        let (_endpoint, connection) = dialled.map_err(RenewError::Dial)?;
        let answer = ask_over(&connection, &hello).await;
        let issued = answer.map_err(RenewError::Dial)?;
        let issued = issued.map_err(RenewError::Refused)?;
        self.take(issued).await.map_err(|cause| failed(&cause))
    }

    /// On disk first: what was shown to somebody must be there after a crash.
    async fn take(&self, issued: JoinWelcome) -> Result<(), String> {
        let renewed = self.identity().renewed(issued.issued())?;
        let until = renewed.validity().until;
        if let Some(dir) = self.dir.clone() {
            let saved = renewed.clone();
            let saved = tokio::task::spawn_blocking(move || saved.save(&dir)).await;
            let saved = saved.map_err(|error| error.to_string())?;
            saved.map_err(|error| error.to_string())?;
        }
        self.identity.send_replace(Arc::new(renewed));
        info!(
            days = until.saturating_sub(now()) / (24 * 60 * 60),
            "this node's certificate was renewed"
        );
        Ok(())
    }
}

pub(super) async fn request(connection: &Connection, request: &Request) -> Result<Reply, String> {
    let bytes = codec::encode(request).map_err(|error| error.to_string())?;
    let answer = timeout(REQUEST_PATIENCE, exchange(connection, &bytes)).await;
    let answer = answer.unwrap_or(Err(RequestError::TimedOut));
    answer.map_err(|error| error.to_string())
}

/// How long to sleep before looking whether it is time; `chance` in 0..1 spreads the nodes over the last part of it.
fn until_renewal(validity: Validity, now: u64, chance: f64) -> Duration {
    let spread = Duration::from_secs(validity.until - validity.renewal()) / JITTER_PART;
    let due = Duration::from_secs(validity.renewal().saturating_sub(now));
    (due + spread.mul_f64(chance)).min(LOOK)
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_is_noticed_within_a_look() {
        let day = 24 * 60 * 60;
        let validity = Validity {
            from: 1000 * day,
            until: 1090 * day,
        };
        let wait = |now: u64| until_renewal(validity, now, 0.0);
        // Far from it, also by a clock that was set back to before the certificate began, or to nothing.
        for now in [1001 * day, 900 * day, 0] {
            assert_eq!(wait(now), LOOK);
        }
        assert_eq!(wait(1060 * day - 5), Duration::from_secs(5));
        // Set forward to after it, or to the end of time.
        for now in [1060 * day, 1091 * day, u64::MAX] {
            assert_eq!(wait(now), Duration::ZERO);
            assert!(until_renewal(validity, now, 1.0) <= LOOK);
        }
    }
}
