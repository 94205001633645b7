//! `weft agent run` and the fd holder that it starts: hands the settings over and reports how it ended.

use std::path::Path;

use weft_control::agent::{self, AgentConfig};
use weft_control::holder;

use crate::args::agent as args;
use crate::config::Settings;
use crate::failure::Failure;

/// # Errors
/// The agent could not start, or failed.
pub(super) fn run(settings: &Settings, flags: args::Run) -> Result<(), Failure> {
    let wish = settings.agent(flags)?;
    let exe = std::env::current_exe().map_err(|error| {
        Failure::new(
            "agent",
            format!("cannot find the weft program's own file: {error}"),
        )
        .hint("start weft from a file that stays where it is, with /proc mounted")
    })?;
    let config = AgentConfig {
        node: wish.node,
        underlay: wish.underlay,
        state: wish.state,
        socket: std::path::absolute(&settings.socket).unwrap_or_else(|_| settings.socket.clone()),
        controllers: wish.controllers,
        token: wish.token,
        standalone: wish.standalone,
        workers: wish.workers,
        vxlan_port: wish.vxlan_port,
        exe,
    };
    agent::run(config).map_err(|error| Failure::from_error("agent", &error))
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
    holder::run(socket).map_err(|error| Failure::from_error("fd_holder", &error))
}
