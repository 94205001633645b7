//! The thread of an impaired port: it reads the TAP in the switch's place, lets frames travel along a [`Line`], and hands
//! them on through a pair of sockets whose other end the switch has instead of the TAP; and back.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use weft_wire::{FrameRef, MAX_HEADER_LEN, SegmentPlan};

use super::Impairments;
use super::line::{Line, LineStats};
use crate::port::{Queue, RECV_BUFFER_LEN, RecvError, service_pair};
use crate::switch::AbortOnPanic;

/// Frames of one file descriptor before the others have their turn.
const BUDGET: usize = 64;

/// What became of frames in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelayStats {
    /// To the container.
    pub to_port: LineStats,
    /// From the container.
    pub from_port: LineStats,
    /// Frames at the end of the line that the container's kernel didn't take.
    pub not_taken: u64,
    /// Frames that contradicted their vnet header, or that the switch had no room for.
    pub refused: u64,
}

#[derive(Debug)]
struct Orders {
    impairments: Option<Impairments>,
    stop: bool,
}

#[derive(Debug)]
struct Shared {
    wake: EventFd,
    orders: Mutex<Orders>,
    stats: Mutex<RelayStats>,
}

/// An impaired port's thread. When it is dropped, the thread ends and what was on the way arrives at once.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Begins to stand before a TAP, and gives the queue that the switch is to have in its place. When the TAP goes, that
    /// is gone too.
    ///
    /// # Errors
    /// Out of file descriptors or threads.
    pub fn start(tap: Vec<Queue>, impairments: Impairments) -> io::Result<(Self, Queue)> {
        let (ours, queue) = service_pair()?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let shared = Arc::new(Shared {
            wake: EventFd::from_value_and_flags(0, flags)?,
            orders: Mutex::new(Orders {
                impairments: None,
                stop: false,
            }),
            stats: Mutex::new(RelayStats::default()),
        });
        let runner = Runner {
            shared: Arc::clone(&shared),
            tap,
            switch: ours,
            to_port: Line::new(impairments.to_port, impairments.seed),
            from_port: Line::new(impairments.from_port, seed_back(impairments.seed)),
            counted: RelayStats::default(),
            started: Instant::now(),
        };
        let thread = std::thread::Builder::new()
            .name("weft-impair".to_owned())
            .spawn(move || {
                let _abort = AbortOnPanic;
                runner.run();
            })?;
        let relay = Self {
            shared,
            thread: Some(thread),
        };
        Ok((relay, queue))
    }

    /// Other impairments from now on. What is on the way arrives at once.
    pub fn set(&self, impairments: Impairments) {
        lock(&self.shared.orders).impairments = Some(impairments);
        self.wake();
    }

    /// What became of frames so far.
    pub fn stats(&self) -> RelayStats {
        *lock(&self.shared.stats)
    }

    fn wake(&self) {
        // Full means that it is awake.
        let _ = self.shared.wake.write(1);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        lock(&self.shared.orders).stop = true;
        self.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Both directions have fates of their own.
const fn seed_back(seed: u64) -> u64 {
    !seed
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Runner {
    shared: Arc<Shared>,
    tap: Vec<Queue>,
    switch: Queue,
    to_port: Line,
    from_port: Line,
    /// Of lines that were replaced, and of their ends.
    counted: RelayStats,
    started: Instant,
}

/// The TAP or the switch has let go of the port.
struct Gone;

impl Runner {
    fn run(mut self) {
        let mut buffer = vec![0; RECV_BUFFER_LEN];
        loop {
            let due = [self.to_port.next_due(), self.from_port.next_due()];
            let due = due.into_iter().flatten().min();
            let timeout = due.map(|due| due.saturating_sub(self.started.elapsed()));
            if self.wait(timeout).is_err() {
                return;
            }
            if self.obey() {
                return self.flush();
            }
            if self.read(&mut buffer).is_err() {
                return;
            }
            self.write(self.started.elapsed());
            self.publish();
        }
    }

    fn wait(&self, timeout: Option<Duration>) -> Result<(), Gone> {
        let input = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let taps = self.tap.iter().map(|queue| input(queue.as_fd()));
        let others = [self.switch.as_fd(), self.shared.wake.as_fd()].map(input);
        let mut fds: Vec<PollFd<'_>> = taps.chain(others).collect();
        match ppoll(&mut fds, timeout.map(TimeSpec::from_duration), None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => {
                tracing::error!(%error, "an impaired port can't be waited for");
                return Err(Gone);
            }
        }
        let dead = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
        let gone = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| events.intersects(dead));
        if fds.iter().any(gone) {
            return Err(Gone);
        }
        Ok(())
    }

    /// Takes orders; true at the end.
    fn obey(&mut self) -> bool {
        let _ = self.shared.wake.read();
        let (new, stop) = {
            let mut orders = lock(&self.shared.orders);
            (orders.impairments.take(), orders.stop)
        };
        if let Some(new) = new {
            self.flush();
            let sum = self.stats();
            self.counted = sum;
            self.to_port = Line::new(new.to_port, new.seed);
            self.from_port = Line::new(new.from_port, seed_back(new.seed));
        }
        stop
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<(), Gone> {
        let now = self.started.elapsed();
        for queue in &self.tap {
            let refused = &mut self.counted.refused;
            drain(queue, &mut self.from_port, now, buffer, refused)?;
        }
        let refused = &mut self.counted.refused;
        drain(&self.switch, &mut self.to_port, now, buffer, refused)
    }

    /// Hands on what has arrived by `now`.
    fn write(&mut self, now: Duration) {
        while let Some(frame) = self.to_port.pop(now) {
            if let Some(queue) = self.tap.first()
                && queue.send(frame.as_ref()).is_err()
            {
                self.counted.not_taken += 1;
            }
        }
        while let Some(frame) = self.from_port.pop(now) {
            if self.switch.send(frame.as_ref()).is_err() {
                self.counted.refused += 1;
            }
        }
    }

    fn flush(&mut self) {
        self.write(Duration::MAX);
        self.publish();
    }

    fn stats(&self) -> RelayStats {
        RelayStats {
            to_port: self.counted.to_port + self.to_port.stats(),
            from_port: self.counted.from_port + self.from_port.stats(),
            ..self.counted
        }
    }

    fn publish(&self) {
        *lock(&self.shared.stats) = self.stats();
    }
}

/// Puts what a queue has onto a line.
fn drain(
    queue: &Queue,
    line: &mut Line,
    now: Duration,
    buffer: &mut [u8],
    refused: &mut u64,
) -> Result<(), Gone> {
    for _ in 0..BUDGET {
        match queue.recv(buffer) {
            Ok(frame) if line.wants_packets() && !frame.offload.is_none() => {
                if cut(frame, |packet| line.push(now, FrameRef::plain(packet))).is_err() {
                    *refused += 1;
                }
            }
            Ok(frame) => line.push(now, frame),
            Err(RecvError::Empty) => return Ok(()),
            Err(RecvError::Malformed(_)) => *refused += 1,
            Err(RecvError::Gone) => return Err(Gone),
        }
    }
    Ok(())
}

/// Makes the packets of a superframe, or finishes a single one.
fn cut(frame: FrameRef<'_>, mut each: impl FnMut(&[u8])) -> Result<(), weft_wire::SegmentError> {
    let plan = SegmentPlan::new(frame)?;
    let mut header = [0; MAX_HEADER_LEN];
    let header = &mut header[..plan.header_len()];
    let mut packet = Vec::new();
    for i in 0..plan.count() {
        plan.write_header(frame, i, header);
        packet.clear();
        packet.extend_from_slice(header);
        packet.extend_from_slice(&frame.bytes[plan.payload(i)]);
        each(&packet);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use etherparse::PacketBuilder;
    use weft_wire::{Gso, GsoKind, Offload, PartialChecksum};

    use super::super::Impairment;
    use super::*;

    /// The container's end of a "TAP", and the switch's.
    fn impaired(impairments: Impairments) -> (Queue, Relay, Queue) {
        let (container, tap) = service_pair().unwrap();
        let (relay, switch) = Relay::start(vec![tap], impairments).unwrap();
        (container, relay, switch)
    }

    fn receive(queue: &Queue) -> (usize, Offload) {
        let mut buffer = vec![0; RECV_BUFFER_LEN];
        let since = Instant::now();
        loop {
            match queue.recv(&mut buffer) {
                Ok(frame) => return (frame.bytes.len(), frame.offload),
                Err(error) => assert_eq!(error, RecvError::Empty),
            }
            assert!(since.elapsed() < Duration::from_secs(5), "nothing came");
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    fn superframe() -> (Vec<u8>, Offload) {
        let mut bytes = Vec::new();
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(1000, 2000, 7, 1000)
            .write(&mut bytes, &[0x5a; 2800])
            .unwrap();
        let offload = Offload {
            checksum: Some(PartialChecksum {
                start: 34,
                offset: 16,
            }),
            gso: Some(Gso {
                kind: GsoKind::Tcp4,
                size: NonZeroU16::new(1400).unwrap(),
                ecn: false,
            }),
        };
        (bytes, offload)
    }

    #[test]
    fn each_direction_has_its_delay() {
        let delayed = |delay| Impairment {
            delay: Duration::from_millis(delay),
            ..Impairment::default()
        };
        let (container, relay, switch) = impaired(Impairments {
            to_port: delayed(30),
            from_port: delayed(0),
            seed: 0,
        });
        let sent = Instant::now();
        container.send(FrameRef::plain(&[1; 60])).unwrap();
        receive(&switch);
        assert!(sent.elapsed() < Duration::from_millis(25));
        let sent = Instant::now();
        switch.send(FrameRef::plain(&[2; 60])).unwrap();
        receive(&container);
        assert!(sent.elapsed() >= Duration::from_millis(30));
        assert_eq!(relay.stats().from_port.frames, 1);
    }

    #[test]
    fn a_superframe_stays_whole_unless_chance_looks_at_packets() {
        let (bytes, offload) = superframe();
        let frame = FrameRef {
            offload,
            ..FrameRef::plain(&bytes)
        };
        let mut impairments = Impairments::default();
        impairments.from_port.delay = Duration::from_millis(1);
        let (container, relay, switch) = impaired(impairments);
        container.send(frame).unwrap();
        assert_eq!(receive(&switch), (bytes.len(), offload));
        impairments.from_port.loss = 1e-9;
        relay.set(impairments);
        container.send(frame).unwrap();
        for _ in 0..2 {
            assert_eq!(receive(&switch), (54 + 1400, Offload::default()));
        }
    }

    #[test]
    fn what_is_on_the_way_arrives_when_the_impairment_ends() {
        let mut impairments = Impairments::default();
        impairments.to_port.delay = Duration::from_secs(3600);
        let (container, relay, switch) = impaired(impairments);
        switch.send(FrameRef::plain(&[2; 60])).unwrap();
        let since = Instant::now();
        while relay.stats().to_port.frames == 0 {
            assert!(since.elapsed() < Duration::from_secs(5));
            std::thread::yield_now();
        }
        drop(relay);
        receive(&container);
    }

    #[test]
    fn a_port_that_goes_goes_for_the_switch_too() {
        let (container, _relay, switch) = impaired(Impairments::default());
        drop(container);
        let mut buffer = vec![0; RECV_BUFFER_LEN];
        let since = Instant::now();
        while switch.recv(&mut buffer).unwrap_err() != RecvError::Gone {
            assert!(since.elapsed() < Duration::from_secs(5));
            std::thread::yield_now();
        }
    }
}
