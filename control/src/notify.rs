//! Telling the service manager how a daemon is: sd_notify(3). Where none asked (`NOTIFY_SOCKET` isn't set) nothing happens.
//!
//! The watchdog is fed by a task that first goes where requests go: a daemon that hangs there is ended and started again,
//! which costs its ports nothing.

use std::time::Duration;

use sd_notify::NotifyState;

/// How often the status is looked at when no watchdog wants to be fed sooner.
const STATUS_EVERY: Duration = Duration::from_secs(5);

/// The daemon does its work from now on.
pub(crate) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// What it is doing, in a line for people.
pub(crate) fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

/// It ends.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        // The daemon's work goes on; systemd says by itself what it missed.
        tracing::debug!(%error, "the service manager could not be told");
    }
}

/// Says how the daemon is, and feeds the watchdog if there is one, for as long as `look` returns. `look` does what a
/// request would and returns the status; what hangs in it starves the watchdog.
pub(crate) async fn keep_telling(look: impl Fn() -> String + Clone + Send + 'static) {
    let watchdog = sd_notify::watchdog_enabled();
    if watchdog.is_none() && std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    // Half of it, as sd_watchdog_enabled(3) advises.
    let every = watchdog.map_or(STATUS_EVERY, |limit| STATUS_EVERY.min(limit / 2));
    let mut told = String::new();
    loop {
        tokio::time::sleep(every).await;
        let Ok(now) = tokio::task::spawn_blocking(look.clone()).await else {
            continue;
        };
        if watchdog.is_some() {
            tell(&[NotifyState::Watchdog]);
        }
        if now != told {
            status(&now);
            told = now;
        }
    }
}
