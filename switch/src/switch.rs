//! The handle on a running switch: what the agent changes and reads. Nothing here waits on frames, and frames wait on
//! nothing here: changes are published as new tables and sent to the workers as commands.

use std::net::IpAddr;
use std::sync::mpsc::{RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use nix::sys::eventfd::{EfdFlags, EventFd};
use weft_wire::{FrameRef, MacAddr, PeerId, PortId, VlanId, Vni};

use crate::neighbor::{Claim, announcement};
use crate::port::Queue;
use crate::stats::{PeerDropStats, PortStats};
use crate::table::fdb::{Fdb, FdbCounts, FdbKey, FdbLimits, FdbRow, Place, Tick};
use crate::table::routes::Routes;
use crate::table::{NetworkSpec, PortGuard, Tables};
use crate::uplink::Uplink;
use crate::worker::{Command, Worker};

/// How often learned addresses are looked through for those that have aged.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// How a switch is to run.
#[derive(Clone, Debug)]
pub struct SwitchConfig {
    /// Threads; each needs an uplink.
    pub workers: usize,
}

/// A port to be added.
#[derive(Debug)]
pub struct PortSpec {
    /// For people.
    pub name: String,
    /// The network it is on; that may be set later.
    pub network: Vni,
    /// What it may send; everything if `None`.
    pub guard: Option<PortGuard>,
    /// At least one; worker `i` reads queue `i`.
    pub queues: Vec<Queue>,
}

/// What happens to a port by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortEvent {
    /// Its device is gone, with its namespace. Told once; the port stays in the table until it is removed.
    Gone(PortId),
    /// Somebody behind it used or wanted an address that the control plane knows as another's. Told at most once a second for each port.
    Claims(PortId, Claim),
}

/// Why a switch or port can't be had.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// There must be one uplink for each worker.
    #[error("{workers} workers need as many uplinks, not {uplinks}")]
    Uplinks {
        /// Asked for.
        workers: usize,
        /// Given.
        uplinks: usize,
    },
    /// The operating system has no thread or file descriptor for a worker.
    #[error("cannot start a forwarding worker: {0}")]
    Worker(#[source] std::io::Error),
    /// A port without a queue.
    #[error("port {0} has no queue")]
    NoQueue(String),
}

/// Told of what happens to ports by themselves; called from workers, so it must not wait.
type Notify = Box<dyn Fn(PortEvent) + Send + Sync>;

/// What workers and the handle share.
pub(crate) struct Shared {
    pub(crate) tables: ArcSwap<Tables>,
    pub(crate) fdb: Fdb,
    pub(crate) notify: Notify,
    started: Instant,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("tables", &self.tables)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn now(&self) -> Tick {
        Tick(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// How old learned addresses get. Copied out, so that a scan doesn't hold a version of the tables, and the ports in
    /// it, longer than a moment.
    fn ageing(&self) -> impl Fn(Vni) -> Option<Duration> + use<> {
        let ageings = self.tables.load().ageings();
        move |vni| ageings.get(&vni).copied()
    }
}

#[derive(Debug)]
struct Hand {
    commands: Sender<Command>,
    wake: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

/// A running switch. Dropping it stops its threads; ports live on as long as somebody holds their file descriptors.
#[derive(Debug)]
pub struct Switch {
    shared: Arc<Shared>,
    hands: Vec<Hand>,
    sweeper: Option<(Sender<()>, JoinHandle<()>)>,
    /// Orders changes of the tables.
    changing: Mutex<()>,
}

impl Switch {
    /// Starts the workers.
    ///
    /// # Errors
    /// [`SwitchError::Uplinks`], [`SwitchError::Worker`].
    pub fn start(
        config: SwitchConfig,
        uplinks: Vec<Box<dyn Uplink>>,
        notify: Notify,
    ) -> Result<Self, SwitchError> {
        if config.workers == 0 || uplinks.len() != config.workers {
            let (workers, uplinks) = (config.workers, uplinks.len());
            return Err(SwitchError::Uplinks { workers, uplinks });
        }
        let shared = Arc::new(Shared {
            tables: ArcSwap::from_pointee(Tables::new(config.workers)),
            fdb: Fdb::new(FdbLimits::default()),
            notify,
            started: Instant::now(),
        });
        let mut switch = Self {
            shared: Arc::clone(&shared),
            hands: Vec::new(),
            sweeper: None,
            changing: Mutex::new(()),
        };
        for (index, uplink) in uplinks.into_iter().enumerate() {
            switch
                .hands
                .push(start_worker(index, Arc::clone(&shared), uplink)?);
        }
        switch.sweeper = Some(start_sweeper(shared)?);
        Ok(switch)
    }

    /// Plugs a port in.
    ///
    /// # Errors
    /// [`SwitchError::NoQueue`].
    pub fn add_port(&self, spec: PortSpec) -> Result<PortId, SwitchError> {
        if spec.queues.is_empty() {
            return Err(SwitchError::NoQueue(spec.name));
        }
        let queues: Vec<Arc<Queue>> = spec.queues.into_iter().map(Arc::new).collect();
        Ok(self.plug_in(queues.clone(), |tables| {
            tables.add_port(spec.network, spec.guard, queues)
        }))
    }

    /// Plugs in the inside port of a network: one end of a [`service_pair`](crate::port::service_pair). What ports of
    /// this host have for the network's gateway, and it doesn't answer itself, goes there; what comes from there goes to
    /// ports of this host. There should be one per network. It is removed with [`Self::remove_port`].
    pub fn add_services(&self, network: Vni, end: Queue) -> PortId {
        let queues = vec![Arc::new(end)];
        self.plug_in(queues.clone(), |tables| {
            tables.add_services(network, queues)
        })
    }

    /// Plugs in a link of the host ([`open_link`](crate::port::open_link)). It is removed with [`Self::remove_port`].
    pub fn add_uplink(&self, network: Vni, link: Queue) -> PortId {
        let queues = vec![Arc::new(link)];
        self.plug_in(queues.clone(), |tables| tables.add_uplink(network, queues))
    }

    /// Puts a port into the tables, then lets the workers read it.
    fn plug_in(&self, queues: Vec<Arc<Queue>>, add: impl FnOnce(&mut Tables) -> PortId) -> PortId {
        let order = self.changing();
        let id = self.publish(&order, add);
        self.read(id, queues);
        id
    }

    /// Spreads a port's queues over the workers.
    fn read(&self, id: PortId, queues: Vec<Arc<Queue>>) {
        // A worker reads the queue it writes to, since the kernel answers a flow on the queue it came by. Ports with
        // fewer queues are spread over the workers by their number.
        let workers = self.hands.len();
        let first = if queues.len() < workers {
            id.index()
        } else {
            0
        };
        for (number, queue) in (0..).zip(queues) {
            let worker = (first + usize::from(number)) % workers;
            self.hands[worker].tell(Command::Add(id, number, queue));
        }
    }

    /// Pulls a port out and forgets its addresses. When this returns, no worker holds its file descriptors any more.
    /// Waits for the workers: not to be called from the notification.
    pub fn remove_port(&self, id: PortId) {
        // The number isn't given out again before workers and addresses have let go of it.
        let order = self.changing();
        let removed = self.publish(&order, |tables| tables.remove_port(id));
        self.ask_all(|done| Command::Remove(id, done));
        self.shared.fdb.flush_place(Place::Port(id));
        drop(order);
        // Closing the last descriptor of a TAP takes the kernel a while: here, where nobody waits for it.
        drop(removed);
    }

    /// Puts a port on another network, or on none, and forgets its addresses; false if there is no such port. Waits for
    /// the workers: not to be called from the notification.
    pub fn move_port(&self, id: PortId, to: Option<Vni>) -> bool {
        let there = self.change(|tables| tables.move_port(id, to));
        self.ask_all(Command::Settle);
        self.shared.fdb.flush_place(Place::Port(id));
        there
    }

    /// Reads and writes a port through other queues from now on; false if there is no such port. When this returns, no
    /// worker holds the ones before. Waits for the workers: not to be called from the notification.
    ///
    /// # Errors
    /// [`SwitchError::NoQueue`].
    pub fn set_queues(&self, id: PortId, queues: Vec<Queue>) -> Result<bool, SwitchError> {
        if queues.is_empty() {
            return Err(SwitchError::NoQueue(id.0.to_string()));
        }
        let queues: Vec<Arc<Queue>> = queues.into_iter().map(Arc::new).collect();
        let order = self.changing();
        let there = self.publish(&order, |tables| tables.set_queues(id, queues.clone()));
        self.ask_all(|done| Command::Remove(id, done));
        if there {
            self.read(id, queues);
        }
        Ok(there)
    }

    /// Changes what a port may send; false if there is no such port.
    pub fn set_guard(&self, id: PortId, guard: Option<PortGuard>) -> bool {
        self.change(|tables| tables.set_guard(id, guard))
    }

    /// Makes a port with this MAC the exit of its network, or a port like others again; false if there is no such port.
    /// What ports of this host have for the gateway and nothing routes leaves by the exit: it is a port of the host
    /// itself, whose kernel routes on. What comes from it may have any source address.
    pub fn set_exit(&self, id: PortId, mac: Option<MacAddr>) -> bool {
        self.change(|tables| tables.set_exit(id, mac))
    }

    /// Makes or changes a network.
    pub fn set_network(&self, spec: NetworkSpec) {
        self.change(|tables| tables.set_network(spec));
    }

    /// Says which subnets are the cluster's: what goes to them and has no route goes nowhere.
    pub fn set_subnets(&self, subnets: Arc<Routes>) {
        self.change(|tables| tables.set_subnets(subnets));
    }

    /// Removes a network; frames for it are dropped from now on.
    pub fn remove_network(&self, vni: Vni) {
        self.change(|tables| tables.remove_network(vni));
        self.shared.fdb.flush_network(vni);
    }

    /// The control plane says where an address is. An older epoch than the present owner's is a no-op.
    pub fn own_mac(&self, vni: Vni, mac: MacAddr, place: Place, epoch: u64) {
        self.shared.fdb.own(
            FdbKey {
                vni,
                vlan: VlanId::UNTAGGED,
                mac,
            },
            place,
            epoch,
        );
    }

    /// The control plane takes an address back. A no-op if a newer epoch owns it.
    pub fn disown_mac(&self, vni: Vni, mac: MacAddr, epoch: u64) {
        self.shared.fdb.disown(
            FdbKey {
                vni,
                vlan: VlanId::UNTAGGED,
                mac,
            },
            epoch,
        );
    }

    /// Forgets what was learned of an address.
    pub fn forget_mac(&self, vni: Vni, mac: MacAddr) {
        self.shared.fdb.forget(vni, mac);
    }

    /// The control plane says whose MAC an address has. If it was another's, ports of this host are told: they may have
    /// asked before.
    pub fn know_neighbor(&self, vni: Vni, ip: IpAddr, mac: MacAddr) {
        let tables = self.shared.tables.load();
        let before = tables.neighbors().set(vni, ip, mac);
        let network = tables.network(vni);
        let Some(network) = network.filter(|_| before.is_some_and(|before| before != mac)) else {
            return;
        };
        let announcement = announcement(ip, mac);
        for port in network.ports.iter().filter_map(|id| tables.port(*id)) {
            // One that is full or down asks again when it needs to.
            let _ = port.queues[0].send(FrameRef::plain(&announcement));
        }
    }

    /// The control plane says that nobody has an address any more.
    pub fn forget_neighbor(&self, vni: Vni, ip: IpAddr) {
        self.shared.tables.load().neighbors().remove(vni, ip);
    }

    /// Forgets a peer: its addresses and its counters. To be called after its tunnel was taken down: frames of it that
    /// are in flight are waited for, lest they teach what was just forgotten.
    pub fn flush_peer(&self, peer: PeerId) {
        self.ask_all(Command::Settle);
        self.shared.fdb.flush_place(Place::Peer(peer));
        self.shared.tables.load().reset_peer(peer);
    }

    /// Returns when no worker has a frame in hand that was decided by older tables than now. Not to be called from the
    /// notification.
    pub fn settle(&self) {
        self.ask_all(Command::Settle);
    }

    /// The forwarding database, in no order.
    pub fn fdb(&self) -> Vec<FdbRow> {
        self.shared
            .fdb
            .rows(self.shared.now(), self.shared.ageing())
    }

    /// Counters of a port.
    pub fn port_stats(&self, id: PortId) -> Option<PortStats> {
        self.shared.tables.load().port_stats(id)
    }

    /// Counters of all ports.
    pub fn all_port_stats(&self) -> Vec<(PortId, PortStats)> {
        let tables = self.shared.tables.load();
        tables
            .ports()
            .map(|(id, port)| (id, port.counters.sum()))
            .collect()
    }

    /// What the switch counted of a peer.
    pub fn peer_stats(&self, peer: PeerId) -> PeerDropStats {
        self.shared.tables.load().peer_stats(peer)
    }

    /// How full the forwarding database is.
    pub fn fdb_counts(&self) -> FdbCounts {
        self.shared.fdb.counts()
    }

    /// Tells all workers something, and returns when each of them has answered or has gone.
    fn ask_all(&self, command: impl Fn(SyncSender<()>) -> Command) {
        let (done, waiting) = sync_channel(self.hands.len());
        for hand in &self.hands {
            hand.tell(command(done.clone()));
        }
        drop(done);
        while waiting.recv().is_ok() {}
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Tables) -> T) -> T {
        self.publish(&self.changing(), change)
    }

    /// Publishes a new version of the tables; the guard shows that nobody else does.
    fn publish<T>(&self, _: &MutexGuard<'_, ()>, change: impl FnOnce(&mut Tables) -> T) -> T {
        let mut tables = Tables::clone(&self.shared.tables.load());
        let result = change(&mut tables);
        self.shared.tables.store(Arc::new(tables));
        result
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.sweeper.take() {
            drop(stop);
            let _ = thread.join();
        }
        for hand in &mut self.hands {
            hand.tell(Command::Stop);
            if let Some(thread) = hand.thread.take() {
                let _ = thread.join();
            }
        }
    }
}

impl Hand {
    fn tell(&self, command: Command) {
        // A worker that has gone took the process with it.
        if self.commands.send(command).is_ok() {
            let _ = self.wake.write(1);
        }
    }
}

/// A thread that panics takes the process down: a switch that forwards on half of its queues helps nobody. The
/// supervisor starts it again, and the ports survive with the fd holder.
pub(crate) struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(
                "a thread of the switch panicked; the agent ends so that it is started again"
            );
            std::process::abort();
        }
    }
}

fn start_worker(
    index: usize,
    shared: Arc<Shared>,
    uplink: Box<dyn Uplink>,
) -> Result<Hand, SwitchError> {
    let failed = |error: nix::Error| SwitchError::Worker(error.into());
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let wake = Arc::new(EventFd::from_value_and_flags(0, flags).map_err(failed)?);
    let (commands, received) = channel();
    let worker = Worker::new(index, shared, uplink, Arc::clone(&wake), received).map_err(failed)?;
    let thread = std::thread::Builder::new()
        .name(format!("weft-worker-{index}"))
        .spawn(move || {
            let _abort = AbortOnPanic;
            worker.run();
        })
        .map_err(SwitchError::Worker)?;
    Ok(Hand {
        commands,
        wake,
        thread: Some(thread),
    })
}

fn start_sweeper(shared: Arc<Shared>) -> Result<(Sender<()>, JoinHandle<()>), SwitchError> {
    let (stop, stopped) = channel();
    let thread = std::thread::Builder::new()
        .name("weft-ageing".to_owned())
        .spawn(move || {
            let _abort = AbortOnPanic;
            while stopped.recv_timeout(SWEEP_EVERY) == Err(RecvTimeoutError::Timeout) {
                shared.fdb.expire(shared.now(), shared.ageing());
            }
        })
        .map_err(SwitchError::Worker)?;
    Ok((stop, thread))
}
