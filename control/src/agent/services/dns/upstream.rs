//! Asking other name servers: those that the operator named, or the host's own. Several are raced; who answered first last
//! time begins.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::message::{Question, UDP_MAX};

/// Port of a name server that says none.
const DNS_PORT: u16 = 53;
/// After this long without an answer the next server is asked too.
const HEAD_START: Duration = Duration::from_millis(150);
/// Between two tries of one server.
const AGAIN: Duration = Duration::from_millis(1500);
/// All of it: resolvers ask again after 5 s (glibc, musl).
const PATIENCE: Duration = Duration::from_millis(4500);
/// Most servers that are raced.
const MAX_SERVERS: usize = 8;
/// Longest answer over UDP that is read.
const UDP_BUFFER: usize = 4096;
/// The host's resolver configuration is looked at this often.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Whom to ask.
#[derive(Debug)]
pub(crate) struct Upstreams {
    source: Source,
    /// Place of the one that begins.
    first: AtomicUsize,
}

#[derive(Debug)]
enum Source {
    Given(Vec<SocketAddr>),
    File(PathBuf, Mutex<Followed>),
}

/// A resolv.conf as it was read last.
#[derive(Debug, Default)]
struct Followed {
    looked: Option<Instant>,
    changed: Option<SystemTime>,
    servers: Vec<SocketAddr>,
}

impl Upstreams {
    /// Those that were given, or else those of that resolv.conf(5).
    pub(crate) fn new(given: Vec<SocketAddr>, file: &Path) -> Self {
        let source = if given.is_empty() {
            Source::File(file.to_owned(), Mutex::default())
        } else {
            Source::Given(given)
        };
        Self {
            source,
            first: AtomicUsize::new(0),
        }
    }

    /// Whom to ask now, but `except`: addresses that are our own.
    pub(crate) fn servers(&self, except: &[IpAddr]) -> Vec<SocketAddr> {
        let mut servers = match &self.source {
            Source::Given(servers) => servers.clone(),
            Source::File(path, followed) => {
                let mut followed = followed.lock().unwrap_or_else(PoisonError::into_inner);
                followed.look(path);
                followed.servers.clone()
            }
        };
        servers.retain(|server| !except.contains(&server.ip()));
        servers.truncate(MAX_SERVERS);
        servers
    }

    /// Asks them all, one after the other with a head start, and takes the first answer that is one.
    pub(crate) async fn ask(&self, servers: &[SocketAddr], question: &Question) -> Option<Message> {
        timeout(PATIENCE, self.race(servers, question)).await.ok()?
    }

    async fn race(&self, servers: &[SocketAddr], question: &Question) -> Option<Message> {
        let mut order: Vec<(usize, SocketAddr)> = servers.iter().copied().enumerate().collect();
        if !order.is_empty() {
            let first = self.first.load(Ordering::Relaxed) % order.len();
            order.rotate_left(first);
        }
        let mut waiting = order.into_iter();
        let mut running = JoinSet::new();
        let mut refusal = None;
        loop {
            if let Some((place, server)) = waiting.next() {
                let question = question.clone();
                running.spawn(async move { (place, ask_one(server, &question).await) });
            } else if running.is_empty() {
                return refusal;
            }
            let head_start = if waiting.len() > 0 {
                HEAD_START
            } else {
                PATIENCE
            };
            let Ok(Some(Ok((place, answer)))) = timeout(head_start, running.join_next()).await
            else {
                continue;
            };
            match answer {
                Some(answer) if settles(&answer) => {
                    self.first.store(place, Ordering::Relaxed);
                    return Some(answer);
                }
                Some(answer) => refusal = Some(answer),
                None => {}
            }
        }
    }
}

/// Whether another server needn't be waited for.
fn settles(answer: &Message) -> bool {
    let code = answer.metadata.response_code;
    matches!(code, ResponseCode::NoError | ResponseCode::NXDomain)
}

impl Followed {
    fn look(&mut self, path: &Path) {
        if self
            .looked
            .is_some_and(|looked| looked.elapsed() < LOOK_AGAIN)
        {
            return;
        }
        self.looked = Some(Instant::now());
        let changed = std::fs::metadata(path)
            .and_then(|meta| meta.modified())
            .ok();
        if changed.is_some() && changed == self.changed {
            return;
        }
        self.changed = changed;
        let text = std::fs::read_to_string(path).unwrap_or_default();
        self.servers = name_servers(&text);
    }
}

/// The servers of a resolv.conf(5).
fn name_servers(text: &str) -> Vec<SocketAddr> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == "nameserver").then(|| words.next())?
    });
    lines.filter_map(name_server).collect()
}

fn name_server(text: &str) -> Option<SocketAddr> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(SocketAddr::new(ip, DNS_PORT));
    }
    // A link-local one with its interface (RFC 4007 section 11).
    let (ip, zone) = text.split_once('%')?;
    let ip: Ipv6Addr = ip.parse().ok()?;
    let zone = match zone.parse() {
        Ok(number) => number,
        Err(_) => nix::net::if_::if_nametoindex(zone).ok()?,
    };
    Some(SocketAddr::V6(SocketAddrV6::new(ip, DNS_PORT, 0, zone)))
}

/// One server's answer, over UDP, and over TCP if that was cut. Another try takes another port and another number, so
/// that what is guessed for one is useless for the other (RFC 5452).
async fn ask_one(server: SocketAddr, question: &Question) -> Option<Message> {
    loop {
        match timeout(AGAIN, ask_udp(server, question)).await {
            Ok(Ok(answer)) if !answer.metadata.truncation => return Some(answer),
            Ok(Ok(cut)) => return Some(ask_tcp(server, question).await.unwrap_or(cut)),
            // Nobody listens there.
            Ok(Err(_)) => return None,
            Err(_) => {}
        }
    }
}

/// The question as we ask it.
fn outgoing(question: &Question) -> Message {
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = question.recursion_desired;
    message.metadata.checking_disabled = question.checking_disabled;
    message.metadata.authentic_data = question.authentic_data;
    message.add_query(question.query.clone());
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_MAX).set_version(0);
    edns.set_dnssec_ok(question.dnssec_ok());
    message.set_edns(edns);
    message
}

/// The answer to what was asked; `None`: it is something else.
fn answer_to(asked: &Message, bytes: &[u8]) -> Option<Message> {
    let answer = Message::from_vec(bytes).ok()?;
    let same = |query: &Query, of: &Query| {
        query.name() == of.name()
            && query.query_type() == of.query_type()
            && query.query_class() == of.query_class()
    };
    let fits = answer.metadata.id == asked.metadata.id
        && answer.metadata.message_type == MessageType::Response
        && match answer.queries.as_slice() {
            [query] => same(query, asked.queries.first()?),
            // A server that can't read the question says so without it.
            [] => !settles(&answer),
            _ => false,
        };
    fits.then_some(answer)
}

async fn ask_udp(server: SocketAddr, question: &Question) -> std::io::Result<Message> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    // Only that server is heard, and "nobody listens" comes back as an error.
    socket.connect(server).await?;
    let asked = outgoing(question);
    let bytes = asked.to_vec().map_err(std::io::Error::other)?;
    socket.send(&bytes).await?;
    let mut buffer = vec![0; UDP_BUFFER];
    loop {
        let len = socket.recv(&mut buffer).await?;
        if let Some(answer) = answer_to(&asked, &buffer[..len]) {
            return Ok(answer);
        }
    }
}

async fn ask_tcp(server: SocketAddr, question: &Question) -> std::io::Result<Message> {
    let asked = outgoing(question);
    let bytes = asked.to_vec().map_err(std::io::Error::other)?;
    let len = u16::try_from(bytes.len()).map_err(std::io::Error::other)?;
    let mut stream = TcpStream::connect(server).await?;
    stream
        .write_all(&[&len.to_be_bytes()[..], &bytes].concat())
        .await?;
    let len = stream.read_u16().await?;
    let mut bytes = vec![0; usize::from(len)];
    stream.read_exact(&mut bytes).await?;
    answer_to(&asked, &bytes).ok_or_else(|| std::io::Error::other("another answer"))
}

#[cfg(test)]
mod tests;
