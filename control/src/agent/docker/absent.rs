//! Who answers Docker while the agent is stopped. dockerd looks for a driver that isn't there for a quarter of a minute, for
//! every endpoint that it still has, one after the other, before its own API answers. So an agent that ends in good order
//! while Docker has endpoints leaves a process behind that says at once that it is stopped. It ends when the socket is
//! another's or gone, and the next agent takes the socket over.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use axum::http::HeaderValue;
use axum::http::header::CONNECTION;
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::post;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tracing::{info, warn};

use super::serve::{Plugin, router};
use crate::agent::serve::{Phase, bind};

/// By this it is told from an agent. Docker calls nothing of that name.
const STAND_IN: &str = "/Weft.StandIn";
/// How long it may take to answer that.
const ANSWER_PATIENCE: Duration = Duration::from_secs(1);
/// How often it looks whether the socket is still its own.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// What Docker is told.
const STOPPED: &str =
    "it was stopped (start it with `systemctl start weft-agent` or `weft agent run`)";

/// Serves `socket` until it is another's or gone.
///
/// # Errors
/// The socket can't be had, or the kernel refuses.
pub fn stand_in(socket: &Path) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = bind(socket).map_err(io::Error::other)?;
        let own = file(socket);
        let (_phase, phases) = watch::channel(Phase::Joining(STOPPED.to_owned()));
        let router = router(Plugin::new(phases))
            .route(STAND_IN, post(|| async { "{}" }))
            .layer(map_response(hang_up));
        let ended = async {
            while own.is_some() && file(socket) == own {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        // A connection that dockerd keeps open is no reason to stay.
        tokio::select! {
            served = axum::serve(UnixListener::from_std(listener)?, router).into_future() => served,
            () = ended => Ok(()),
        }
    })
}

/// Docker comes anew for each call, and so finds the agent as soon as there is one.
async fn hang_up(mut response: Response) -> Response {
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(CONNECTION, close);
    response
}

fn file(path: &Path) -> Option<(u64, u64)> {
    let file = fs::metadata(path).ok()?;
    Some((file.dev(), file.ino()))
}

/// Whether what answers at `socket` is no agent.
pub(in crate::agent) fn is_stand_in(socket: &Path) -> bool {
    let asked = || -> io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(ANSWER_PATIENCE))?;
        stream.set_write_timeout(Some(ANSWER_PATIENCE))?;
        let head = format!("POST {STAND_IN} HTTP/1.1\r\nHost: weft\r\nContent-Length: 0\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        let mut status = vec![0; "HTTP/1.1 200".len()];
        stream.read_exact(&mut status)?;
        Ok(status)
    };
    asked().is_ok_and(|status| status == b"HTTP/1.1 200")
}

/// Leaves a stand-in behind.
pub(in crate::agent) fn leave(exe: &Path, socket: &Path) {
    let spawned = Command::new(exe)
        .arg("--socket")
        .arg(socket)
        .arg("docker-stand-in")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn();
    match spawned {
        Ok(child) => info!(
            pid = child.id(),
            "Docker is told that the agent is stopped, by a small process"
        ),
        Err(error) => {
            warn!(%error, "nobody tells Docker that the agent is stopped: it will wait for it")
        }
    }
}
