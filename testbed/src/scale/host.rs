//! A host among the simulated ones on which a real agent runs, with a port on each of its networks: what a change costs
//! a host that it concerns.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use weft_testbed::lab::verdict::{processor_time, resident_kib};
use weft_testbed::lab::{Lab, Namespace, weft_bin};

/// How long the agent may take to answer, or to connect a port.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks whether it answers.
const TICK: Duration = Duration::from_millis(100);
/// Of 127.0.0.0/16, which no simulated agent has an address of.
const UNDERLAY: &str = "127.0.0.2";

/// The agent's process with its container. All of it goes with this.
pub(crate) struct Host {
    agent: Child,
    container: Namespace,
    lab: Lab,
}

impl Host {
    /// Starts the agent and waits until it is in sync.
    pub(crate) fn start(controller: SocketAddr, token: &str) -> Result<Self, String> {
        let mut ip = Command::new("ip");
        let added = ip.args(["address", "add", &format!("{UNDERLAY}/8"), "dev", "lo"]);
        let added = added.status().map_err(|error| error.to_string())?;
        if !added.success() {
            return Err(format!("cannot add {UNDERLAY}: ip ended with {added}"));
        }
        let lab = Lab::new();
        let container = lab.namespace("c");
        let mut command = Command::new(weft_bin());
        command.args(["agent", "run", "--log", "error", "--node", "real"]);
        command.args(["--underlay", UNDERLAY, "--token", token]);
        command.args(["--join", &controller.to_string()]);
        command.arg("--state").arg(lab.dir().join("state"));
        command.arg("--socket").arg(lab.dir().join("sock"));
        let agent = command.stdin(Stdio::null()).spawn();
        let agent = agent.map_err(|error| format!("cannot start the agent: {error}"))?;
        let host = Self {
            agent,
            container,
            lab,
        };
        let deadline = Instant::now() + PATIENCE;
        while let Err(error) = host.weft(&["status", "--wait"]) {
            if Instant::now() > deadline {
                return Err(error);
            }
            std::thread::sleep(TICK);
        }
        Ok(host)
    }

    /// Connects a port to that network.
    pub(crate) fn connect(&self, network: &str) -> Result<(), String> {
        let (netns, name) = (self.container.name(), format!("real-{network}"));
        let ports = ["--netns", netns, "--name", &name, "--ifname", network];
        self.weft(&[&["network", "connect", network], &ports[..]].concat())
    }

    /// What the agent has used of the processor so far, in ticks of 10 ms.
    pub(crate) fn processor(&self) -> Duration {
        processor_time(self.agent.id())
    }

    /// Its resident memory in MiB.
    pub(crate) fn memory_mib(&self) -> u64 {
        resident_kib(self.agent.id()) / 1024
    }

    fn weft(&self, args: &[&str]) -> Result<(), String> {
        let mut command = Command::new(weft_bin());
        command.arg("--socket").arg(self.lab.dir().join("sock"));
        let done = command.args(args).output();
        let done = done.map_err(|error| format!("cannot run weft: {error}"))?;
        if done.status.success() {
            return Ok(());
        }
        let why = String::from_utf8_lossy(&done.stderr).into_owned();
        Err(format!("`weft {}`: {why}", args.join(" ")))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // It is gone already when that fails. What it started goes with the lab.
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}
