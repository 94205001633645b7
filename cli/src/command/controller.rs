//! `weft controller`: runs the keeper of a cluster's map, and mints tokens with which agents join.

use crate::args::controller as args;
use crate::config::Settings;
use crate::failure::Failure;

/// # Errors
/// The store is not in this build, or the controller failed.
pub(super) fn run(settings: &Settings, flags: args::Run) -> Result<(), Failure> {
    let wish = settings.controller(flags);
    if let Some(store) = &wish.store {
        return Err(refuse_store(store));
    }
    Err(Failure::new(
        "not_linked",
        format!("the controller is not linked into this build ({wish:?})"),
    ))
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
    Err(Failure::new(
        "not_linked",
        format!("the controller is not linked into this build ({wish:?})"),
    ))
}
