//! The part of the API about routers.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path as UrlPath, State};
use axum::response::Json;
use axum::routing::{delete, get, post};

use super::{ApiError, Door, Empty, Reply, body};
use crate::api;
use crate::channel::RouterChange;

pub(super) fn routes() -> Router<Door> {
    Router::new()
        .route("/v1/routers", get(routers).post(router_create))
        .route("/v1/routers/{name}", get(router_inspect).delete(router_rm))
        .route("/v1/routers/{name}/connect", post(router_connect))
        .route("/v1/routers/{name}/disconnect", post(router_disconnect))
        .route("/v1/routers/{name}/routes", get(list).post(route_add))
        .route("/v1/routers/{name}/routes/{prefix}", delete(route_rm))
}

async fn routers(State(door): State<Door>) -> Reply<Vec<api::RouterInfo>> {
    Ok(Json(door.agent()?.routers()))
}

async fn router_create(State(door): State<Door>, bytes: Bytes) -> Reply<api::RouterInfo> {
    let api::RouterCreate { name } = body(&bytes)?;
    Ok(Json(door.agent()?.router_create(name).await?))
}

async fn router_inspect(
    State(door): State<Door>,
    UrlPath(name): UrlPath<String>,
) -> Reply<api::RouterDetail> {
    Ok(Json(door.agent()?.router_inspect(&name).await?))
}

async fn router_rm(State(door): State<Door>, UrlPath(name): UrlPath<String>) -> Reply<Empty> {
    door.agent()?.router_rm(name).await?;
    Ok(Json(Empty {}))
}

async fn router_connect(
    State(door): State<Door>,
    UrlPath(name): UrlPath<String>,
    bytes: Bytes,
) -> Reply<api::RouterInfo> {
    let api::RouterNetworks { networks } = body(&bytes)?;
    let change = RouterChange::Connect { networks };
    Ok(Json(door.agent()?.router_change(name, change).await?))
}

async fn router_disconnect(
    State(door): State<Door>,
    UrlPath(name): UrlPath<String>,
    bytes: Bytes,
) -> Reply<api::RouterInfo> {
    let api::RouterNetworks { networks } = body(&bytes)?;
    let change = RouterChange::Disconnect { networks };
    Ok(Json(door.agent()?.router_change(name, change).await?))
}

async fn list(
    State(door): State<Door>,
    UrlPath(name): UrlPath<String>,
) -> Reply<Vec<api::StaticRoute>> {
    let router = door.agent()?.router_inspect(&name).await?;
    Ok(Json(router.router.routes))
}

async fn route_add(
    State(door): State<Door>,
    UrlPath(name): UrlPath<String>,
    bytes: Bytes,
) -> Reply<Empty> {
    let change = RouterChange::AddRoute {
        route: body(&bytes)?,
    };
    door.agent()?.router_change(name, change).await?;
    Ok(Json(Empty {}))
}

async fn route_rm(
    State(door): State<Door>,
    UrlPath((name, prefix)): UrlPath<(String, String)>,
) -> Reply<Empty> {
    let prefix = prefix
        .parse()
        .map_err(|_| ApiError::bad_request("bad_prefix", format!("{prefix:?} is no prefix")))?;
    let change = RouterChange::RemoveRoute { prefix };
    door.agent()?.router_change(name, change).await?;
    Ok(Json(Empty {}))
}
