//! Who is woken by a change: the sessions of those whom it concerns, found by network and node.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::audience::{Concerned, Scope};
use crate::model::{NetworkId, NodeId};

type Number = u64;

/// All sessions that wait for changes.
#[derive(Debug, Default)]
pub(super) struct Board {
    seats: Mutex<Seats>,
}

#[derive(Debug, Default)]
struct Seats {
    next: Number,
    all: HashMap<Number, Sitting>,
    networks: HashMap<NetworkId, BTreeSet<Number>>,
    nodes: HashMap<NodeId, BTreeSet<Number>>,
    /// Those that hear of every network.
    whole: BTreeSet<Number>,
}

#[derive(Debug)]
struct Sitting {
    node: NodeId,
    /// All when `None`.
    networks: Option<Arc<BTreeSet<NetworkId>>>,
    change: Arc<Notify>,
    removal: Arc<Notify>,
}

/// A session's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    board: Arc<Board>,
    number: Number,
    change: Arc<Notify>,
    removal: Arc<Notify>,
}

impl Board {
    fn seats(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a session of that node. It is woken by what concerns the node itself, and by nothing of a network before
    /// it says of which ones it hears.
    pub(super) fn sit(self: &Arc<Self>, node: &NodeId) -> Seat {
        let (change, removal) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let mut seats = self.seats();
        let number = seats.next;
        seats.next += 1;
        insert(&mut seats.nodes, node, number);
        seats.all.insert(
            number,
            Sitting {
                node: node.clone(),
                networks: Some(Arc::default()),
                change: Arc::clone(&change),
                removal: Arc::clone(&removal),
            },
        );
        drop(seats);
        Seat {
            board: Arc::clone(self),
            number,
            change,
            removal,
        }
    }

    /// Wakes those whom changes concern.
    pub(super) fn wake<'a>(&self, scopes: impl Iterator<Item = &'a Scope>) {
        let seats = self.seats();
        let mut woken = BTreeSet::new();
        for scope in scopes {
            match scope {
                Scope::All => return seats.wake(seats.all.keys()),
                Scope::Some(Concerned {
                    networks, nodes, ..
                }) => {
                    let by_network = networks.iter().filter_map(|id| seats.networks.get(id));
                    let by_node = nodes.iter().filter_map(|id| seats.nodes.get(id));
                    woken.extend(by_network.chain(by_node).chain([&seats.whole]).flatten());
                }
                Scope::Controllers => {}
            }
        }
        seats.wake(woken.iter());
    }

    /// Wakes all.
    pub(super) fn wake_all(&self) {
        let seats = self.seats();
        seats.wake(seats.all.keys());
    }

    /// That node may not be a member any more, or not connected here; all may when `None`.
    pub(super) fn doubt(&self, node: Option<&NodeId>) {
        let seats = self.seats();
        let all = seats.all.values();
        match node {
            Some(node) => {
                let numbers = seats.nodes.get(node).into_iter().flatten();
                let theirs = numbers.filter_map(|number| seats.all.get(number));
                theirs.for_each(|sitting| sitting.removal.notify_one());
            }
            None => all.for_each(|sitting| sitting.removal.notify_one()),
        }
    }
}

impl Seats {
    fn wake<'a>(&self, numbers: impl Iterator<Item = &'a Number>) {
        let sittings = numbers.filter_map(|number| self.all.get(number));
        sittings.for_each(|sitting| sitting.change.notify_one());
    }

    fn leave_networks(&mut self, number: Number) {
        self.whole.remove(&number);
        let networks = self.all.get(&number).and_then(|of| of.networks.clone());
        for network in networks.iter().flat_map(|networks| networks.iter()) {
            remove(&mut self.networks, network, number);
        }
    }
}

impl Seat {
    /// From now on it is woken by what is on these networks; by everything when `None`. To be called while no change can
    /// come, or one is missed.
    pub(super) fn follow(&self, networks: Option<&Arc<BTreeSet<NetworkId>>>) {
        let mut seats = self.board.seats();
        let same = seats.all.get(&self.number).is_some_and(|sitting| {
            match (&sitting.networks, networks) {
                (Some(before), Some(now)) => Arc::ptr_eq(before, now),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            }
        });
        if same {
            return;
        }
        seats.leave_networks(self.number);
        match networks {
            Some(networks) => {
                for network in networks.iter() {
                    insert(&mut seats.networks, network, self.number);
                }
            }
            None => {
                seats.whole.insert(self.number);
            }
        }
        if let Some(sitting) = seats.all.get_mut(&self.number) {
            sitting.networks = networks.cloned();
        }
    }

    /// Returns after a change that concerns it.
    pub(super) async fn woken(&self) {
        self.change.notified().await;
    }

    /// Returns when its node may have been removed, or connected elsewhere.
    pub(super) async fn doubted(&self) {
        self.removal.notified().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.board.seats();
        seats.leave_networks(self.number);
        if let Some(sitting) = seats.all.remove(&self.number) {
            remove(&mut seats.nodes, &sitting.node, self.number);
        }
    }
}

fn insert<K: Clone + Eq + Hash>(of: &mut HashMap<K, BTreeSet<Number>>, key: &K, number: Number) {
    if let Some(numbers) = of.get_mut(key) {
        numbers.insert(number);
    } else {
        of.insert(key.clone(), [number].into());
    }
}

fn remove<K: Eq + Hash>(of: &mut HashMap<K, BTreeSet<Number>>, key: &K, number: Number) {
    if let Some(numbers) = of.get_mut(key) {
        numbers.remove(&number);
        if numbers.is_empty() {
            of.remove(key);
        }
    }
}
