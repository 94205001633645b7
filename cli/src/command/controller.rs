//! `weft controller`: runs the keeper of a cluster's map, and mints tokens with which agents join.

use std::path::Path;

use serde_json::json;
use weft_control::controller::{self, ControllerConfig, ControllerError, TokenSpec};

use crate::args::controller as args;
use crate::config::Settings;
use crate::failure::Failure;
use crate::render;

/// # Errors
/// The store is not in this build, or the controller failed.
pub(super) fn run(settings: &Settings, flags: args::Run) -> Result<(), Failure> {
    let wish = settings.controller(flags);
    if let Some(store) = &wish.store {
        return Err(refuse_store(store));
    }
    let config = ControllerConfig {
        data: wish.data,
        listen: wish.listen,
        cert_ttl: wish.cert_ttl,
    };
    controller::run(config).map_err(|error| Failure::from_error("controller", &error))
}

fn refuse_store(store: &str) -> Failure {
    if store.starts_with("etcd://") {
        let message = format!("the store {store} is not in this build of weft");
        return Failure::new("store_not_built", message).hint(
            "leave --store away: the controller keeps the map in its data directory (--data DIR)",
        );
    }
    Failure::new("store_unknown", format!("no store is called {store:?}"))
        .hint("leave --store away, or name an etcd cluster: etcd://HOST:PORT[,HOST:PORT...]")
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
    if let ControllerError::Refused(refusal) | ControllerError::Failed(refusal) = error {
        let failure = Failure::new(&refusal.code, refusal.message);
        return match refusal.hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        };
    }
    Failure::from_error(error.code(), &error)
}

/// # Errors
/// There is no controller's data in the directory, or the authority is not where the verb wants it.
pub(super) fn ca(settings: &Settings, flags: args::Ca) -> Result<(), Failure> {
    let info = match flags.verb {
        None => controller::authority(&settings.controller_data(flags.of)),
        Some(args::CaVerb::Rotate(of)) => {
            controller::rotate_authority(&settings.controller_data(of))
        }
        Some(args::CaVerb::Advance(of)) => {
            controller::advance_authority(&settings.controller_data(of))
        }
    };
    let info = info.map_err(failed)?;
    render::show(settings.json, &info, render::authority::text)
}

/// # Errors
/// There is no controller's data in the directory, or it cannot be used.
pub(super) fn status(settings: &Settings, of: args::Of) -> Result<(), Failure> {
    let report = controller::status(&settings.controller_data(of)).map_err(failed)?;
    render::show(settings.json, &report, render::authority::report)
}
