//! The name server at every network's gateway address: names of the cluster's endpoints from the index, everything else
//! from other name servers.
//!
//! A question comes in as bytes with the asker's network and MAC. What is known here is answered on the spot; what isn't is
//! looked for in the cache and else asked on, in a task of its own. Whatever an asker does is bounded: how much of it is
//! under way at once, for it and for all, and how much is remembered. What is beyond a bound is dropped and counted: an
//! asker that means it asks again.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::sync::{Semaphore, broadcast};
use weft_wire::MacAddr;

use super::names::Names;
use crate::api;
use crate::model::NetworkId;

mod cache;
mod message;
mod ports;
pub(crate) mod tcp;
mod upstream;
mod zone;

use cache::{Cache, Heard, Key};
use message::{Parsed, Question};
use ports::WellKnownPorts;
use upstream::Upstreams;
use zone::Known;

/// Most questions that are asked on at once.
const MAX_ASKED: usize = 512;
/// Most questions of one port that wait for others' answers.
const MAX_WAITING_PER_PORT: usize = 64;
/// Longest answer over TCP (RFC 1035 section 4.2.2).
const TCP_MAX: u16 = u16::MAX;

/// How many names can have a turn of their own.
const TURNS: u64 = 1024;

/// Who asks: the network it asks on and its MAC, which the switch has checked.
pub(crate) type Asker = (NetworkId, MacAddr);

/// How an answer goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// In a datagram; the network's packets have that many bytes for it.
    Udp(u16),
    /// Over a connection.
    Tcp,
}

/// What the name server has done since it started.
#[derive(Debug, Default)]
struct Counters {
    /// Questions that could be read.
    questions: AtomicU64,
    /// Answered from the index.
    known: AtomicU64,
    /// Answered from the cache.
    cached: AtomicU64,
    /// Asked on.
    asked: AtomicU64,
    /// Nobody answered in time.
    failed: AtomicU64,
    /// Refused: no question, or one that isn't answered.
    refused: AtomicU64,
    /// Dropped beyond a bound.
    dropped: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The name server of this host, for all its networks.
#[derive(Debug)]
pub(crate) struct NameServer {
    names: ArcSwap<Names>,
    /// The gateways' addresses: to ask them would be to ask ourselves.
    own: ArcSwap<Vec<IpAddr>>,
    ports: WellKnownPorts,
    upstreams: Upstreams,
    cache: Mutex<Cache>,
    /// Questions that were asked on, with those who wait for the answer.
    asked: Mutex<HashMap<Key, broadcast::Sender<Heard>>>,
    may_ask: Arc<Semaphore>,
    waiting: Mutex<HashMap<Asker, usize>>,
    turns: Turns,
    counters: Counters,
}

/// Whose turn it is among several of one name. Resolvers ask for both families at once: each has its own turn. Names may
/// share one, which they then take by turns.
#[derive(Debug)]
struct Turns {
    places: Vec<AtomicUsize>,
    hasher: RandomState,
}

impl Turns {
    fn new() -> Self {
        Self {
            places: (0..TURNS).map(|_| AtomicUsize::new(0)).collect(),
            hasher: RandomState::new(),
        }
    }

    fn next(&self, (name, record_type): (&Name, RecordType)) -> usize {
        // A name's hash doesn't depend on its spelling.
        let hash = self.hasher.hash_one((name, record_type));
        let place = usize::try_from(hash % TURNS).unwrap_or(0);
        self.places[place].fetch_add(1, Ordering::Relaxed)
    }
}

/// What became of a question.
pub(crate) enum Outcome {
    /// This is the answer.
    Answer(Vec<u8>),
    /// It has to be asked on: [`Waiting::answer`].
    Wait(Waiting),
    /// Nothing is said.
    Nothing,
}

impl NameServer {
    /// A server without names yet. Without `upstreams` those of the resolv.conf(5) `file` are asked.
    pub(crate) fn new(upstreams: Vec<SocketAddr>, file: &Path) -> Arc<Self> {
        Arc::new(Self {
            names: ArcSwap::default(),
            own: ArcSwap::default(),
            ports: WellKnownPorts::new(Path::new("/etc/services")),
            upstreams: Upstreams::new(upstreams, file),
            cache: Mutex::default(),
            asked: Mutex::default(),
            may_ask: Arc::new(Semaphore::new(MAX_ASKED)),
            waiting: Mutex::default(),
            turns: Turns::new(),
            counters: Counters::default(),
        })
    }

    /// From now on these are the names, and these the gateways' addresses.
    pub(crate) fn publish(&self, names: Names, own: Vec<IpAddr>) {
        self.names.store(Arc::new(names));
        self.own.store(Arc::new(own));
    }

    /// The names of some networks are others now.
    pub(crate) fn renew(&self, renew: impl FnOnce(&mut Names)) {
        let mut names = Names::clone(&self.names.load());
        renew(&mut names);
        self.names.store(Arc::new(names));
    }

    /// What was dropped before it was read.
    pub(crate) fn count_dropped(&self) {
        count(&self.counters.dropped);
    }

    /// What was done, and whom is asked.
    pub(crate) fn view(&self) -> api::Dns {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        api::Dns {
            upstreams: self.upstreams.servers(&self.own.load()),
            questions: read(&self.counters.questions),
            known: read(&self.counters.known),
            cached: read(&self.counters.cached),
            asked: read(&self.counters.asked),
            failed: read(&self.counters.failed),
            refused: read(&self.counters.refused),
            dropped: read(&self.counters.dropped),
        }
    }

    /// Takes a question.
    pub(crate) fn handle(self: &Arc<Self>, asker: &Asker, bytes: &[u8], room: Room) -> Outcome {
        let question = match message::parse(bytes) {
            Parsed::Question(question) => question,
            Parsed::Refused(message) => {
                count(&self.counters.refused);
                return sent(*message, limit(None, room));
            }
            Parsed::Ignored => {
                count(&self.counters.refused);
                return Outcome::Nothing;
            }
        };
        count(&self.counters.questions);
        let limit = limit(Some(&question), room);
        let names = self.names.load();
        let view = names.seen_by(&asker.0, asker.1);
        let port = |service: &str, protocol: &str| self.ports.lookup(service, protocol);
        let asked = (question.query.name(), question.query.query_type());
        let turn = self.turns.next(asked);
        let code = match zone::look_up(&view, asked, turn, &port) {
            Known::Records {
                answers,
                additionals,
            } => {
                count(&self.counters.known);
                let mut message = question.reply(ResponseCode::NoError);
                message.metadata.authoritative = true;
                message.answers = answers;
                message.additionals = additionals;
                return sent(message, limit);
            }
            Known::NoData => ResponseCode::NoError,
            Known::NoName => ResponseCode::NXDomain,
            Known::Elsewhere if view.has_way_out() => {
                return self.elsewhere(asker, question, limit);
            }
            // There is nothing but what is known here.
            Known::Elsewhere => ResponseCode::NXDomain,
        };
        count(&self.counters.known);
        let mut message = question.reply(code);
        message.metadata.authoritative = true;
        message
            .authorities
            .push(zone::start_of_authority(question.query.name()));
        sent(message, limit)
    }

    fn elsewhere(self: &Arc<Self>, asker: &Asker, question: Question, limit: u16) -> Outcome {
        let key = Key::of(&question);
        if let Some((heard, age)) = lock(&self.cache).lookup(&key, Instant::now()) {
            count(&self.counters.cached);
            return sent(pass_on(&question, heard.as_deref(), age), limit);
        }
        let servers = self.upstreams.servers(&self.own.load());
        if servers.is_empty() {
            // Nobody could know it.
            let mut message = question.reply(ResponseCode::NXDomain);
            message
                .authorities
                .push(zone::start_of_authority(question.query.name()));
            return sent(message, limit);
        }
        match self.ask_on(asker, key, (&question, servers)) {
            Some((answer, turn)) => Outcome::Wait(Waiting {
                question,
                limit,
                answer,
                _turn: turn,
            }),
            None => {
                count(&self.counters.dropped);
                Outcome::Nothing
            }
        }
    }

    /// Asks on, or waits with those who asked the same a moment ago; `None` beyond a bound.
    fn ask_on(
        self: &Arc<Self>,
        asker: &Asker,
        key: Key,
        (question, servers): (&Question, Vec<SocketAddr>),
    ) -> Option<(broadcast::Receiver<Heard>, Turn)> {
        let turn = self.take_turn(asker)?;
        let mut asked = lock(&self.asked);
        if let Some(answer) = asked.get(&key) {
            return Some((answer.subscribe(), turn));
        }
        let may_ask = Arc::clone(&self.may_ask).try_acquire_owned().ok()?;
        let (answer, wait) = broadcast::channel(1);
        asked.insert(key.clone(), answer);
        drop(asked);
        count(&self.counters.asked);
        let question = question.clone();
        let pending = Pending {
            server: Arc::clone(self),
            key: Some(key),
        };
        tokio::spawn(async move {
            let _may_ask = may_ask;
            let server = Arc::clone(&pending.server);
            let heard = server
                .upstreams
                .ask(&servers, &question)
                .await
                .map(Arc::new);
            if heard.is_none() {
                count(&server.counters.failed);
            }
            pending.end(heard);
        });
        Some((wait, turn))
    }

    /// A place among those of one asker who wait.
    fn take_turn(self: &Arc<Self>, asker: &Asker) -> Option<Turn> {
        let mut waiting = lock(&self.waiting);
        let count = waiting.entry(asker.clone()).or_default();
        if *count >= MAX_WAITING_PER_PORT {
            return None;
        }
        *count += 1;
        Some(Turn {
            server: Arc::clone(self),
            asker: asker.clone(),
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn limit(question: Option<&Question>, room: Room) -> u16 {
    match (room, question) {
        (Room::Udp(room), Some(question)) => question.udp_limit(room),
        (Room::Udp(room), None) => room,
        (Room::Tcp, _) => TCP_MAX,
    }
}

fn sent(message: Message, limit: u16) -> Outcome {
    message::encode(message, limit).map_or(Outcome::Nothing, Outcome::Answer)
}

fn pass_on(question: &Question, heard: Option<&Message>, age: u32) -> Message {
    match heard {
        Some(heard) => question.pass_on(heard, age),
        None => question.reply(ResponseCode::ServFail),
    }
}

/// A question that was asked on. Whatever becomes of its task, nobody waits for it longer than that.
struct Pending {
    server: Arc<NameServer>,
    /// Taken when it has ended.
    key: Option<Key>,
}

impl Pending {
    /// Tells those who wait.
    fn end(mut self, heard: Heard) {
        if let Some(key) = self.key.take() {
            lock(&self.server.cache).insert(key.clone(), heard.clone(), Instant::now());
            if let Some(answer) = lock(&self.server.asked).remove(&key) {
                // Those who waited may have gone.
                let _ = answer.send(heard);
            }
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            lock(&self.server.asked).remove(&key);
        }
    }
}

/// A question that waits for others' answer.
pub(crate) struct Waiting {
    question: Question,
    limit: u16,
    answer: broadcast::Receiver<Heard>,
    _turn: Turn,
}

impl Waiting {
    /// The answer, when it is there: within some seconds, be it that there is none.
    pub(crate) async fn answer(mut self) -> Option<Vec<u8>> {
        let heard = self.answer.recv().await.unwrap_or(None);
        let message = pass_on(&self.question, heard.as_deref(), 0);
        message::encode(message, self.limit)
    }
}

/// Counts a question that waits for as long as it lives.
struct Turn {
    server: Arc<NameServer>,
    asker: Asker,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut waiting = lock(&self.server.waiting);
        if let Some(count) = waiting.get_mut(&self.asker) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.asker);
            }
        }
    }
}

#[cfg(test)]
mod tests;
