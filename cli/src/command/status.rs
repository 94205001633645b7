//! `weft status`: how the agent is, and waiting until it is well.

use std::time::{Duration, Instant};

use weft_control::api::Status;

use super::Session;
use crate::args;
use crate::client::ApiPath;
use crate::failure::Failure;
use crate::render;

/// How often an agent that does not listen yet is tried.
const RETRY: Duration = Duration::from_millis(100);
/// The agent answers by itself when the wait runs out; that much later it is taken for dead.
const GRACE: Duration = Duration::from_secs(5);

/// # Errors
/// No agent answers, or it isn't in sync when the wait runs out.
pub(super) fn run(session: &Session, flags: &args::Status) -> Result<(), Failure> {
    let status = match flags.wait {
        None => session.client.get(&ApiPath::new("status"))?,
        Some(limit) => {
            let spinner = render::progress::Spinner::start("waiting until the agent is in sync");
            let waited = wait(session, limit);
            spinner.stop();
            waited?
        }
    };
    render::show(session.json, &status, render::status::text)
}

/// Waits for an agent that is about to start, too: `weft agent run & weft status --wait` is what scripts do.
fn wait(session: &Session, limit: Duration) -> Result<Status, Failure> {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        let path = ApiPath::new("status").query("wait", seconds);
        match session.client.get_within::<Status>(&path, left + GRACE) {
            Ok(status) if status.in_sync => return Ok(status),
            Ok(status) => return Err(not_in_sync(&status)),
            Err(failure) => {
                let may_come_up = matches!(failure.code.as_str(), "no_agent" | "agent_gone");
                if !may_come_up || left <= RETRY {
                    return Err(failure);
                }
            }
        }
        std::thread::sleep(RETRY);
    }
}

fn not_in_sync(status: &Status) -> Failure {
    let reason = status
        .not_in_sync
        .as_deref()
        .unwrap_or("the agent gives no reason");
    let message = format!("node {:?} is not in sync: {reason}", status.node);
    Failure::new("not_in_sync", message).hint("see `weft status`")
}
