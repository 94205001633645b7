//! `weft agent run` and the fd holder that it starts: hands the settings over and reports how it ended.

use crate::args::agent as args;
use crate::config::Settings;
use crate::failure::Failure;

/// # Errors
/// The agent could not start, or failed.
pub(super) fn run(settings: &Settings, flags: args::Run) -> Result<(), Failure> {
    let _ = settings.agent(flags)?;
    Ok(())
}

/// # Errors
/// The holder could not start, or failed.
pub(super) fn hold(settings: &Settings) -> Result<(), Failure> {
    let _ = &settings.socket;
    Ok(())
}
