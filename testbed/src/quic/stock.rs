//! The tunnel over quinn as it is. Its tasks on a tokio runtime own sockets, timers and cryptography; a worker hands
//! datagrams to a connection's handle, and takes those that came from a mailbox that a task fills.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use nix::sys::eventfd::{EfdFlags, EventFd};
use quinn::{Connection, Endpoint, EndpointConfig, TokioRuntime};
use tokio::runtime::Runtime;
use weft_switch::{TooBig, Uplink};
use weft_wire::{FrameRef, PeerId, Vni};

use crate::PEER;
use crate::args::Run;
use crate::cut::Cutter;
use crate::gather::Gatherer;
use crate::{socket, tls, transport};

/// Datagrams that wait for a worker; further ones are dropped, as a full socket would.
const MAILBOX_MAX: usize = 4096;

/// An uplink for each worker, and what drives them.
///
/// # Errors
/// A sentence: there is no connection.
pub(crate) fn uplinks(
    run: &Run,
    vni: Vni,
    ended: Sender<String>,
) -> Result<(Vec<Box<dyn Uplink>>, Runtime), String> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(run.workers())
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let connections = (0..run.connections).map(|number| runtime.block_on(connect(run, number)));
    let connections: Vec<Connection> = connections.collect::<Result<_, _>>()?;
    let mailboxes = (0..run.workers()).map(|_| Mailbox::new());
    let mailboxes: Vec<Arc<Mailbox>> = mailboxes.collect::<Result<_, _>>()?;
    for (number, connection) in connections.iter().enumerate() {
        let mailbox = Arc::clone(&mailboxes[number % mailboxes.len()]);
        runtime.spawn(fill(connection.clone(), mailbox, ended.clone()));
    }
    let uplinks = mailboxes.into_iter().enumerate().map(|(worker, mailbox)| {
        Box::new(StockUplink {
            connection: connections[worker % connections.len()].clone(),
            mailbox,
            vni,
            cutter: Cutter::default(),
            gatherer: Gatherer::default(),
            taken: Vec::new(),
        }) as Box<dyn Uplink>
    });
    Ok((uplinks.collect(), runtime))
}

/// Opens or takes the connection of that number; each has an endpoint of its own, so that none waits for another's.
async fn connect(run: &Run, number: u16) -> Result<Connection, String> {
    let socket = socket(run, number)?;
    let server = match run.connect {
        Some(_) => None,
        None => Some(transport::server(run)?),
    };
    let runtime = Arc::new(TokioRuntime);
    let endpoint = Endpoint::new(EndpointConfig::default(), server, socket, runtime)
        .map_err(|error| error.to_string())?;
    let Some(mut to) = run.connect else {
        let incoming = endpoint.accept().await.ok_or("the endpoint is closed")?;
        return incoming.await.map_err(|error| error.to_string());
    };
    to.set_port(to.port() + number);
    endpoint
        .connect_with(transport::client(run)?, to, tls::NAME)
        .map_err(|error| error.to_string())?
        .await
        .map_err(|error| error.to_string())
}

/// Moves what comes to the mailbox until the connection ends.
async fn fill(connection: Connection, mailbox: Arc<Mailbox>, ended: Sender<String>) {
    loop {
        match connection.read_datagram().await {
            Ok(datagram) => mailbox.put(datagram),
            Err(error) => {
                // Nobody listens any more only at the end.
                let _ = ended.send(format!("the connection ended: {error}"));
                return;
            }
        }
    }
}

/// Datagrams on their way from quinn's tasks to a worker.
#[derive(Debug)]
struct Mailbox {
    waiting: Mutex<Vec<Bytes>>,
    wake: EventFd,
}

impl Mailbox {
    fn new() -> Result<Arc<Self>, String> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = EventFd::from_value_and_flags(0, flags).map_err(|error| error.to_string())?;
        Ok(Arc::new(Self {
            waiting: Mutex::default(),
            wake,
        }))
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Bytes>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, datagram: Bytes) {
        let mut waiting = self.waiting();
        let is_first = waiting.is_empty();
        if waiting.len() < MAILBOX_MAX {
            waiting.push(datagram);
        }
        drop(waiting);
        if is_first {
            // It fails only if it is raised already.
            let _ = self.wake.write(1);
        }
    }
}

/// A worker's end.
struct StockUplink {
    connection: Connection,
    mailbox: Arc<Mailbox>,
    vni: Vni,
    cutter: Cutter,
    gatherer: Gatherer,
    taken: Vec<Bytes>,
}

impl Uplink for StockUplink {
    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.mailbox.wake.as_fd()]
    }

    fn send(&mut self, _: PeerId, vni: Vni, frame: FrameRef<'_>) -> Result<(), TooBig> {
        let limit = self.connection.max_datagram_size().unwrap_or_default();
        let connection = &self.connection;
        self.cutter.cut(vni, frame, limit, |datagram| {
            // A path that became narrower meanwhile, or a connection that has ended: it is lost.
            let _ = connection.send_datagram(datagram);
        })?;
        Ok(())
    }

    fn flush(&mut self) {}

    fn receive(&mut self, _: usize, sink: &mut dyn FnMut(PeerId, Vni, FrameRef<'_>)) -> usize {
        // Reading resets it; that it was reset already is no matter.
        let _ = self.mailbox.wake.read();
        std::mem::swap(&mut *self.mailbox.waiting(), &mut self.taken);
        for datagram in self.taken.drain(..) {
            self.gatherer.add(&datagram);
        }
        let known = self.vni;
        self.gatherer.give(|vni, frame| {
            if vni == known {
                sink(PEER, vni, frame);
            }
        })
    }
}
