//! The other controllers of the cluster, when the store is shared: where they are, which nodes they have, and asking
//! those nodes through them. All of that goes through the store, as keys with their controller's lease:
//!
//! | key | value (JSON) |
//! |---|---|
//! | `controllers/ID` | where agents reach that controller |
//! | `nodes/NODE` | which controller has that node's session |
//! | `asks/ID/NONCE` | a question for a node of that controller |
//! | `answers/ID/NONCE` | the answer, for the controller that asked |
//!
//! A controller whose lease ended doesn't know what the others do any more, so it lets its agents go: they find another
//! one. So there is a session at one controller at a time, and what all say of who is connected is the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::session::ASK_PATIENCE;
use super::{Core, stopped};
use crate::channel::{Answer, Ask};
use crate::model::NodeId;
use crate::store::StoreError;
use crate::store::etcd::EtcdStore;
use crate::store::etcd::live::{LEASE_SECS, Live, LiveEvent, Wanted};

/// The way to the other controller and back, through the store, beside what its node may take.
const WAY_PATIENCE: Duration = Duration::from_secs(1);
/// How long a starting controller tries to be known to the others.
const START_PATIENCE: Duration = Duration::from_secs(10);

const CONTROLLERS: &str = "controllers/";
const NODES: &str = "nodes/";
const ASKS: &str = "asks/";
const ANSWERS: &str = "answers/";

/// A controller, as it tells the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct About {
    addresses: Vec<SocketAddr>,
    version: String,
}

/// Who has a node's session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Presence {
    controller: String,
    session: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Question {
    from: String,
    node: NodeId,
    ask: Ask,
}

/// Where an answer goes.
type Asker = oneshot::Sender<Result<Answer, String>>;

/// What all controllers say.
#[derive(Debug, Default)]
struct View {
    controllers: BTreeMap<String, About>,
    nodes: BTreeMap<NodeId, Presence>,
}

/// A question under way; nothing of it stays, also when nobody waits for the answer any more.
struct Asked<'a> {
    fellows: &'a Fellows,
    live: &'a Live,
    key: String,
    nonce: String,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.fellows.askers().remove(&self.nonce);
        let answer = format!("{ANSWERS}{}/{}", self.fellows.id, self.nonce);
        self.live.forget([std::mem::take(&mut self.key), answer]);
    }
}

/// The other controllers. There are none when the store is embedded.
#[derive(Debug)]
pub(super) struct Fellows {
    /// This controller's, made anew at each start.
    id: String,
    live: Option<Live>,
    about: About,
    wanted: watch::Sender<Wanted>,
    view: Mutex<View>,
    addresses: watch::Sender<Vec<SocketAddr>>,
    askers: Mutex<HashMap<String, Asker>>,
    /// Answers for all nodes.
    #[cfg(test)]
    player: Player,
}

/// What a test lets nodes answer.
#[cfg(test)]
#[derive(Default)]
struct Player(Option<Play>);

#[cfg(test)]
pub(super) type Play = Box<dyn Fn(NodeId, Ask) -> Option<Result<Answer, String>> + Send + Sync>;

#[cfg(test)]
impl std::fmt::Debug for Player {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Player")
    }
}

impl Fellows {
    /// A controller that has its store for itself.
    fn none(addresses: Vec<SocketAddr>) -> Self {
        Self {
            id: String::new(),
            live: None,
            about: about(addresses),
            wanted: watch::Sender::default(),
            view: Mutex::default(),
            addresses: watch::Sender::default(),
            askers: Mutex::default(),
            #[cfg(test)]
            player: Player::default(),
        }
    }

    /// With the events of a store that is shared.
    ///
    /// # Errors
    /// [`StoreError::Etcd`]: the store can't be written.
    pub(super) async fn of(
        shared: Option<EtcdStore>,
        addresses: Vec<SocketAddr>,
    ) -> Result<(Self, Option<mpsc::Receiver<LiveEvent>>), StoreError> {
        let Some(store) = shared else {
            return Ok((Self::none(addresses), None));
        };
        let (fellows, events) = Self::meet(&store, addresses).await?;
        Ok((fellows, Some(events)))
    }

    /// Makes this controller known to the others of that store.
    ///
    /// # Errors
    /// [`StoreError::Etcd`]: the store can't be written.
    async fn meet(
        store: &EtcdStore,
        addresses: Vec<SocketAddr>,
    ) -> Result<(Self, mpsc::Receiver<LiveEvent>), StoreError> {
        let id = format!("{:016x}", rand::random::<u64>());
        let wanted = watch::Sender::default();
        let (live, events) = Live::start(store, wanted.subscribe());
        let fellows = Self {
            id,
            live: Some(live),
            about: about(addresses.clone()),
            wanted,
            view: Mutex::default(),
            addresses: watch::Sender::new(addresses),
            askers: Mutex::default(),
            #[cfg(test)]
            player: Player::default(),
        };
        fellows.want(&BTreeMap::new());
        let mut lease = fellows.lease();
        let known = timeout(START_PATIENCE, lease.wait_for(Option::is_some)).await;
        if known.is_err() {
            let seconds = START_PATIENCE.as_secs();
            return Err(store.unusable(&format!("it could not be written for {seconds} s")));
        }
        drop(known);
        Ok((fellows, events))
    }

    /// One of several controllers; nodes answer as the test says.
    #[cfg(test)]
    pub(super) fn played(id: String, play: Play) -> Self {
        Self {
            id,
            player: Player(Some(play)),
            ..Self::none(Vec::new())
        }
    }

    fn lease(&self) -> watch::Receiver<Option<i64>> {
        match &self.live {
            Some(live) => live.lease(),
            None => watch::Sender::new(Some(0)).subscribe(),
        }
    }

    /// This controller's name among those of its store; `None` when it has the store for itself.
    pub(super) fn name(&self) -> Option<&str> {
        (!self.id.is_empty()).then_some(&*self.id)
    }

    /// Whether this controller can't know what the others do.
    pub(super) fn is_cut_off(&self) -> bool {
        self.live.is_some() && self.lease().borrow().is_none()
    }

    /// Where agents reach the controllers of this cluster, as far as they say so; empty when there is only this one.
    pub(super) fn addresses(&self) -> watch::Receiver<Vec<SocketAddr>> {
        self.addresses.subscribe()
    }

    /// Nodes with a session at another controller.
    pub(super) fn connected(&self) -> BTreeSet<NodeId> {
        let view = self.view();
        let elsewhere = view.nodes.iter().filter(|(_, at)| at.controller != self.id);
        elsewhere.map(|(node, _)| node.clone()).collect()
    }

    /// Asks a node that has its session elsewhere; `None` when it has none.
    pub(super) async fn ask(&self, node: &NodeId, ask: Ask) -> Option<Result<Answer, String>> {
        #[cfg(test)]
        if let Some(play) = &self.player.0 {
            return play(node.clone(), ask);
        }
        let live = self.live.as_ref()?;
        let at = self.view().nodes.get(node).cloned()?;
        if at.controller == self.id {
            return None;
        }
        let nonce = format!("{:016x}", rand::random::<u64>());
        let question = Question {
            from: self.id.clone(),
            node: node.clone(),
            ask,
        };
        let (asker, answer) = oneshot::channel();
        self.askers().insert(nonce.clone(), asker);
        let key = format!("{ASKS}{}/{nonce}", at.controller);
        let asked = Asked {
            fellows: self,
            live,
            key,
            nonce,
        };
        if let Err(error) = live.send(&asked.key, to_json(&question), &[]).await {
            return Some(Err(error.to_string()));
        }
        let heard = timeout(ASK_PATIENCE + WAY_PATIENCE, answer).await;
        Some(match heard {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err("nor does the controller it is connected to".to_owned()),
        })
    }

    /// Ends well: the others hear at once.
    pub(super) async fn leave(&self) {
        if let Some(live) = &self.live {
            live.close().await;
        }
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn askers(&self) -> MutexGuard<'_, HashMap<String, Asker>> {
        self.askers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the others who is connected here.
    fn want(&self, roster: &BTreeMap<NodeId, u64>) {
        let ours = roster.iter().map(|(node, session)| {
            let presence = Presence {
                controller: self.id.clone(),
                session: *session,
            };
            (format!("{NODES}{node}"), to_json(&presence))
        });
        let about = (format!("{CONTROLLERS}{}", self.id), to_json(&self.about));
        let wanted: BTreeMap<_, _> = ours.chain([about]).collect();
        self.wanted.send_replace(Arc::new(wanted));
    }

    fn take(&self, event: LiveEvent) -> Option<News> {
        match event {
            LiveEvent::All(all) => {
                *self.view() = View::default();
                for (key, value) in all {
                    self.put(&key, &value);
                }
                self.tell_addresses();
                None
            }
            LiveEvent::Put(key, value) => {
                let news = self.put(&key, &value);
                if key.starts_with(CONTROLLERS) {
                    self.tell_addresses();
                }
                news
            }
            LiveEvent::Gone(key) => {
                if let Some(id) = key.strip_prefix(CONTROLLERS) {
                    self.view().controllers.remove(id);
                    self.tell_addresses();
                } else if let Some(node) = key.strip_prefix(NODES) {
                    self.view().nodes.remove(&NodeId(node.to_owned()));
                }
                None
            }
        }
    }

    fn put(&self, key: &str, value: &[u8]) -> Option<News> {
        let unreadable = |error: &dyn std::fmt::Display| debug!(key, %error, "what another controller says can't be read");
        if let Some(id) = key.strip_prefix(CONTROLLERS) {
            match serde_json::from_slice(value) {
                Ok(about) => drop(self.view().controllers.insert(id.to_owned(), about)),
                Err(error) => unreadable(&error),
            }
            return None;
        }
        if let Some(node) = key.strip_prefix(NODES) {
            let presence: Presence = match serde_json::from_slice(value) {
                Ok(presence) => presence,
                Err(error) => {
                    unreadable(&error);
                    return None;
                }
            };
            let node = NodeId(node.to_owned());
            let elsewhere = presence.controller != self.id;
            let before = self.view().nodes.insert(node.clone(), presence);
            // Events come in the order of the writes: ours was there, theirs is newer.
            let before = before.filter(|before| elsewhere && before.controller == self.id)?;
            return Some(News::Moved {
                node,
                session: before.session,
            });
        }
        if let Some((to, nonce)) = key.strip_prefix(ASKS).and_then(|rest| rest.split_once('/')) {
            if to != self.id {
                return None;
            }
            return match serde_json::from_slice(value) {
                Ok(question) => Some(News::Asked {
                    nonce: nonce.to_owned(),
                    question,
                }),
                Err(error) => {
                    unreadable(&error);
                    None
                }
            };
        }
        let (to, nonce) = key.strip_prefix(ANSWERS)?.split_once('/')?;
        let asker = self.askers().remove(nonce).filter(|_| to == self.id)?;
        let answer = serde_json::from_slice(value).unwrap_or_else(|error| Err(error.to_string()));
        // Whoever asked may have lost patience.
        let _ = asker.send(answer);
        None
    }

    fn tell_addresses(&self) {
        let mut all: Vec<SocketAddr> = {
            let view = self.view();
            view.controllers
                .values()
                .flat_map(|about| about.addresses.clone())
                .collect()
        };
        all.sort_unstable();
        all.dedup();
        self.addresses.send_if_modified(|known| {
            // While nobody is seen the store can't be read, or has just been: that's no news.
            let is_news = !all.is_empty() && *known != all;
            if is_news {
                known.clone_from(&all);
            }
            is_news
        });
    }
}

/// What the others want of this controller.
enum News {
    /// A node has a newer session elsewhere.
    Moved { node: NodeId, session: u64 },
    /// A question for a node that is connected here.
    Asked { nonce: String, question: Question },
}

fn about(addresses: Vec<SocketAddr>) -> About {
    About {
        addresses,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("text keys only")
}

/// Tells the others and follows them, where the store is shared, until the controller stops.
pub(super) fn run(
    core: &Arc<Core>,
    events: Option<mpsc::Receiver<LiveEvent>>,
    stopping: &watch::Receiver<bool>,
) {
    if let Some(events) = events {
        tokio::spawn(tell(Arc::clone(core), stopping.clone()));
        tokio::spawn(follow(Arc::clone(core), events, stopping.clone()));
    }
}

/// Tells the others who is connected here, until the controller stops.
async fn tell(core: Arc<Core>, mut stopping: watch::Receiver<bool>) {
    let mut roster = core.sessions.roster();
    loop {
        let here = roster.borrow_and_update().clone();
        core.fellows.want(&here);
        tokio::select! {
            () = stopped(&mut stopping) => return,
            changed = roster.changed() => if changed.is_err() { return },
        }
    }
}

/// Follows what the others say, until the controller stops.
async fn follow(
    core: Arc<Core>,
    mut events: mpsc::Receiver<LiveEvent>,
    mut stopping: watch::Receiver<bool>,
) {
    let mut lease = core.fellows.lease();
    loop {
        let event = tokio::select! {
            () = stopped(&mut stopping) => return,
            changed = lease.changed() => {
                if changed.is_err() {
                    return;
                }
                let lost = lease.borrow_and_update().is_none();
                if lost {
                    warn!("the store can't be reached: the agents of this controller are sent to others");
                    core.sessions.end_all("this controller can't reach its store");
                } else {
                    info!("the store can be reached again");
                }
                continue;
            }
            event = events.recv() => event,
        };
        let Some(event) = event else { return };
        match core.fellows.take(event) {
            None => {}
            Some(News::Moved { node, session }) => {
                let core = Arc::clone(&core);
                tokio::spawn(async move { moved(&core, &node, session).await });
            }
            Some(News::Asked { nonce, question }) => {
                let core = Arc::clone(&core);
                tokio::spawn(async move { answer(&core, &nonce, question).await });
            }
        }
    }
}

/// Another controller says that it has a node's session. The map knows whose is the newer one: what that controller said may
/// have been long under way.
async fn moved(core: &Core, node: &NodeId, session: u64) {
    let is_asked = core.ledger.refresh().await.is_ok();
    let is_ours = is_asked && !core.ledger.read(|map| core.has_moved(map, node));
    if !is_ours {
        core.sessions.end_moved(node, session);
    }
}

async fn answer(core: &Core, nonce: &str, Question { from, node, ask }: Question) {
    let said = core.sessions.ask(&node, ask).await;
    let said = said.unwrap_or_else(|| Err("has just gone".to_owned()));
    let Some(live) = &core.fellows.live else {
        return;
    };
    let (key, asked) = (
        format!("{ANSWERS}{from}/{nonce}"),
        format!("{ASKS}{}/{nonce}", core.fellows.id),
    );
    if let Err(error) = live.send(&key, to_json(&said), &[&asked]).await {
        debug!(%error, lease = LEASE_SECS, "an answer didn't reach the controller that asked");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fellows() -> Fellows {
        Fellows {
            id: "me".to_owned(),
            ..Fellows::none(Vec::new())
        }
    }

    fn at(controller: &str, session: u64) -> Vec<u8> {
        to_json(&Presence {
            controller: controller.to_owned(),
            session,
        })
    }

    fn put(key: &str, value: Vec<u8>) -> LiveEvent {
        LiveEvent::Put(key.to_owned(), value)
    }

    #[test]
    fn a_node_is_at_the_controller_that_spoke_last() {
        let fellows = fellows();
        let node = NodeId("n".to_owned());
        assert!(fellows.take(put("nodes/n", at("you", 1))).is_none());
        assert_eq!(fellows.connected(), BTreeSet::from([node.clone()]));
        // It comes to us: what the other one says no more is none of our business.
        assert!(fellows.take(put("nodes/n", at("me", 7))).is_none());
        assert!(fellows.connected().is_empty());
        // It leaves us.
        let news = fellows.take(put("nodes/n", at("you", 2)));
        assert!(matches!(news, Some(News::Moved { session: 7, .. })));
        assert_eq!(fellows.connected(), BTreeSet::from([node]));
        assert!(
            fellows
                .take(LiveEvent::Gone("nodes/n".to_owned()))
                .is_none()
        );
        assert!(fellows.connected().is_empty());
    }

    #[test]
    fn all_that_is_there_replaces_what_was() {
        let fellows = fellows();
        let one: SocketAddr = "10.0.0.1:6783".parse().unwrap();
        let two: SocketAddr = "10.0.0.2:6783".parse().unwrap();
        fellows.take(put("controllers/you", to_json(&about(vec![two]))));
        fellows.take(put("nodes/n", at("you", 1)));
        assert_eq!(*fellows.addresses().borrow(), [two]);
        fellows.take(LiveEvent::All(vec![
            ("controllers/me".to_owned(), to_json(&about(vec![one]))),
            ("controllers/you".to_owned(), to_json(&about(vec![two]))),
        ]));
        assert!(fellows.connected().is_empty());
        assert_eq!(*fellows.addresses().borrow(), [one, two]);
        // A store that has just been emptied is no reason to forget where controllers were.
        fellows.take(LiveEvent::All(Vec::new()));
        assert_eq!(*fellows.addresses().borrow(), [one, two]);
    }

    #[test]
    fn rubbish_and_other_peoples_questions_are_passed_over() {
        let fellows = fellows();
        for key in [
            "controllers/x",
            "nodes/x",
            "asks/me/1",
            "asks/you/1",
            "answers/me/1",
            "answers/me",
            "x",
            "",
        ] {
            assert!(
                fellows.take(put(key, b"rubbish".to_vec())).is_none(),
                "{key}"
            );
            assert!(fellows.take(LiveEvent::Gone(key.to_owned())).is_none());
        }
        let question = Question {
            from: "you".to_owned(),
            node: NodeId("n".to_owned()),
            ask: Ask::Yield {
                network: crate::model::NetworkId("net".to_owned()),
                ip: "10.0.0.9".parse().unwrap(),
            },
        };
        assert!(
            fellows
                .take(put("asks/you/1", to_json(&question)))
                .is_none()
        );
        let asked = fellows.take(put("asks/me/1", to_json(&question)));
        assert!(matches!(asked, Some(News::Asked { nonce, .. }) if nonce == "1"));
    }
}
