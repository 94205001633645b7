//! `weft router` and `weft route`.

use hyper::Method;
use serde_json::json;
use weft_control::api::{RouterCreate, RouterDetail, RouterInfo, RouterNetworks, StaticRoute};

use super::Session;
use crate::args::router::{self as args, NextHopWord, Route, Router};
use crate::client::ApiPath;
use crate::failure::Failure;
use crate::render;

/// # Errors
/// No agent answers, or what was asked is refused; `rm` and `inspect` go on after a failure.
pub(super) fn run(session: &Session, verb: Router) -> Result<(), Vec<Failure>> {
    match verb {
        Router::Create { name } => Ok(create(session, name)?),
        Router::Connect(which) => Ok(networks(session, which, "connect")?),
        Router::Disconnect(which) => Ok(networks(session, which, "disconnect")?),
        Router::Ls { quiet } => Ok(list(session, quiet)?),
        Router::Inspect(args::Names { names }) => session.inspect::<RouterDetail>(&names, of),
        Router::Rm(args::Names { names }) => session.remove_each("routers", &names),
    }
}

fn of(router: &str) -> ApiPath {
    ApiPath::new("routers").segment(router)
}

fn create(session: &Session, name: String) -> Result<(), Failure> {
    let path = ApiPath::new("routers");
    let made: RouterInfo = session
        .client
        .send(Method::POST, &path, &RouterCreate { name })?;
    render::show(session.json, &made, |made| render::line(&made.name))
}

fn networks(session: &Session, which: args::Networks, verb: &str) -> Result<(), Failure> {
    let wish = RouterNetworks {
        networks: which.networks,
    };
    let path = of(&which.router).segment(verb);
    let now: RouterInfo = session.client.send(Method::POST, &path, &wish)?;
    render::show(session.json, &now, |now| render::line(&now.name))
}

fn list(session: &Session, quiet: bool) -> Result<(), Failure> {
    let routers: Vec<RouterInfo> = session.client.get(&ApiPath::new("routers"))?;
    if quiet {
        let names: Vec<_> = routers.into_iter().map(|router| router.name).collect();
        return render::show(session.json, &names, |names| render::lines(names));
    }
    render::show(session.json, &routers, |routers| {
        render::router::table(routers)
    })
}

/// `weft route`.
///
/// # Errors
/// No agent answers, or what was asked is refused.
pub(super) fn route(session: &Session, verb: Route) -> Result<(), Failure> {
    match verb {
        Route::Add {
            router,
            prefix,
            via,
        } => {
            let ([NextHopWord::Address(via)] | [NextHopWord::Via, NextHopWord::Address(via)]) =
                *via
            else {
                return Err(Failure::new("usage", "a route leads to PREFIX via one IP"));
            };
            let route = StaticRoute { prefix, via };
            let path = of(&router).segment("routes");
            let _: serde_json::Value = session.client.send(Method::POST, &path, &route)?;
            let done = json!({ "router": router, "prefix": prefix, "via": via });
            render::show(session.json, &done, |_| render::line(prefix))
        }
        Route::Rm { router, prefix } => {
            let path = of(&router).segment("routes").segment(prefix);
            let client = &session.client;
            client.request::<serde_json::Value>(Method::DELETE, &path)?;
            let done = json!({ "router": router, "prefix": prefix });
            render::show(session.json, &done, |_| render::line(prefix))
        }
        Route::Ls { router } => {
            let detail: RouterDetail = session.client.get(&of(&router))?;
            render::show(session.json, &detail.table, |table| {
                render::router::routes(table)
            })
        }
    }
}
