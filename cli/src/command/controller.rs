//! `weft controller`: runs the keeper of a cluster's map, and mints tokens with which agents join.

use serde_json::json;
use weft_control::controller::{self, ControllerConfig};

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
pub(super) fn token(settings: &Settings, flags: args::Token) -> Result<(), Failure> {
    let wish = settings.controller_token(flags);
    let token = controller::mint_token(&wish.data, wish.ttl)
        .map_err(|error| Failure::from_error("token", &error))?;
    let told = json!({ "token": token.to_string(), "ttl_secs": wish.ttl.as_secs() });
    render::show(settings.json, &told, |_| render::line(&token))
}
