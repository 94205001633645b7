//! How the plugin says no: the specification's error object, with a sentence that helps.

use serde_json::{Value, json};

use crate::failure::Failure;

/// Characters of a message that are printed.
const MESSAGE_MAX_CHARS: usize = 1000;

/// Error codes: those of the specification ("Error Codes"), and from 100 on our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// The configuration's version isn't spoken, or doesn't have the command.
    IncompatibleVersion,
    /// The configuration asks for something that the plugin doesn't do; the message has key and value.
    UnsupportedField,
    /// There is no such container: the runtime needn't clean up.
    UnknownContainer,
    /// An environment variable is missing or wrong; the message names it.
    InvalidEnvironment,
    /// Reading or writing failed.
    Io,
    /// What was given is no JSON, or not of the expected shape.
    Decode,
    /// The network configuration can't be used.
    InvalidConfig,
    /// It may work later: the agent is being started, or can't reach its controller.
    TryAgainLater,
    /// STATUS: containers can't be added.
    NotAvailable,
    /// The agent refused: an address that is taken, for example.
    Refused,
    /// The container has an interface of that name already.
    InterfaceExists,
    /// CHECK: the container isn't connected as it was told.
    NotAsExpected,
    /// A delegated plugin failed without a word that can be read.
    Delegate,
    /// What a delegated plugin said.
    Passed(u64),
}

impl Code {
    /// As it is printed.
    pub(crate) const fn number(self) -> u64 {
        match self {
            Self::IncompatibleVersion => 1,
            Self::UnsupportedField => 2,
            Self::UnknownContainer => 3,
            Self::InvalidEnvironment => 4,
            Self::Io => 5,
            Self::Decode => 6,
            Self::InvalidConfig => 7,
            Self::TryAgainLater => 11,
            Self::NotAvailable => 50,
            Self::Refused => 100,
            Self::InterfaceExists => 101,
            Self::NotAsExpected => 102,
            Self::Delegate => 103,
            Self::Passed(number) => number,
        }
    }
}

/// Why a command of the protocol was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CniError {
    /// For programs.
    pub(crate) code: Code,
    /// The object and the cause.
    pub(crate) message: String,
    /// The next thing to do; empty when there is none.
    pub(crate) details: String,
}

impl CniError {
    /// An error without a next step.
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: String::new(),
        }
    }

    /// With the next thing to do.
    pub(crate) fn hint(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }

    /// A field of the network configuration that can't be used.
    pub(crate) fn config(key: &str, what: impl std::fmt::Display) -> Self {
        Self::new(
            Code::InvalidConfig,
            format!("network configuration, key {key:?}: {what}"),
        )
    }

    /// A field that asks for what the plugin doesn't do.
    pub(crate) fn unsupported(key: &str, value: &Value) -> Self {
        Self::new(
            Code::UnsupportedField,
            format!("network configuration, key {key:?}: {value} is not supported by weft"),
        )
    }

    /// An environment variable that can't be used.
    pub(crate) fn environment(variable: &str, what: impl std::fmt::Display) -> Self {
        Self::new(Code::InvalidEnvironment, format!("{variable}: {what}"))
    }

    /// The object that goes to standard output.
    pub(crate) fn to_json(&self, version: &str) -> Value {
        json!({
            "cniVersion": version,
            "code": self.code.number(),
            "msg": shortened(&self.message),
            "details": self.details,
        })
    }
}

/// What was wrong may be of any length; runtimes log it, and people read it.
fn shortened(message: &str) -> String {
    match message.char_indices().nth(MESSAGE_MAX_CHARS) {
        Some((end, _)) => format!("{}...", message.get(..end).unwrap_or_default()),
        None => message.to_owned(),
    }
}

impl From<Failure> for CniError {
    /// What the agent or the way to it said.
    fn from(failure: Failure) -> Self {
        let code = match failure.code.as_str() {
            "no_agent" | "timeout" | "agent_gone" | "joining" | "offline" | "timed_out"
            | "no_block" | "busy" | "lagging" | "stopping" => Code::TryAgainLater,
            "permission_denied" | "no_runtime" => Code::Io,
            "interface_exists" | "attached_already" => Code::InterfaceExists,
            "bad_netns" => Code::UnknownContainer,
            "bad_ifname" => Code::InvalidEnvironment,
            "bad_ip" | "bad_line" | "bad_mac" | "bad_name" | "bad_publish" | "bad_route"
            | "too_many_ports" | "no_gateway" | "no_subnet" | "has_subnet" | "internal_network"
            | "unknown_network" => Code::InvalidConfig,
            _ => Code::Refused,
        };
        Self {
            code,
            message: failure.message,
            details: failure.hint.unwrap_or_default(),
        }
    }
}
