//! What each command does: one noun per file. A command asks the agent through [`Client`] and hands what came back to
//! `render`; daemons are started from here too.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::args::{Command, agent::Agent, controller::Controller};
use crate::client::{ApiPath, Client};
use crate::config::Settings;
use crate::failure::Failure;
use crate::logging;
use crate::render;

mod agent;
mod cni;
mod controller;
mod dns;
mod docs;
mod drops;
mod egress;
mod expose;
mod fdb;
mod ipam;
mod network;
mod nodes;
mod peers;
mod port;
mod ports;
mod router;
mod status;
mod subnets;
mod uplink;
pub(crate) mod up;

/// What the log shows when nobody says otherwise.
const DAEMON_LOG: &str = "info";
const CLIENT_LOG: &str = "warn";

/// What the commands that ask the agent share.
#[derive(Debug)]
struct Session {
    client: Client,
    json: bool,
}

impl Session {
    /// Shows things by name, in full. Always JSON, always an array, as docker does; what isn't found is said after the rest.
    fn inspect<T: Serialize + DeserializeOwned>(
        &self,
        names: &[String],
        path_of: fn(&str) -> ApiPath,
    ) -> Result<(), Vec<Failure>> {
        let mut found: Vec<T> = Vec::new();
        let mut failures = Vec::new();
        for name in names {
            match self.client.get(&path_of(name)) {
                Ok(detail) => found.push(detail),
                Err(failure) => failures.push(failure),
            }
        }
        if let Err(failure) = render::json(&found) {
            failures.push(failure);
        }
        match failures.is_empty() {
            true => Ok(()),
            false => Err(failures),
        }
    }
}

/// Carries out one command.
///
/// # Errors
/// Everything that was refused or failed; more than one only where a command goes on after a failure.
pub(crate) fn run(command: Command, settings: Settings) -> Result<(), Vec<Failure>> {
    let is_daemon = matches!(
        command,
        Command::Agent(Agent::Run(_))
            | Command::Controller(Controller::Run(_))
            | Command::FdHolder
            | Command::DockerStandIn
    );
    logging::start(
        settings.log.as_deref(),
        if is_daemon { DAEMON_LOG } else { CLIENT_LOG },
    )?;
    let session = || -> Result<Session, Failure> {
        Ok(Session {
            client: Client::new(&settings.socket)?,
            json: settings.json,
        })
    };
    match command {
        Command::Up(flags) => Ok(up::run(&session()?, &settings, flags)?),
        Command::Down(flags) => Ok(up::down(&session()?, &settings, flags)?),
        Command::Network(verb) => network::run(&session()?, verb),
        Command::Router(verb) => router::run(&session()?, verb),
        Command::Route(verb) => Ok(router::route(&session()?, verb)?),
        Command::Nodes(nodes) => nodes::run(&session()?, nodes),
        Command::Status(flags) => Ok(status::run(&session()?, &flags)?),
        Command::Peers => Ok(peers::run(&session()?)?),
        Command::Ports(of) => Ok(ports::run(&session()?, &of)?),
        Command::Expose(flags) => Ok(expose::expose(&session()?, flags)?),
        Command::Hide(flags) => Ok(expose::hide(&session()?, &flags)?),
        Command::Uplink(verb) => Ok(uplink::run(&session()?, &verb)?),
        Command::Port(verb) => Ok(port::run(&session()?, verb)?),
        Command::Drops(of) => Ok(drops::run(&session()?, &of)?),
        Command::Egress(of) => Ok(egress::run(&session()?, &of)?),
        Command::Fdb(of) => Ok(fdb::run(&session()?, &of)?),
        Command::Ipam(verb) => Ok(ipam::run(&session()?, &verb)?),
        Command::Dns => Ok(dns::run(&session()?)?),
        Command::Subnets(of) => Ok(subnets::run(&session()?, &of)?),
        Command::Agent(Agent::Run(flags)) => Ok(agent::run(&settings, *flags)?),
        Command::Agent(Agent::Stop(flags)) => Ok(agent::stop(&session()?, flags)?),
        Command::DockerStandIn => Ok(agent::stand_in(settings.socket_flag.as_deref())?),
        Command::Cni(verb) => Ok(cni::run(&settings, verb)?),
        Command::FdHolder => Ok(agent::hold(settings.socket_flag.as_deref())?),
        Command::Controller(Controller::Run(flags)) => Ok(controller::run(&settings, flags)?),
        Command::Controller(Controller::Export(flags)) => Ok(controller::export(&settings, flags)?),
        Command::Controller(Controller::Import(flags)) => Ok(controller::import(&settings, flags)?),
        Command::Controller(Controller::Token(flags)) => controller::token(&settings, flags),
        Command::Controller(Controller::Status(of)) => Ok(controller::status(&settings, of)?),
        Command::Controller(Controller::Ca(flags)) => Ok(controller::ca(&settings, flags)?),
        Command::Completion { shell } => Ok(docs::completion(shell)?),
        Command::Man { dir } => Ok(docs::man(dir.as_deref())?),
    }
}

impl Session {
    /// Keeps the rows of one network. An unknown network is refused rather than shown as empty.
    fn only<T>(
        &self,
        network: Option<&str>,
        mut rows: Vec<T>,
        network_of: impl Fn(&T) -> &str,
    ) -> Result<Vec<T>, Failure> {
        let Some(network) = network else {
            return Ok(rows);
        };
        rows.retain(|row| network_of(row) == network);
        if rows.is_empty() {
            let path = ApiPath::new("networks").segment(network);
            self.client.get::<weft_control::api::NetworkDetail>(&path)?;
        }
        Ok(rows)
    }
}
