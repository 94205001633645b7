//! What an agent left that isn't there any more: ports, which the fd holder keeps for its next start. `weft down` takes them
//! down also without one.

use std::collections::BTreeMap;
use std::path::Path;

use super::startup::AgentError;
use super::state::StateDir;
use crate::holder::{HolderClient, HolderError};

/// Takes down the ports that the last agent of this state directory left; answers with their names. Their records stay:
/// by these the next agent knows whose addresses are free again, and tells its controller.
///
/// # Errors
/// An agent runs on that directory; its files can't be read; the fd holder doesn't answer.
pub fn remove_leftovers(state: &Path) -> Result<Vec<String>, AgentError> {
    if !state.try_exists().unwrap_or(true) {
        return Ok(Vec::new());
    }
    // No agent begins meanwhile.
    let state = StateDir::open(state)?;
    let records = state.load_ports()?.ports.into_iter();
    let names: BTreeMap<String, String> = records
        .map(|record| (record.endpoint.id.0, record.endpoint.name))
        .collect();
    let mut holder = match HolderClient::connect(&state.path("holder.sock")) {
        Ok(holder) => holder,
        Err(error) if error.is_absent() => return Ok(Vec::new()),
        Err(error) => return Err(unanswered(&error)),
    };
    let held = holder.list().map_err(|error| unanswered(&error))?;
    let mut removed = Vec::new();
    for deposit in held {
        // With its last file descriptor a TAP goes. The holder itself goes when it has nothing and nobody.
        let forgotten = holder.forget(&deposit.name);
        forgotten.map_err(|error| unanswered(&error))?;
        // Else it was half made.
        removed.extend(names.get(&deposit.name).cloned());
    }
    removed.sort();
    Ok(removed)
}

fn unanswered(error: &HolderError) -> AgentError {
    AgentError::Invalid(format!(
        "{error}; it has the ports of the last agent (`fuser -v` on its socket shows the process): ending it ends them"
    ))
}
