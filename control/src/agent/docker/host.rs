//! Docker's own API, read in our own time: never while a call of Docker's waits for us. It says what containers are called,
//! so that names work across hosts, and which of the things we keep for it Docker has forgotten.
//!
//! Without it (no socket, no permission) everything but names works, and what a crashed dockerd forgot stays.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use nix::sys::stat::fstat;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};
use weft_switch::port;

use super::{DockerConfig, now, short};
use crate::agent::{Agent, ApiError};
use crate::api::Attachment;
use crate::docker::host::{self as said, Attached, Event};
use crate::docker::ledger::Known;
use crate::model::{Endpoint, EndpointId};

/// Between two tries to reach dockerd.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// How long dockerd may take for one answer. It may be busy with a call of ours that waits for something.
const ANSWER_PATIENCE: Duration = Duration::from_secs(20);
/// dockerd notes what it asked for within moments; what is older than this and unknown to it was forgotten in a crash.
const FORGOTTEN_SECS: u64 = 30;
/// Between two looks for such things.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// An event is one line of some hundred bytes; a longer line is none.
const EVENT_MAX_BYTES: usize = 1 << 20;

/// Follows dockerd until the agent stops.
pub(in crate::agent) async fn follow(agent: Arc<Agent>, config: DockerConfig) {
    let mut said = None;
    let mut stopped = agent.stopped.subscribe();
    loop {
        let ended = tokio::select! {
            ended = session(&agent, &config, &mut said) => ended,
            _ = stopped.wait_for(|stopped| *stopped) => return,
        };
        if let Err(error) = ended {
            let why = error.to_string();
            if said.as_ref() != Some(&why) {
                info!(docker = %config.host.display(), why, "Docker's API can't be read now: names of containers wait for it");
                said = Some(why);
            }
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
}

/// One connection's worth of events.
async fn session(
    agent: &Arc<Agent>,
    config: &DockerConfig,
    said: &mut Option<String>,
) -> io::Result<()> {
    // First listen, then look: nothing is missed in between.
    let filters = r#"{"type":["network","container"]}"#;
    let path = format!("/events?filters={}", percent_encoded(filters));
    let mut events = Connection::open(&config.host).await?.get(&path).await?;
    let driver = config.driver();
    let mut networks = look_around(agent, config, (&driver, Look::All)).await?;
    if said.take().is_some() {
        info!(docker = %config.host.display(), "Docker's API answers again");
    }
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.tick().await;
    let mut line = Vec::new();
    loop {
        let frame = tokio::select! {
            frame = events.response.frame() => frame,
            _ = look.tick() => {
                networks = look_around(agent, config, (&driver, Look::Unnamed)).await?;
                continue;
            }
        };
        let Some(frame) = frame else {
            return Err(io::Error::other("dockerd ended the stream of events"));
        };
        let frame = frame.map_err(io::Error::other)?;
        line.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
        while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            let rest = line.split_off(end + 1);
            let event = serde_json::from_slice::<Value>(&line).ok();
            line = rest;
            match event.as_ref().and_then(said::event) {
                Some(Event::Container(id)) => look_at(agent, config, (&id, &networks)).await,
                Some(Event::Networks) => {
                    let list = get_json(&config.host, "/networks").await?;
                    networks = said::networks(&list, &driver);
                }
                None => {}
            }
        }
        if line.len() > EVENT_MAX_BYTES {
            return Err(io::Error::other("dockerd sent an event without end"));
        }
    }
}

/// Which containers are asked for their names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    /// All: something may have been missed.
    All,
    /// Those whose names aren't known yet.
    Unnamed,
}

/// Containers on our networks; and what Docker has forgotten.
async fn look_around(
    agent: &Arc<Agent>,
    config: &DockerConfig,
    (driver, look): (&str, Look),
) -> io::Result<BTreeSet<String>> {
    let started = now();
    let networks = said::networks(&get_json(&config.host, "/networks").await?, driver);
    let list = get_json(&config.host, "/containers/json?all=1").await?;
    let mut known = Known {
        networks: networks.clone(),
        endpoints: BTreeSet::new(),
    };
    for (container, endpoint) in said::endpoints_on(&list, &networks) {
        if look == Look::All || agent.is_unnamed(&endpoint) {
            look_at(agent, config, (&container, &networks)).await;
        }
        known.endpoints.insert(endpoint);
    }
    let before = started.saturating_sub(FORGOTTEN_SECS);
    agent.drop_forgotten(&known, before).await;
    Ok(networks)
}

async fn look_at(
    agent: &Arc<Agent>,
    config: &DockerConfig,
    (id, networks): (&str, &BTreeSet<String>),
) {
    let container = match inspect(&config.host, id).await {
        Ok(Some(container)) => container,
        // Gone again already is fine.
        Ok(None) => return,
        Err(error) => {
            // One that dockerd can't tell of (it hangs, its files are damaged) is no reason to leave the others.
            warn!(container = short(id), %error, "Docker doesn't say what this container is called");
            return;
        }
    };
    for attached in said::attached(&container, networks) {
        agent.name_port(attached).await;
    }
}

async fn inspect(socket: &Path, id: &str) -> io::Result<Option<Value>> {
    let path = format!("/containers/{}/json", percent_encoded(id));
    match get_json(socket, &path).await {
        Ok(container) => Ok(Some(container)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

async fn get_json(socket: &Path, path: &str) -> io::Result<Value> {
    let answer = async {
        let answer = Connection::open(socket).await?.get(path).await?;
        let body = answer.response.collect().await.map_err(io::Error::other)?;
        serde_json::from_slice(&body.to_bytes()).map_err(io::Error::other)
    };
    let answer = tokio::time::timeout(ANSWER_PATIENCE, answer).await;
    answer.unwrap_or_else(|_| Err(io::Error::other("dockerd doesn't answer")))
}

/// A connection to dockerd, for one request.
struct Connection {
    sender: hyper::client::conn::http1::SendRequest<Empty<Bytes>>,
    driver: Task,
}

/// What came back. The connection lives as long as this.
struct Answer {
    response: Incoming,
    _driver: Task,
}

/// Ends with its handle.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Connection {
    async fn open(socket: &Path) -> io::Result<Self> {
        let stream = TokioIo::new(UnixStream::connect(socket).await?);
        let (sender, connection) = hyper::client::conn::http1::handshake(stream)
            .await
            .map_err(io::Error::other)?;
        let driver = tokio::spawn(async move {
            // Whoever waits for the answer hears of an error.
            let _ = connection.await;
        });
        let driver = Task(driver);
        Ok(Self { sender, driver })
    }

    async fn get(mut self, path: &str) -> io::Result<Answer> {
        let request = Request::get(path)
            .header(header::HOST, "docker")
            .body(Empty::new())
            .map_err(io::Error::other)?;
        let sent = self.sender.send_request(request);
        let answer = tokio::time::timeout(ANSWER_PATIENCE, sent).await;
        let answer = answer.map_err(|_| io::Error::other("dockerd doesn't answer"))?;
        let response: Response<Incoming> = answer.map_err(io::Error::other)?;
        match response.status() {
            StatusCode::OK => Ok(Answer {
                response: response.into_body(),
                _driver: self.driver,
            }),
            StatusCode::NOT_FOUND => Err(io::ErrorKind::NotFound.into()),
            status => Err(io::Error::other(format!("dockerd answers {status}"))),
        }
    }
}

/// RFC 3986 section 2.1, for a query or a part of a path.
fn percent_encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| match plain(byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}

impl Agent {
    /// Whether it isn't known yet whose interface that is.
    fn is_unnamed(&self, docker_endpoint: &str) -> bool {
        let ledger = self.docker.ledger();
        let Some(entry) = ledger.endpoint(docker_endpoint) else {
            return false;
        };
        let id = entry.endpoint.id.clone();
        drop(ledger);
        let inner = self.inner();
        let port = inner.ports.get(&id);
        port.is_some_and(|port| port.record.attachment.is_none())
    }

    /// A container's interface gets its container's names.
    async fn name_port(self: &Arc<Self>, attached: Attached) {
        let docker_endpoint = attached.endpoint.clone();
        let Some(endpoint) = self.renamed(attached) else {
            return;
        };
        info!(port = %endpoint.name, docker_endpoint = short(&docker_endpoint), "container's name learned");
        let told = self.save_ports().await;
        let told = match told {
            Ok(()) => self.announce(&endpoint).await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = told {
            // Looked at again soon.
            warn!(port = %endpoint.name, error = %error.reply.message, "the container's name could not be told");
            self.tell_later();
        }
        self.changed.notify_one();
    }

    /// The endpoint as it is called from now on; `None` when nothing of it changed.
    fn renamed(&self, attached: Attached) -> Option<Endpoint> {
        let id = {
            let ledger = self.docker.ledger();
            ledger.endpoint(&attached.endpoint)?.endpoint.id.clone()
        };
        let mut inner = self.inner();
        let port = inner.ports.get(&id)?;
        let fd = port.fds.first().map(AsFd::as_fd);
        let ifname = fd.and_then(|fd| port::device_name(fd).ok());
        let netns_id = fd.and_then(netns_of).unwrap_or(port.record.netns_id);
        let (current, network) = (port.record.endpoint.clone(), &port.record.endpoint.network);
        let mut aliases = attached.aliases;
        let mut name = attached
            .name
            .clone()
            .unwrap_or_else(|| current.name.clone());
        let taken = |name: &str| {
            let mut known = inner.known_endpoints(network, &self.facts.node);
            known.any(|other| other.id != id && other.name == name)
        };
        if taken(&name) {
            // A container of that name on another host: both answer to it, each has a name of its own.
            aliases.insert(0, name.clone());
            let own = format!("{name}-{}", self.facts.node_name);
            let fits = crate::model::check_name("endpoint", &own).is_ok() && !taken(&own);
            name = if fits { own } else { current.name.clone() };
        }
        aliases.retain(|alias| *alias != name);
        let attachment = Attachment {
            owner: "docker".to_owned(),
            container: attached.container,
            ifname: ifname.clone().unwrap_or_default(),
        };
        let port = inner.ports.get_mut(&id)?;
        let record = &mut port.record;
        let same = record.endpoint.name == name
            && record.endpoint.aliases == aliases
            && record.attachment.as_ref() == Some(&attachment)
            && record.netns_id == netns_id;
        if same {
            return None;
        }
        record.endpoint.name = name;
        record.endpoint.aliases = aliases;
        record.attachment = Some(attachment);
        // Only now that Docker has moved it: what it resolves to depends on it.
        record.netns_id = netns_id;
        record.ifname = ifname.unwrap_or_else(|| record.ifname.clone());
        Some(record.endpoint.clone())
    }

    /// Gives back what Docker has forgotten. An interface that is in a container is in use, whatever Docker says.
    async fn drop_forgotten(self: &Arc<Self>, known: &Known, before: u64) {
        let forgotten = self.docker.ledger().forgotten(known, before);
        for id in forgotten.endpoints {
            let endpoint = {
                let ledger = self.docker.ledger();
                ledger.endpoint(&id).map(|entry| entry.endpoint.clone())
            };
            let Some(endpoint) = endpoint else { continue };
            if self.is_in_container(&endpoint.id) {
                debug!(port = %endpoint.name, "Docker doesn't know this endpoint, but it is in use");
                continue;
            }
            warn!(port = %endpoint.name, docker_endpoint = short(&id), "Docker forgot this endpoint; it is removed");
            let ips = endpoint.ips.clone();
            self.log_failure(self.docker_delete_endpoint(id).await);
            let released = self.note(move |ledger| ledger.release_everywhere(&ips));
            self.log_failure(released.await);
        }
        for (pool, ip) in forgotten.addresses {
            warn!(%ip, pool, "Docker asked for this address and never used it; it is free again");
            self.log_failure(self.docker_release_address(pool, ip).await);
        }
        for id in forgotten.networks {
            warn!(
                docker_network = short(&id),
                "Docker forgot this network; it is removed"
            );
            self.log_failure(self.docker_delete_network(id).await);
        }
        for pool in forgotten.pools {
            self.log_failure(self.docker_release_pool(pool).await);
        }
    }

    fn log_failure<T>(&self, result: Result<T, ApiError>) {
        if let Err(error) = result {
            warn!(error = %error.reply.message, node = %self.facts.node_name, "what Docker forgot could not be given back");
        }
    }

    /// Whether an endpoint's interface is in another namespace than the agent's own.
    fn is_in_container(&self, id: &EndpointId) -> bool {
        let inner = self.inner();
        let Some(fd) = inner.ports.get(id).and_then(|port| port.fds.first()) else {
            return false;
        };
        let there = netns_of(fd.as_fd());
        let here = nix::sys::stat::stat("/proc/thread-self/ns/net").ok();
        there.is_some() && there != here.map(|stat| (stat.st_dev, stat.st_ino))
    }
}

/// Device and inode of the namespace that a TAP is in now.
fn netns_of(tap: BorrowedFd<'_>) -> Option<(u64, u64)> {
    let netns = port::device_netns(tap).ok()?;
    let stat = fstat(&netns).ok()?;
    Some((stat.st_dev, stat.st_ino))
}
