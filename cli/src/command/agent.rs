//! `weft agent run` and the fd holder that it starts: hands the settings over and reports how it ended. `weft agent stop`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use hyper::Method;
use weft_control::agent::{self, AgentConfig};
use weft_control::api;
use weft_control::holder;

use super::Session;
use crate::args::agent as args;
use crate::client::ApiPath;
use crate::config::Settings;
use crate::failure::Failure;
use crate::render;

/// How long an agent may take from its last answer to its end.
const END_PATIENCE: Duration = Duration::from_secs(10);
/// How often its socket is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// # Errors
/// The agent could not start, or failed.
pub(super) fn run(settings: &Settings, flags: args::Run) -> Result<(), Failure> {
    if let Some(token) = &flags.token {
        return Err(start_without(token));
    }
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
        encrypted_port: wish.encrypted_port,
        rekey_after: wish.rekey_after,
        idle_after: wish.idle_after,
        gso: !wish.no_gso,
        dns_upstreams: wish.dns_upstreams,
        docker: wish.docker,
        exe,
    };
    agent::run(config).map_err(|error| Failure::from_error("agent", &error))
}

/// The flag that has a secret.
const TOKEN_FLAG: &str = "--token";

/// Starts this program again in this process, with the token in the environment, which is for its owner only: a process'
/// arguments are there for everybody to read as long as it runs. Returns only if that fails.
fn start_without(token: &str) -> Failure {
    let mut given = std::env::args_os();
    let name = given.next().unwrap_or_else(|| "weft".into());
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name).args(without_token(given));
    let error = command.env(api::TOKEN_ENV, token).exec();
    let message = format!("cannot start the agent without the token among its arguments: {error}");
    Failure::new("agent", message).hint("give the token with --token-file, or mount /proc")
}

/// The arguments but `--token TOKEN` or `--token=TOKEN`.
fn without_token(mut arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut kept = Vec::new();
    while let Some(argument) = arguments.next() {
        let bytes = argument.as_bytes();
        if bytes == TOKEN_FLAG.as_bytes() {
            arguments.next();
        } else if !bytes.starts_with(b"--token=") {
            kept.push(argument);
        }
    }
    kept
}

/// Returns when the agent has gone, so that a script may start it again at once.
///
/// # Errors
/// No agent answers, or it doesn't end.
pub(super) fn stop(session: &Session, flags: args::Stop) -> Result<(), Failure> {
    let wish = api::Stop {
        remove_ports: flags.remove_ports,
    };
    let socket = session.client.socket_file();
    let told: api::Stopping = session
        .client
        .send(Method::POST, &ApiPath::new("stop"), &wish)?;
    let deadline = Instant::now() + END_PATIENCE;
    while socket.is_some() && session.client.socket_file() == socket {
        if Instant::now() > deadline {
            let message = "the agent said that it stops, but its socket is still there";
            return Err(Failure::new("still_running", message).hint("look at its log"));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    render::show(session.json, &told, render::port::stopped)
}

/// # Errors
/// The socket can't be had.
pub(super) fn stand_in(socket: Option<&Path>) -> Result<(), Failure> {
    let Some(socket) = socket else {
        return Err(Failure::new(
            "docker",
            "the stand-in for the Docker driver wants --socket PATH",
        )
        .hint("the agent starts it by itself: use `weft agent run --docker`"));
    };
    agent::stand_in(socket).map_err(|error| Failure::from_error("docker", &error))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_taken_out_of_the_arguments_and_nothing_else() {
        let kept = |line: &str| {
            let words = line.split_whitespace().map(OsString::from);
            let kept = without_token(words);
            let kept: Vec<String> = kept
                .into_iter()
                .map(|word| word.into_string().unwrap())
                .collect();
            kept.join(" ")
        };
        assert_eq!(
            kept("agent run --join 10.0.0.1 --token weft1.a.b.c --node n"),
            "agent run --join 10.0.0.1 --node n"
        );
        assert_eq!(
            kept("agent run --token=T --token-file F"),
            "agent run --token-file F"
        );
        assert_eq!(
            kept("agent run --node token --token"),
            "agent run --node token"
        );
    }
}
