//! How a host becomes a node of its cluster: by a name and a token, the first time only.

use std::time::Duration;

use tokio::sync::watch;
use tracing::{info, warn};

use super::{AgentError, Phase};
use crate::agent::AgentConfig;
use crate::agent::state::StateDir;
use crate::channel::{self, JoinRequest, NodeFacts};
use crate::controller::ControllerHandle;
use crate::identity::{Identity, JoinToken};
use crate::model;

/// Between two tries to reach a controller to join.
const JOIN_AGAIN: Duration = Duration::from_millis(500);

pub(super) fn check_name(identity: Identity, config: &AgentConfig) -> Result<Identity, AgentError> {
    match &config.node {
        Some(wanted) if *wanted != identity.node_name => Err(AgentError::OtherName {
            dir: config.state.clone(),
            is: identity.node_name,
            wanted: wanted.clone(),
        }),
        Some(_) | None => Ok(identity),
    }
}

/// Becomes a member: asks the controllers in turn until one answers; a refusal is final.
pub(super) async fn join(
    config: &AgentConfig,
    state: &StateDir,
    own: Option<&ControllerHandle>,
    facts: &NodeFacts,
    phase: &watch::Sender<Phase>,
) -> Result<Identity, AgentError> {
    let name = match &config.node {
        Some(name) => name.clone(),
        None => hostname()?,
    };
    model::check_name("node", &name)
        .map_err(|why| AgentError::Invalid(format!("{why}; give --node")))?;
    let (controllers, token) = match own {
        Some(own) => (
            vec![own.address()],
            own.mint_token(Duration::from_secs(60)).await?,
        ),
        None => (config.controllers.clone(), given_token(config)?),
    };
    let request = JoinRequest {
        node_name: name,
        facts: facts.clone(),
    };
    let mut said = None;
    loop {
        match channel::join(&controllers, &token, &request, &state.path("identity")).await {
            Ok(identity) => {
                info!(node = %identity.node_name, cluster = %identity.cluster, "joined the cluster");
                return Ok(identity);
            }
            Err(error) if error.is_final() => return Err(AgentError::Join(error)),
            Err(error) => {
                let why = format!("the agent can't join its cluster yet: {error}");
                if said.as_ref() != Some(&why) {
                    warn!("{why}; trying again");
                    crate::notify::status(&why);
                    phase.send_replace(Phase::Joining(why.clone()));
                    said = Some(why);
                }
                tokio::time::sleep(JOIN_AGAIN).await;
            }
        }
    }
}

fn given_token(config: &AgentConfig) -> Result<JoinToken, AgentError> {
    const FIRST: &str = "this state directory isn't a member of a cluster yet";
    if config.controllers.is_empty() {
        let flag = "--join IP:PORT of a controller (or --standalone for a single host)";
        return Err(AgentError::Missing {
            what: "a controller",
            why: FIRST,
            flag,
        });
    }
    let Some(token) = &config.token else {
        let flag = "--token with what `weft controller token` prints on the controller";
        return Err(AgentError::Missing {
            what: "a join token",
            why: FIRST,
            flag,
        });
    };
    token
        .trim()
        .parse()
        .map_err(|error| AgentError::Invalid(format!("join token: {error}")))
}

fn hostname() -> Result<String, AgentError> {
    let name = nix::unistd::gethostname().map_err(|errno| AgentError::System {
        what: "read the host's name",
        source: errno.into(),
    })?;
    Ok(name.to_string_lossy().into_owned())
}
