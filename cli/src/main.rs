//! The `weft` command: agent, controller and their client in one binary.
//!
//! A command line goes this way: `args` (grammar) -> `config` (file < environment < flags) -> `command` (one noun per
//! file; asks the agent through `client`) -> `render` (the only place that prints). What a command means is decided
//! behind the local API, never here. Exit codes: 0 done, 1 refused or failed, 2 usage. A container runtime that calls the
//! binary as its CNI plugin is answered by `cni` instead.

mod args;
mod cni;
mod config;
mod logging;
mod client;
mod command;
mod failure;
mod render;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Cli;
use crate::failure::Failure;

fn main() -> ExitCode {
    if cni::is_called() {
        return cni::main();
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let json_flag = cli.global.json;
    let (json, result) = match config::load(&cli) {
        Ok(settings) => {
            let json = json_flag || settings.json;
            (json, command::run(cli.command, settings))
        }
        Err(failure) => (json_flag, Err(vec![failure])),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failures) => {
            for failure in &failures {
                render::failure(failure, json);
            }
            ExitCode::FAILURE
        }
    }
}

/// Reports what clap refused (exit 2), or prints the help or version that was asked for (exit 0).
fn usage(error: &clap::Error) -> ExitCode {
    let asked_for_json = std::env::args_os().any(|argument| argument == "--json");
    if error.use_stderr() && asked_for_json {
        let text = error.render().to_string();
        let cause = text.split("\n\nUsage:").next().unwrap_or(&text).trim();
        let cause = cause.trim_start_matches("error: ");
        render::failure(
            &Failure::new("usage", cause).hint("see `weft --help`"),
            true,
        );
    } else {
        render::clap_error(error);
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}
