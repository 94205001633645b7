//! The log: tracing to stderr, compact, coloured only on a terminal. Results never go this way.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::failure::Failure;
use crate::render;

/// Starts the log.
///
/// # Errors
/// `filter` cannot be parsed.
pub(crate) fn start(filter: Option<&str>, default: &str) -> Result<(), Failure> {
    let filter = filter.unwrap_or(default);
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        Failure::new(
            "invalid_log_filter",
            format!("log filter {filter:?}: {error}"),
        )
    })?;
    tracing_subscriber::fmt()
        .compact()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && render::colour_wanted())
        .init();
    Ok(())
}
