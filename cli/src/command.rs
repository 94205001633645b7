//! What each command does: one noun per file. A command asks the agent through [`Client`] and hands what came back to
//! `render`; daemons are started from here too.

use crate::args::{Command, agent::Agent, controller::Controller};
use crate::client::{ApiPath, Client};
use crate::config::Settings;
use crate::failure::Failure;
use crate::logging;

mod agent;
mod controller;
mod docs;
        Command::Egress(of) => Ok(egress::run(&session()?, &of)?),
