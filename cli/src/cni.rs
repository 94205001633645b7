//! The CNI plugin: the same binary when a container runtime calls it (`CNI_COMMAND` is set). Specification 1.1.0 and back
//! to 0.3.1: <https://www.cni.dev/docs/spec/>.
//!
//! A call goes this way: `env` and `config` (pure: what is asked) -> `add`, `del`, `check` (ask the agent over its socket,
//! and `delegate` to an IPAM plugin) -> `result` or `error` (pure: what is printed). The agent knows a port by the
//! attachment: the configuration's name, the container's ID and the interface. Nothing is kept here.

mod add;
mod check;
mod config;
mod del;
mod delegate;
mod env;
mod error;
mod lock;
mod network;
mod result;
mod version;

use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};
use weft_control::api::Attachment;

use crate::client::Client;
use crate::render;
use config::{Config, Ipam};
use delegate::Delegate;
pub(crate) use env::is_identifier;
use env::{Command, Env};
use error::{CniError, Code};
pub(crate) use version::Version;

/// Whether the program was called as a plugin.
const COMMAND: &str = "CNI_COMMAND";
/// No network configuration is longer, with whatever results of a chain are in it.
const CONFIG_MAX_BYTES: u64 = 16 * 1024 * 1024;

/// One call: who is to be connected to what.
#[derive(Debug)]
struct Call<'a> {
    env: &'a Env,
    config: &'a Config,
    /// The configuration as it came, for delegated plugins.
    bytes: &'a [u8],
}

impl<'a> Call<'a> {
    fn client(&self) -> Result<Client, CniError> {
        Ok(Client::new(&self.config.socket)?)
    }

    fn attachment(&self) -> Attachment {
        Attachment {
            owner: self.config.owner(),
            container: self.env.container.clone(),
            ifname: self.env.ifname.clone(),
        }
    }

    fn netns(&self) -> Result<&'a Path, CniError> {
        let netns = self.env.netns.as_deref();
        netns.ok_or_else(|| CniError::environment("CNI_NETNS", "it is not set"))
    }

    fn delegate(&self) -> Result<Option<Delegate<'a>>, CniError> {
        match &self.config.ipam {
            Ipam::Weft => Ok(None),
            Ipam::Delegated(kind) => Delegate::find(kind, &self.env.path, self.bytes).map(Some),
        }
    }
}

/// Whether a container runtime called.
pub(crate) fn is_called() -> bool {
    std::env::var_os(COMMAND).is_some_and(|command| !command.is_empty())
}

/// Serves one call: standard input to standard output.
pub(crate) fn main() -> ExitCode {
    let env = Env::read(|name| std::env::var(name).ok());
    let bytes = read_config();
    let text = bytes.as_deref().ok().and_then(config::version_text);
    let answer = match (env, bytes) {
        (Ok(env), Ok(bytes)) => serve(&env, &bytes),
        (Err(error), _) | (_, Err(error)) => Err(error),
    };
    // An error is told in the configuration's version where that can be known.
    let version = text.unwrap_or_else(|| Version::NEWEST.as_str().to_owned());
    let (answer, code) = match answer {
        Ok(answer) => (answer, ExitCode::SUCCESS),
        Err(error) => (Some(error.to_json(&version)), ExitCode::FAILURE),
    };
    let Some(answer) = answer else {
        return code;
    };
    match render::json(&answer) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

fn read_config() -> Result<Vec<u8>, CniError> {
    let mut bytes = Vec::new();
    let read = std::io::stdin()
        .take(CONFIG_MAX_BYTES + 1)
        .read_to_end(&mut bytes);
    let failed = |what: String| {
        CniError::new(
            Code::Io,
            format!("cannot read the network configuration from standard input: {what}"),
        )
    };
    match read {
        Ok(_) if bytes.len() as u64 > CONFIG_MAX_BYTES => Err(failed("it is too long".to_owned())),
        Ok(_) => Ok(bytes),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Returns what is printed; CHECK, DEL, GC and STATUS print nothing.
fn serve(env: &Env, bytes: &[u8]) -> Result<Option<Value>, CniError> {
    if env.command == Command::Version {
        return Ok(Some(versions(bytes)));
    }
    let config = Config::read(bytes, env.command, &env.args)?;
    let call = Call {
        env,
        config: &config,
        bytes,
    };
    match env.command {
        Command::Add => return Ok(Some(add::add(&call)?.to_json(config.version))),
        Command::Del => del::del(&call)?,
        Command::Check => check::check(&call)?,
        Command::Gc => del::gc(&call)?,
        Command::Status => check::status(&call)?,
        Command::Version => {}
    }
    Ok(None)
}

fn versions(bytes: &[u8]) -> Value {
    let asked = config::version_text(bytes);
    json!({
        "cniVersion": asked.unwrap_or_else(|| Version::NEWEST.as_str().to_owned()),
        "supportedVersions": Version::ALL.map(Version::as_str),
    })
}
