//! Who is at the other end: the table that says where frames to a peer go, and from which addresses frames are taken.
//!
//! The control plane writes it ([`Peers::set`]), the workers read it for every datagram. A writer publishes a whole new
//! table; a reader holds the one it took until its next batch and never waits. What was sent and received is counted
//! here too, because counters live as long as the peer does: from one table to the next.
//!
//! A peer is known by its underlay address alone. Source ports carry flow entropy (RFC 7348 section 5), so two peers
//! can't share an address. This is a filter against accidents and against those who can't forge addresses on the
//! underlay; it authenticates nobody (see the crate's threat model).

mod counters;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use arc_swap::{ArcSwap, cache::Cache};
use socket2::SockAddr;
use weft_wire::{Mtu, PeerId, Vni};

use crate::carriage::{Carriage, Networks};
use crate::mtu::frame_in_packet;
use crate::secure::{Opener, SecurePeer, SecureSpec, Sessions};

pub use self::counters::{DropCounts, PeerStats, StrangerStats};
pub(crate) use self::counters::{Lane, PeerCounters, StrangerCounters};

/// Which networks a peer may send for, and is sent frames of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerNetworks {
    /// All: another weft agent. Whether the network exists here is the switch's question.
    All,
    /// A static VTEP: the networks it was added to.
    Only(Vec<Vni>),
}

/// A peer, as the control plane knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSpec {
    /// Its number; small numbers are looked up fastest.
    pub id: PeerId,
    /// Its underlay address: frames are sent there and taken from there.
    pub address: IpAddr,
    /// UDP port it listens on.
    pub port: u16,
    /// What it has to do with.
    pub networks: PeerNetworks,
    /// Who it must prove to be for encrypted networks; `None`: it takes part in none.
    pub secure: Option<SecureSpec>,
}

/// A peer in the table.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) id: PeerId,
    pub(crate) address: IpAddr,
    /// Where it listens, as the kernel wants it.
    pub(crate) destination: SockAddr,
    /// Sorted; `None` for all.
    only: Option<Box<[Vni]>>,
    pub(crate) counters: Arc<PeerCounters>,
    pub(crate) path: Arc<PathMtu>,
    /// Its encrypted side.
    pub(crate) secure: Option<Arc<SecurePeer>>,
}

/// What is known of the way to a peer: written by who measures it, read for every frame.
#[derive(Debug)]
pub(crate) struct PathMtu {
    /// The longest inner frame that goes through; `u32::MAX` as long as nothing is known.
    frame_max: AtomicU32,
    /// The path MTU (bytes of an outer IP packet) after the last search; 0 as long as there was none.
    settled: AtomicU32,
    /// A frame was sent since this was asked last.
    used: AtomicBool,
}

impl Default for PathMtu {
    fn default() -> Self {
        Self {
            frame_max: AtomicU32::new(u32::MAX),
            settled: AtomicU32::new(0),
            used: AtomicBool::new(false),
        }
    }
}

impl PathMtu {
    /// The longest inner frame that goes through, in bytes.
    #[inline]
    pub(crate) fn frame_max(&self) -> usize {
        self.frame_max.load(Ordering::Relaxed) as usize
    }

    /// Notes that a frame is sent. The memory is written only if that is news.
    #[inline]
    pub(crate) fn note_use(&self) {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// Whether frames were sent since this was asked last.
    pub(crate) fn take_use(&self) -> bool {
        self.used.load(Ordering::Relaxed) && self.used.swap(false, Ordering::Relaxed)
    }

    /// Whether the peer has answered a probe.
    #[inline]
    pub(crate) fn is_known(&self) -> bool {
        self.frame_max.load(Ordering::Relaxed) != u32::MAX
    }

    /// Says what is known of the way to `address` now; whether the settled MTU is another one than before.
    pub(crate) fn set(
        &self,
        (address, carriage): (IpAddr, Carriage),
        current: Option<u16>,
        settled: Option<u16>,
    ) -> bool {
        let frame = current.map(|packet| frame_in_packet(packet.into(), address, carriage));
        let frame = frame.and_then(|len| u32::try_from(len).ok());
        self.frame_max
            .store(frame.unwrap_or(u32::MAX), Ordering::Relaxed);
        let settled = settled.map_or(0, u32::from);
        self.settled.swap(settled, Ordering::Relaxed) != settled
    }

    /// The path MTU after the last search; `None` before the first.
    pub(crate) fn settled(&self) -> Option<Mtu> {
        Mtu::new(self.settled.load(Ordering::Relaxed).min(Mtu::MAX)).ok()
    }
}

impl Peer {
    fn new(
        spec: PeerSpec,
        (counters, path): (Arc<PeerCounters>, Arc<PathMtu>),
        secure: Option<Arc<SecurePeer>>,
    ) -> Self {
        let only = match spec.networks {
            PeerNetworks::All => None,
            PeerNetworks::Only(mut vnis) => {
                vnis.sort_unstable();
                Some(vnis.into_boxed_slice())
            }
        };
        Self {
            id: spec.id,
            address: spec.address,
            destination: SocketAddr::new(spec.address, spec.port).into(),
            only,
            counters,
            path,
            secure,
        }
    }

    /// Whether it is a weft agent, which knows our loopback messages; not a static VTEP.
    #[inline]
    pub(crate) const fn is_agent(&self) -> bool {
        self.only.is_none()
    }

    #[inline]
    pub(crate) fn allows(&self, vni: Vni) -> bool {
        match &self.only {
            None => true,
            Some(only) => only.binary_search(&vni).is_ok(),
        }
    }
}

/// One version of the table: immutable once published.
#[derive(Debug, Default)]
pub struct PeerTable {
    /// Sorted by id.
    peers: Vec<Peer>,
    /// Indices into `peers`. The standard hasher is keyed: a stranger can't choose addresses that collide.
    by_address: HashMap<IpAddr, usize>,
    /// How the networks travel.
    networks: Networks,
}

impl PeerTable {
    /// Builds a table of `specs`; counters and path MTU are those of `before` where id and address are the same. Ids and addresses
    /// are unique: of two specs with the same id or address the later one counts.
    pub fn new(specs: Vec<PeerSpec>, before: &Self) -> Self {
        let mut by_id = HashMap::new();
        let mut owners = HashMap::new();
        for spec in specs {
            if let Some(other) = owners.insert(spec.address, spec.id) {
                by_id.remove(&other);
            }
            by_id.insert(spec.id, spec);
        }
        let mut peers: Vec<Peer> = by_id
            .into_values()
            .map(|spec| {
                let kept = before.kept_of(&spec).unwrap_or_default();
                let secure = before.secure_of(&spec);
                Peer::new(spec, kept, secure)
            })
            .collect();
        peers.sort_unstable_by_key(|peer| peer.id);
        let by_address = peers
            .iter()
            .enumerate()
            .map(|(index, peer)| (peer.address, index))
            .collect();
        Self {
            peers,
            by_address,
            networks: before.networks.clone(),
        }
    }

    /// How frames of `vni` travel; `None`: not at all.
    #[inline]
    pub(crate) fn carriage(&self, vni: Vni) -> Option<Carriage> {
        self.networks.carriage(vni)
    }

    /// Sessions belong to who proved to be somebody: they stay as long as that is the same.
    fn secure_of(&self, spec: &PeerSpec) -> Option<Arc<SecurePeer>> {
        let wanted = spec.secure.as_ref()?;
        let before = self
            .by_id(spec.id)
            .filter(|peer| peer.address == spec.address);
        let kept = before.and_then(|peer| peer.secure.as_ref());
        match kept.filter(|kept| kept.is(wanted)) {
            Some(kept) => {
                kept.set_keep(wanted.keep);
                Some(Arc::clone(kept))
            }
            None => Some(Arc::new(SecurePeer::new(wanted))),
        }
    }

    fn kept_of(&self, spec: &PeerSpec) -> Option<(Arc<PeerCounters>, Arc<PathMtu>)> {
        self.by_id(spec.id)
            .filter(|peer| peer.address == spec.address)
            .map(|peer| (Arc::clone(&peer.counters), Arc::clone(&peer.path)))
    }

    fn again_with(&self, networks: Networks) -> Self {
        Self {
            peers: self.peers.clone(),
            by_address: self.by_address.clone(),
            networks,
        }
    }

    /// All peers, by id.
    pub(crate) fn peers(&self) -> &[Peer] {
        &self.peers
    }

    #[inline]
    pub(crate) fn by_id(&self, id: PeerId) -> Option<&Peer> {
        // Ids are given out densely: mostly the id is the index.
        if let Some(peer) = self.peers.get(id.index()).filter(|peer| peer.id == id) {
            return Some(peer);
        }
        let index = self.peers.binary_search_by_key(&id, |peer| peer.id).ok()?;
        self.peers.get(index)
    }

    #[inline]
    pub(crate) fn by_address(&self, address: IpAddr) -> Option<&Peer> {
        self.peers.get(*self.by_address.get(&address)?)
    }

    /// How many peers there are.
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether nobody is there.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Ids and underlay addresses of all peers, by id.
    pub fn iter(&self) -> impl Iterator<Item = (PeerId, IpAddr)> + '_ {
        self.peers.iter().map(|peer| (peer.id, peer.address))
    }
}

/// The handle to the current table and to the counters: cheap to clone, shared by control plane and workers.
#[derive(Clone, Debug, Default)]
pub struct Peers {
    table: Arc<ArcSwap<PeerTable>>,
    strangers: Arc<StrangerCounters>,
    sessions: Sessions,
}

impl Peers {
    /// Publishes a new table; every worker has it with its next batch. One writer at a time: of two that overlap the
    /// later one wins. Ids and addresses are unique (see [`PeerTable::new`]).
    pub fn set(&self, specs: Vec<PeerSpec>) {
        let table = PeerTable::new(specs, &self.table.load());
        self.table.store(Arc::new(table));
        self.sessions.look();
    }

    /// Says how networks travel. From the first call on, those that aren't listed don't; as [`Self::set`] for one writer
    /// at a time.
    pub fn carry(&self, networks: impl IntoIterator<Item = (Vni, Carriage)>) {
        self.networks_are(Networks::new(networks));
    }

    /// As [`Self::carry`], for the time of a change: what travels in one way now and in none or another next, doesn't
    /// travel at all. Workers that have begun a frame may still finish it.
    pub fn carry_only(&self, next: impl IntoIterator<Item = (Vni, Carriage)>) {
        let now = self.table.load_full();
        let same = next
            .into_iter()
            .filter(|(vni, carriage)| now.carriage(*vni) == Some(*carriage));
        self.networks_are(Networks::new(same));
    }

    fn networks_are(&self, networks: Networks) {
        let before = self.table.load_full();
        if before.networks != networks {
            let table = before.again_with(networks);
            self.table.store(Arc::new(table));
        }
    }

    /// The table as it is now.
    pub fn snapshot(&self) -> Arc<PeerTable> {
        self.table.load_full()
    }

    /// Counters of a peer since it was added; `None` if there is no such peer.
    pub fn stats(&self, id: PeerId) -> Option<PeerStats> {
        Some(self.table.load().by_id(id)?.counters.sum())
    }

    /// The path MTU to a peer (bytes of an outer IP packet) as it was measured; `None` for static VTEPs, which answer no
    /// probes, before the first answer, and if there is no such peer.
    pub fn path_mtu(&self, id: PeerId) -> Option<Mtu> {
        self.table.load().by_id(id)?.path.settled()
    }

    /// The same for encrypted networks.
    pub fn secure_path_mtu(&self, id: PeerId) -> Option<Mtu> {
        self.table.load().by_id(id)?.secure.as_ref()?.path.settled()
    }

    /// Keys and requests for sessions.
    pub(crate) const fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// What workers read keys through.
    pub(crate) fn opener(&self) -> Opener {
        self.sessions.opener()
    }

    /// What no peer can be blamed for.
    pub fn stranger_stats(&self) -> StrangerStats {
        self.strangers.sum()
    }

    /// A worker's view.
    pub(crate) fn reader(&self, lane: Lane) -> PeerReader {
        PeerReader {
            table: Cache::new(Arc::clone(&self.table)),
            strangers: Arc::clone(&self.strangers),
            lane,
        }
    }
}

/// What a worker reads peers through: remembers the table, so that looking whether it is still the newest is all that
/// a frame costs.
pub(crate) struct PeerReader {
    table: Cache<Arc<ArcSwap<PeerTable>>, Arc<PeerTable>>,
    strangers: Arc<StrangerCounters>,
    pub(crate) lane: Lane,
}

impl PeerReader {
    /// The newest table, and the counters for what belongs to no peer of it.
    #[inline]
    pub(crate) fn parts(&mut self) -> (&PeerTable, &StrangerCounters) {
        (self.table.load(), &self.strangers)
    }
}

impl std::fmt::Debug for PeerReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerReader")
            .field("lane", &self.lane)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
