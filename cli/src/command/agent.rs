//! `weft agent run` and the fd holder that it starts: hands the settings over and reports how it ended.

use std::path::Path;

use crate::args::agent as args;
use crate::config::Settings;
use crate::failure::Failure;

/// # Errors
/// The agent could not start, or failed.
pub(super) fn run(settings: &Settings, flags: args::Run) -> Result<(), Failure> {
    let mut wish = settings.agent(flags)?;
    wish.token = None;
    Err(Failure::new(
        "not_linked",
        format!("the agent is not linked into this build ({wish:?})"),
    ))
}

/// # Errors
/// The holder could not start, or failed.
pub(super) fn hold(socket: Option<&Path>) -> Result<(), Failure> {
    let Some(socket) = socket else {
        return Err(
            Failure::new("fd_holder", "the fd holder wants --socket PATH")
                .hint("the agent starts it by itself: use `weft agent run`"),
        );
    };
    let message = format!(
        "the fd holder is not linked into this build ({})",
        socket.display()
    );
    Err(Failure::new("not_linked", message))
}
