//! A host with its agent, the controller, and the `weft` command line as a user types it. What commands print with
//! `--json` is read with the types of weft's own API.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde::de::DeserializeOwned;
use weft_control::api;

use super::clock::Clock;
use super::process::{self, Finished, Process};
use super::verdict::wait_until;
use super::{Lab, Namespace, Site, lock, must, weft_bin};

/// How long a `weft` command may take.
const COMMAND_PATIENCE: Duration = Duration::from_secs(60);
/// How long a daemon may take to come up or to go.
const DAEMON_PATIENCE: Duration = Duration::from_secs(20);
/// Where controllers listen.
const CONTROLLER_PORT: u16 = 6783;

/// Why `weft` said no.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// For programs.
    pub code: String,
    /// Object and cause.
    pub message: String,
    /// The next step.
    pub hint: String,
}

/// Runs `weft` with these words, wherever the test runs.
#[track_caller]
pub fn weft(args: &[&str]) -> Finished {
    process::run(Command::new(weft_bin()).args(args), COMMAND_PATIENCE)
}

/// Reads a refusal from a command that must have ended with exit code 1 and one JSON object on stderr.
#[track_caller]
pub fn refusal(finished: &Finished) -> Refusal {
    assert!(
        finished.code == Some(1),
        "a refusal has exit code 1: {finished}"
    );
    let line = finished
        .stderr
        .lines()
        .rev()
        .find(|line| line.starts_with('{'));
    let error: serde_json::Value = match line.map(serde_json::from_str) {
        Some(Ok(value)) => value,
        Some(Err(_)) | None => panic!("stderr holds no error object: {finished}"),
    };
    let text = |key: &str| error["error"][key].as_str().unwrap_or_default().to_owned();
    Refusal {
        code: text("code"),
        message: text("message"),
        hint: text("hint"),
    }
}

/// The keeper of the cluster's map.
#[derive(Debug)]
pub struct Controller {
    /// Where it runs.
    pub ns: Namespace,
    /// Where agents reach it.
    pub address: SocketAddr,
    name: String,
    args: Vec<String>,
    data: PathBuf,
    clock: Mutex<Option<Clock>>,
    process: Mutex<Option<Arc<Process>>>,
}

impl Controller {
    pub(crate) fn new(lab: &Lab, ns: Namespace, ip: IpAddr) -> Self {
        Self::named(lab, ns, ip, "controller")
    }

    /// One of several of a lab.
    pub(crate) fn named(lab: &Lab, ns: Namespace, ip: IpAddr, name: &str) -> Self {
        let data = lab.site().path(name);
        let address = SocketAddr::new(ip, CONTROLLER_PORT);
        Self {
            ns,
            address,
            name: name.to_owned(),
            args: Vec::new(),
            data,
            clock: Mutex::default(),
            process: Mutex::new(None),
        }
    }

    /// Further flags for each start.
    pub(crate) fn with_args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// It lives by that clock whenever it is started from now on.
    pub fn give_clock(&self, clock: &Clock) {
        *lock(&self.clock) = Some(clock.clone());
    }

    /// Its data directory.
    pub fn data(&self) -> &str {
        self.data
            .to_str()
            .expect("the lab's directory has an ASCII name")
    }

    /// Starts it and waits until it answers.
    #[track_caller]
    pub fn start(&self) {
        self.start_with(&[]);
    }

    /// The same with further flags.
    #[track_caller]
    pub fn start_with(&self, extra: &[&str]) {
        self.spawn_with(extra);
        let process = self.running();
        wait_until(DAEMON_PATIENCE, "the controller listens", || {
            assert!(
                process.is_running(),
                "the controller ended:\n{}",
                process.log()
            );
            self.listens()
        });
        self.token(&[]);
    }

    /// Starts it and does not wait.
    #[track_caller]
    pub fn start_soon(&self) {
        self.spawn_with(&[]);
    }

    #[track_caller]
    fn spawn_with(&self, extra: &[&str]) {
        let listen = self.address.to_string();
        let args = [
            "controller",
            "run",
            "--data",
            self.data(),
            "--listen",
            &listen,
        ];
        let further: Vec<&str> = self.args.iter().map(String::as_str).collect();
        let line = line(lock(&self.clock).as_ref());
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        let words = [&line[1..], &args, &further[..], extra].concat();
        let process = self.ns.spawn(&self.name, line[0], &words);
        *lock(&self.process) = Some(process);
    }

    /// Waits until it answers. One that ended because its store didn't answer is started again, as systemd does.
    #[track_caller]
    pub fn wait_up(&self) {
        wait_until(2 * DAEMON_PATIENCE, "the controller answers", || {
            if !self.running().is_running() {
                self.start_soon();
            }
            self.listens() && self.try_token(&[]).code == Some(0)
        });
    }

    /// `kill -9`.
    #[track_caller]
    pub fn kill(&self) {
        self.running().kill();
    }

    /// SIGTERM; it must end well.
    #[track_caller]
    pub fn stop(&self) {
        let status = self.running().stop(Signal::SIGTERM, DAEMON_PATIENCE);
        assert!(status.success(), "the controller ended with {status}");
    }

    #[track_caller]
    fn running(&self) -> Arc<Process> {
        lock(&self.process)
            .clone()
            .expect("the test started the controller")
    }

    /// What it and its predecessors said.
    #[track_caller]
    pub fn log(&self) -> String {
        self.running().log()
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub fn expect_end(&self) -> std::process::ExitStatus {
        self.running().expect_end(2 * DAEMON_PATIENCE)
    }

    /// Its process, as last started.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.running().pid()
    }

    /// Whether its UDP port is bound in its namespace.
    fn listens(&self) -> bool {
        let wanted = format!(":{CONTROLLER_PORT:04X} ");
        let table = if self.address.is_ipv4() {
            "udp"
        } else {
            "udp6"
        };
        let table = format!("/proc/thread-self/net/{table}");
        let sockets = self.ns.enter(|| std::fs::read_to_string(&table));
        must(sockets, "list UDP sockets").contains(&wanted)
    }

    fn try_token(&self, extra: &[&str]) -> Finished {
        weft(&[&["controller", "token", "--data", self.data()], extra].concat())
    }

    /// A join token; `extra` are further flags such as `--ttl 1s`.
    #[track_caller]
    pub fn token(&self, extra: &[&str]) -> String {
        self.try_token(extra).expect_done().trim().to_owned()
    }
}

fn bin() -> String {
    weft_bin().to_string_lossy().into_owned()
}

/// The beginning of a daemon's command line.
fn line(clock: Option<&Clock>) -> Vec<String> {
    let mut words = clock.map(Clock::words).unwrap_or_default();
    words.push(bin());
    words
}

/// A host: a namespace with an underlay address in which an agent runs.
#[derive(Debug)]
pub struct Host {
    /// Where the agent runs.
    pub ns: Namespace,
    /// Its node name.
    pub name: String,
    /// Its underlay address.
    pub underlay: IpAddr,
    site: Arc<Site>,
    agent: Mutex<Option<Arc<Process>>>,
    agent_args: Mutex<Vec<String>>,
    clock: Mutex<Option<Clock>>,
}

impl Host {
    pub(crate) fn new(lab: &Lab, ns: Namespace, name: &str, underlay: IpAddr) -> Self {
        let site = Arc::clone(lab.site());
        Self {
            ns,
            name: name.to_owned(),
            underlay,
            site,
            agent: Mutex::new(None),
            agent_args: Mutex::default(),
            clock: Mutex::default(),
        }
    }

    fn file(&self, suffix: &str) -> String {
        self.site
            .path(&format!("{}.{suffix}", self.name))
            .to_string_lossy()
            .into_owned()
    }

    /// The agent's state directory.
    pub fn state(&self) -> PathBuf {
        PathBuf::from(self.file("state"))
    }

    /// The agent's socket.
    pub fn socket(&self) -> PathBuf {
        PathBuf::from(self.file("sock"))
    }

    /// Further flags for this host's agent whenever it is started from now on.
    pub fn give_agent(&self, args: &[String]) {
        lock(&self.agent_args).extend_from_slice(args);
    }

    /// Its agent lives by that clock whenever it is started from now on.
    pub fn give_clock(&self, clock: &Clock) {
        *lock(&self.clock) = Some(clock.clone());
    }

    /// Starts the agent with these flags beside `--state` and `--socket`, and does not wait.
    #[track_caller]
    pub fn spawn_agent(&self, extra: &[&str]) -> Arc<Process> {
        let (state, socket) = (self.file("state"), self.file("sock"));
        let args = ["agent", "run", "--state", &state, "--socket", &socket];
        let own = lock(&self.agent_args).clone();
        let given = [lock(&self.site.agent_args).clone(), own].concat();
        let given: Vec<&str> = given.iter().map(String::as_str).collect();
        let line = line(lock(&self.clock).as_ref());
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        let words = [&line[1..], &args, extra, &given].concat();
        let process = self.ns.spawn(&self.name, line[0], &words);
        *lock(&self.agent) = Some(Arc::clone(&process));
        process
    }

    /// Starts the agent with a fresh token of that controller and waits until its API answers for the cluster.
    #[track_caller]
    pub fn join(&self, controller: &Controller) {
        let token = controller.token(&[]);
        self.join_with(controller, &token);
        self.wait_up();
    }

    /// Starts the agent with that token and does not wait.
    #[track_caller]
    pub fn join_with(&self, controller: &Controller, token: &str) -> Arc<Process> {
        let (join, underlay) = (controller.address.to_string(), self.underlay.to_string());
        self.spawn_agent(&[
            "--join",
            &join,
            "--token",
            token,
            "--node",
            &self.name,
            "--underlay",
            &underlay,
        ])
    }

    /// Starts the agent of a member again: the state directory knows the rest.
    #[track_caller]
    pub fn restart_agent(&self) {
        self.spawn_agent(&[]);
        self.wait_up();
    }

    /// Waits until the agent answers.
    #[track_caller]
    pub fn wait_up(&self) {
        let agent = self.agent();
        wait_until(
            DAEMON_PATIENCE,
            &format!("the agent of {} answers", self.name),
            || {
                assert!(
                    agent.is_running(),
                    "the agent of {} ended:\n{}",
                    self.name,
                    agent.log()
                );
                self.try_weft(&["status", "--json"]).code == Some(0)
            },
        );
    }

    /// The agent's process, as last started.
    #[track_caller]
    pub fn agent(&self) -> Arc<Process> {
        lock(&self.agent)
            .clone()
            .expect("the test started the agent")
    }

    /// `kill -9`.
    #[track_caller]
    pub fn kill_agent(&self) {
        self.agent().kill();
    }

    /// SIGTERM; it must end well.
    #[track_caller]
    pub fn stop_agent(&self) {
        let status = self.agent().stop(Signal::SIGTERM, DAEMON_PATIENCE);
        assert!(
            status.success(),
            "the agent of {} ended with {status}:\n{}",
            self.name,
            self.agent().log()
        );
    }

    /// Processes that the agent started and that keep its ports alive.
    pub fn holders(&self) -> Vec<u32> {
        let agent = lock(&self.agent).as_ref().map(|agent| agent.pid());
        process::pids_mentioning(&self.state())
            .into_iter()
            .filter(|pid| Some(*pid) != agent)
            .collect()
    }

    /// Runs `weft` against this host's agent, whatever comes of it.
    #[track_caller]
    pub fn try_weft(&self, args: &[&str]) -> Finished {
        let socket = self.file("sock");
        weft(&[&["--socket", &socket], args].concat())
    }

    /// Runs `weft`; it must succeed. Returns what it printed.
    #[track_caller]
    pub fn weft(&self, args: &[&str]) -> String {
        self.try_weft(args).expect_done()
    }

    /// Runs `weft` with `--json` and reads what it printed.
    #[track_caller]
    pub fn json<T: DeserializeOwned>(&self, args: &[&str]) -> T {
        let text = self.weft(&[args, &["--json"]].concat());
        must(
            serde_json::from_str(&text),
            &format!("read what `weft {}` printed:\n{text}", args.join(" ")),
        )
    }

    /// Runs `weft`; it must refuse with exit code 1, and say what and why.
    #[track_caller]
    pub fn refused(&self, args: &[&str]) -> Refusal {
        refusal(&self.try_weft(&[args, &["--json"]].concat()))
    }

    /// Connects a namespace; `extra` are further flags.
    #[track_caller]
    pub fn connect(&self, network: &str, ns: &Namespace, extra: &[&str]) -> api::Port {
        self.json(
            &[
                &["network", "connect", network, "--netns", ns.name()],
                extra,
            ]
            .concat(),
        )
    }

    /// Disconnects a namespace.
    #[track_caller]
    pub fn disconnect(&self, network: &str, ns: &Namespace) {
        self.weft(&["network", "disconnect", network, "--netns", ns.name()]);
    }

    /// `weft ports`.
    #[track_caller]
    pub fn ports(&self) -> Vec<api::Port> {
        self.json(&["ports"])
    }

    /// The port of that namespace.
    #[track_caller]
    pub fn port_of(&self, ns: &Namespace) -> api::Port {
        let found = self
            .ports()
            .into_iter()
            .find(|port| port.netns == ns.name());
        found.unwrap_or_else(|| panic!("{} has no port for {}", self.name, ns.name()))
    }

    /// `weft peers`.
    #[track_caller]
    pub fn peers(&self) -> api::Peers {
        self.json(&["peers"])
    }

    /// The peer with that underlay address.
    #[track_caller]
    pub fn peer_at(&self, address: IpAddr) -> api::Peer {
        let found = self
            .peers()
            .peers
            .into_iter()
            .find(|peer| peer.address == address);
        found.unwrap_or_else(|| panic!("{} has no peer {address}", self.name))
    }

    /// `weft fdb`.
    #[track_caller]
    pub fn fdb(&self) -> Vec<api::FdbEntry> {
        self.json(&["fdb"])
    }

    /// `weft subnets`.
    #[track_caller]
    pub fn subnets(&self) -> Vec<api::SubnetBlock> {
        self.json(&["subnets"])
    }

    /// `weft nodes`.
    #[track_caller]
    pub fn nodes(&self) -> Vec<api::NodeInfo> {
        self.json(&["nodes"])
    }

    /// `weft status`.
    #[track_caller]
    pub fn status(&self) -> api::Status {
        self.json(&["status"])
    }

    /// `weft network inspect` of one network.
    #[track_caller]
    pub fn network(&self, name: &str) -> api::NetworkDetail {
        let mut found: Vec<api::NetworkDetail> = self.json(&["network", "inspect", name]);
        assert!(found.len() == 1, "one name is one network");
        found.remove(0)
    }

    /// `weft status --wait`.
    #[track_caller]
    pub fn wait_in_sync(&self) -> api::Status {
        self.json(&["status", "--wait", "20"])
    }

    /// Everything that a refused command must leave as it was, as text: networks with members and blocks, and ports.
    #[track_caller]
    pub fn listing(&self) -> String {
        let networks: Vec<api::NetworkInfo> = self.json(&["network", "ls"]);
        let details: Vec<api::NetworkDetail> = networks
            .iter()
            .map(|network| self.network(&network.name))
            .collect();
        let ports: Vec<(String, String, String)> = self
            .ports()
            .into_iter()
            .map(|port| (port.network, port.name, port.mac.to_string()))
            .collect();
        format!("{details:#?}\n{ports:#?}")
    }
}
