//! Traffic between namespaces: ping, TCP transfers compared byte by byte, iperf3, and a prober that measures how long
//! nothing arrived.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::process::Process;
use super::verdict::wait_until;
use super::{Namespace, must};

/// A transfer that stands still this long has failed.
const TCP_PATIENCE: Duration = Duration::from_secs(30);
/// Bytes per write of a transfer: an odd number, so that segments don't fall on it.
const CHUNK_LEN: usize = 61_441;

/// Pings `to` three times from `from`; all must come back.
#[track_caller]
pub fn ping(from: &Namespace, to: IpAddr) {
    let to = to.to_string();
    let finished = from.run("ping", &["-n", "-c", "3", "-i", "0.05", "-W", "2", &to]);
    assert!(
        finished.code == Some(0) && finished.stdout.contains(" 0% packet loss"),
        "from {}: {finished}",
        from.name()
    );
}

/// Whether one ping comes back within a second.
pub fn answers(from: &Namespace, to: IpAddr) -> bool {
    from.run("ping", &["-n", "-c", "1", "-W", "1", &to.to_string()])
        .code
        == Some(0)
}

/// Pings so that the frame just fills the MTU, with the don't-fragment bit: what is promised must pass.
#[track_caller]
pub fn ping_full(from: &Namespace, to: IpAddr, mtu: u32) {
    let headers = if to.is_ipv4() { 28 } else { 48 };
    let (size, to) = ((mtu - headers).to_string(), to.to_string());
    let finished = from.run(
        "ping",
        &[
            "-n", "-c", "2", "-i", "0.05", "-W", "2", "-M", "do", "-s", &size, &to,
        ],
    );
    assert!(finished.code == Some(0), "from {}: {finished}", from.name());
}

/// Pings with more than a frame holds: request and reply come in fragments.
#[track_caller]
pub fn ping_in_fragments(from: &Namespace, to: IpAddr) {
    for size in ["3000", "20000"] {
        let to = to.to_string();
        let args = ["-n", "-c", "3", "-i", "0.1", "-W", "5", "-s", size, &to];
        let finished = from.run("ping", &args);
        assert!(
            finished.code == Some(0) && finished.stdout.contains(" 0% packet loss"),
            "{finished}"
        );
    }
}

/// Bytes that look like noise and are the same for the same seed (xorshift64*).
struct Noise(u64);

impl Noise {
    fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let word = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

/// Sends `len` bytes by TCP from `from` to address `to` of `to_ns`, and as many back at the same time. Both sides compare
/// every byte.
#[track_caller]
pub fn transfer(from: &Namespace, to_ns: &Namespace, to: IpAddr, len: usize) {
    let listener = to_ns.enter(|| must(TcpListener::bind((to, 0)), &format!("listen on {to}")));
    let address = must(listener.local_addr(), "read a socket's address");
    let server = thread::spawn(move || {
        let (stream, _) = must(listener.accept(), "accept");
        both_ways(&stream, len, (2, 1));
    });
    let client = from.enter(|| connect(address));
    both_ways(&client, len, (1, 2));
    if let Err(panic) = server.join() {
        std::panic::resume_unwind(panic);
    }
}

#[track_caller]
fn connect(address: SocketAddr) -> TcpStream {
    must(
        TcpStream::connect_timeout(&address, TCP_PATIENCE),
        &format!("connect to {address}"),
    )
}

fn both_ways(stream: &TcpStream, len: usize, (own, theirs): (u64, u64)) {
    must(
        stream.set_read_timeout(Some(TCP_PATIENCE)),
        "set a time limit",
    );
    must(
        stream.set_write_timeout(Some(TCP_PATIENCE)),
        "set a time limit",
    );
    thread::scope(|scope| {
        scope.spawn(|| send_noise(stream, len, own));
        compare_noise(stream, len, theirs);
    });
}

fn send_noise(mut stream: &TcpStream, len: usize, seed: u64) {
    let (mut noise, mut buffer, mut left) = (Noise(seed), vec![0; CHUNK_LEN], len);
    while left > 0 {
        let now = left.min(CHUNK_LEN);
        noise.fill(&mut buffer);
        must(
            stream.write_all(&buffer[..now]),
            &format!("send, {left} of {len} bytes left"),
        );
        left -= now;
    }
    must(stream.shutdown(std::net::Shutdown::Write), "end a transfer");
}

fn compare_noise(mut stream: &TcpStream, len: usize, seed: u64) {
    let (mut noise, mut wanted, mut seen) = (Noise(seed), vec![0; CHUNK_LEN], vec![0; CHUNK_LEN]);
    let mut left = len;
    while left > 0 {
        let now = left.min(CHUNK_LEN);
        noise.fill(&mut wanted);
        must(
            stream.read_exact(&mut seen[..now]),
            &format!("receive, {left} of {len} bytes left"),
        );
        assert!(
            seen[..now] == wanted[..now],
            "bytes arrived changed, somewhere after byte {}",
            len - left
        );
        left -= now;
    }
    let more = must(stream.read(&mut seen), "see a transfer's end");
    assert!(more == 0, "more bytes arrived than were sent");
}

/// Keeps the logs of iperf3 runs apart.
static IPERF_RUNS: AtomicU32 = AtomicU32::new(0);

/// What iperf3 measured at the receiving side.
#[derive(Clone, Debug)]
pub struct Iperf {
    /// Bits per second.
    pub bits_per_second: f64,
    /// Bytes.
    pub bytes: u64,
    /// Bytes that the sender's kernel had acknowledged in each tenth of a second.
    pub intervals: Vec<u64>,
    /// Segments sent again.
    pub retransmits: u64,
}

/// An iperf3 transfer under way.
#[derive(Debug)]
pub struct IperfRun {
    client: Arc<Process>,
    server: Arc<Process>,
}

/// How an iperf3 transfer goes.
#[derive(Clone, Debug)]
pub struct IperfPlan {
    /// Seconds.
    pub secs: u32,
    /// Connections at once.
    pub flows: u32,
    /// TCP congestion control; the machine's own when there's none.
    pub congestion: Option<String>,
    /// The other way round: who is connected to sends.
    pub reverse: bool,
}

/// Starts an iperf3 TCP transfer of `secs` seconds from `from` to address `to` of `to_ns`.
#[track_caller]
pub fn iperf_start(from: &Namespace, to_ns: &Namespace, to: IpAddr, secs: u32) -> IperfRun {
    let plan = IperfPlan {
        secs,
        flows: 1,
        congestion: None,
        reverse: false,
    };
    plan.start(from, to_ns, to)
}

impl IperfPlan {
    /// Starts it from `from` to address `to` of `to_ns`.
    #[track_caller]
    pub fn start(&self, from: &Namespace, to_ns: &Namespace, to: IpAddr) -> IperfRun {
        let (to, secs, flows) = (
            to.to_string(),
            self.secs.to_string(),
            self.flows.to_string(),
        );
        let number = IPERF_RUNS.fetch_add(1, Ordering::Relaxed);
        let log = format!("iperf3-{number}-server-{}", to_ns.name());
        let server = to_ns.spawn(&log, "iperf3", &["-s", "-1", "-B", &to, "--forceflush"]);
        wait_until(TCP_PATIENCE, "iperf3 -s listens", || {
            server.log().contains("Server listening")
        });
        let log = format!("iperf3-{number}-client-{}", from.name());
        let mut args = vec!["-c", &to, "-t", &secs, "-P", &flows, "-i", "0.1", "-J"];
        if let Some(congestion) = &self.congestion {
            args.extend(["-C", congestion]);
        }
        if self.reverse {
            args.push("-R");
        }
        let client = from.spawn(&log, "iperf3", &args);
        IperfRun { client, server }
    }
}

impl IperfRun {
    /// Waits for the end and reads what was measured; the transfer must not have failed.
    #[track_caller]
    pub fn finish(self) -> Iperf {
        let status = self.client.expect_end(Duration::from_secs(120));
        let text = self.client.log();
        assert!(status.success(), "iperf3 failed ({status}):\n{text}");
        // It ends after one test; the port must be free for the next.
        self.server.kill();
        let value: serde_json::Value =
            must(serde_json::from_str(&text), "read what iperf3 printed");
        let intervals = value["intervals"].as_array().cloned().unwrap_or_default();
        Iperf {
            bits_per_second: value["end"]["sum_received"]["bits_per_second"]
                .as_f64()
                .unwrap_or(0.0),
            bytes: value["end"]["sum_received"]["bytes"].as_u64().unwrap_or(0),
            intervals: intervals
                .iter()
                .map(|i| i["sum"]["bytes"].as_u64().unwrap_or(0))
                .collect(),
            retransmits: value["end"]["sum_sent"]["retransmits"]
                .as_u64()
                .unwrap_or(0),
        }
    }
}

/// Sends a datagram each millisecond from one namespace to another and notes when they arrive.
#[derive(Debug)]
pub struct Prober {
    stop: Arc<AtomicBool>,
    sender: JoinHandle<u64>,
    receiver: JoinHandle<Probe>,
}

/// What a [`Prober`] saw.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams that arrived.
    pub arrived: u64,
    /// The longest time in which none arrived.
    pub longest_gap: Duration,
}

impl Prober {
    /// Starts it; the first datagram has arrived when this returns.
    #[track_caller]
    pub fn start(from: &Namespace, to_ns: &Namespace, to: IpAddr) -> Self {
        let sink = to_ns.enter(|| must(UdpSocket::bind((to, 0)), &format!("bind {to}")));
        let address = must(sink.local_addr(), "read a socket's address");
        let unspecified: IpAddr = if to.is_ipv4() {
            [0; 4].into()
        } else {
            [0; 16].into()
        };
        let source = from.enter(|| must(UdpSocket::bind((unspecified, 0)), "bind a socket"));
        must(source.connect(address), &format!("connect to {address}"));
        let stop = Arc::new(AtomicBool::new(false));
        let (first, started) = std::sync::mpsc::channel();
        let until = Arc::clone(&stop);
        let receiver = thread::spawn(move || receive_probes(&sink, &until, &first));
        let until = Arc::clone(&stop);
        let sender = thread::spawn(move || send_probes(&source, &until));
        must(
            started.recv_timeout(TCP_PATIENCE),
            "see the first probe arrive",
        );
        Self {
            stop,
            sender,
            receiver,
        }
    }

    /// Stops it.
    #[track_caller]
    pub fn finish(self) -> Probe {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().expect("the sender does not panic");
        let probe = self.receiver.join().expect("the receiver does not panic");
        Probe { sent, ..probe }
    }
}

fn send_probes(source: &UdpSocket, until: &AtomicBool) -> u64 {
    let (began, mut sent) = (Instant::now(), 0_u64);
    while !until.load(Ordering::Relaxed) {
        // A full ring or a host that is being restarted is what is measured here.
        let _ = source.send(&sent.to_be_bytes());
        sent += 1;
        let due = began + Duration::from_millis(sent);
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    sent
}

fn receive_probes(
    sink: &UdpSocket,
    until: &AtomicBool,
    first: &std::sync::mpsc::Sender<()>,
) -> Probe {
    must(
        sink.set_read_timeout(Some(Duration::from_millis(20))),
        "set a time limit",
    );
    let mut probe = Probe {
        sent: 0,
        arrived: 0,
        longest_gap: Duration::ZERO,
    };
    let (mut last, mut buffer) = (None, [0; 8]);
    loop {
        let ended = until.load(Ordering::Relaxed);
        let now = match sink.recv(&mut buffer) {
            Ok(_) => Instant::now(),
            Err(_) if ended => break,
            Err(_) => continue,
        };
        if let Some(last) = last.replace(now) {
            probe.longest_gap = probe.longest_gap.max(now - last);
        } else {
            // Nobody listens any more only when the test has failed.
            let _ = first.send(());
        }
        probe.arrived += 1;
    }
    if let Some(last) = last {
        probe.longest_gap = probe
            .longest_gap
            .max(last.elapsed().saturating_sub(Duration::from_millis(40)));
    }
    probe
}
