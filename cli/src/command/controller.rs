//! `weft controller`: runs the keeper of a cluster's map, and mints tokens with which agents join.

use std::path::Path;

use serde_json::json;
use weft_control::controller::{self, ControllerConfig, ControllerError, TokenSpec};

use crate::args::controller as args;
use crate::config::Settings;
use crate::failure::Failure;
use crate::render;

/// # Errors
/// The settings are not usable, or the controller failed.
pub(super) fn run(settings: &Settings, flags: args::Run) -> Result<(), Failure> {
    let wish = settings.controller(flags)?;
    let config = ControllerConfig {
        data: wish.data,
        listen: wish.listen,
        store: wish.store,
        advertise: wish.advertise,
    };
    controller::run(config).map_err(|error| Failure::from_error("controller", &error))
}

/// # Errors
/// There is no controller's data in the directory, or it cannot be used.
pub(super) fn token(settings: &Settings, flags: args::Token) -> Result<(), Vec<Failure>> {
    match flags.verb {
        None => Ok(mint(settings, flags)?),
        Some(args::TokenVerb::Ls(of)) => {
            let data = settings.controller_data(of);
            let tokens = controller::list_tokens(&data).map_err(failed)?;
            Ok(render::show(settings.json, &tokens, |tokens| {
                render::token::table(tokens)
            })?)
        }
        Some(args::TokenVerb::Rm { ids, of }) => {
            let data = settings.controller_data(of);
            revoke(settings.json, &data, &ids)
        }
    }
}

fn mint(settings: &Settings, flags: args::Token) -> Result<(), Failure> {
    let wish = settings.controller_token(flags);
    let spec = TokenSpec {
        ttl: wish.ttl,
        uses: wish.uses,
    };
    let token = controller::mint_token(&wish.data, spec).map_err(failed)?;
    let told = json!({
        "token": token.to_string(), "id": token.id.to_string(), "ttl_secs": wish.ttl.as_secs(), "uses": wish.uses,
    });
    render::show(settings.json, &told, |_| render::line(&token))
}

/// One after the other, goes on after a failure, and prints the ids of those that are worthless now.
fn revoke(as_json: bool, data: &Path, ids: &[String]) -> Result<(), Vec<Failure>> {
    let mut revoked = Vec::new();
    let mut failures = Vec::new();
    for id in ids {
        match controller::revoke_token(data, id) {
            Ok(()) => revoked.push(id.clone()),
            Err(error) => failures.push(failed(error)),
        }
    }
    if let Err(failure) = render::removed(as_json, &revoked) {
        failures.push(failure);
    }
    if failures.is_empty() {
        Ok(())
    } else {
        Err(failures)
    }
}

fn failed(error: ControllerError) -> Failure {
    if let ControllerError::Refused(refusal) = error {
        let failure = Failure::new(&refusal.code, refusal.message);
        return match refusal.hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        };
    }
    let unknown = matches!(error, ControllerError::UnknownToken(_));
    Failure::from_error(if unknown { "unknown_token" } else { "token" }, &error)
}
