//! Network namespaces: named as `ip netns` names them, entered by threads of the test, deleted with the lab.

use std::fs::{self, File};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use super::process::{self, Finished, Process};
use super::{Site, lock, must};

/// How long a command may take when the test doesn't say.
const PATIENCE: Duration = Duration::from_secs(60);

/// A network namespace of a lab: a host or a container. A handle; the lab owns the namespace.
#[derive(Clone, Debug)]
pub struct Namespace {
    site: Arc<Site>,
    name: String,
}

impl Namespace {
    pub(super) fn create(site: &Arc<Site>, name: &str) -> Self {
        let name = format!("{}-{name}", site.id);
        lock(&site.namespaces).push(name.clone());
        let ns = Self {
            site: Arc::clone(site),
            name,
        };
        ns.create_again();
        ns
    }

    /// Makes it anew after [`Namespace::delete`].
    pub fn create_again(&self) {
        process::run(
            Command::new("ip").args(["netns", "add", &self.name]),
            PATIENCE,
        )
        .expect_done();
        self.ip(&["link", "set", "lo", "up"]);
    }

    /// As `ip netns list` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its file.
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// Deletes it without telling anybody.
    pub fn delete(&self) {
        delete(&self.name);
    }

    /// Runs `work` inside, on a thread of its own. Sockets made there stay there.
    #[track_caller]
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let file = must(
            File::open(self.path()),
            &format!("open namespace {}", self.name),
        );
        let inside = || {
            must(setns(&file, CloneFlags::CLONE_NEWNET), "enter a namespace");
            work()
        };
        let ended = thread::scope(|scope| scope.spawn(inside).join());
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Runs a command inside and waits for it, a minute at most.
    #[track_caller]
    pub fn run(&self, program: &str, args: &[&str]) -> Finished {
        self.run_for(PATIENCE, program, args)
    }

    /// Runs a command inside and waits for it.
    #[track_caller]
    pub fn run_for(&self, limit: Duration, program: &str, args: &[&str]) -> Finished {
        let mut command = Command::new(program);
        command.args(args);
        self.enter(move || process::run(&mut command, limit))
    }

    /// Runs `ip` inside; it must succeed.
    #[track_caller]
    pub fn ip(&self, args: &[&str]) -> String {
        self.run("ip", args).expect_done()
    }

    /// Makes a veth pair: one end here, the other in another namespace. Both are down.
    #[track_caller]
    pub fn veth(&self, ifname: &str, peer: &Self, peer_ifname: &str) {
        self.ip(&[
            "link",
            "add",
            ifname,
            "type",
            "veth",
            "peer",
            "name",
            peer_ifname,
            "netns",
            peer.name(),
        ]);
    }

    /// Starts a program inside that runs until it is stopped or the lab ends; its output goes to `LOG.log`.
    #[track_caller]
    pub fn spawn(&self, log: &str, program: &str, args: &[&str]) -> Arc<Process> {
        let mut command = Command::new(program);
        command.args(args);
        let path = self.site.path(&format!("{log}.log"));
        let process = self.enter(move || Process::spawn(command, &path));
        let process = Arc::new(process);
        lock(&self.site.processes).push(Arc::clone(&process));
        process
    }

    /// A file of the lab's directory.
    pub fn lab_file(&self, name: &str) -> PathBuf {
        self.site.path(name)
    }

    /// Sets a value under /proc/sys/net as this namespace has it.
    #[track_caller]
    pub fn sysctl(&self, key: &str, value: &str) {
        let path = format!("/proc/sys/net/{key}");
        self.enter(|| must(fs::write(&path, value), &format!("set {path}")));
    }

    /// No IPv6 on interfaces made from now on, so that nothing is sent that the test didn't ask for.
    pub fn without_ipv6(self) -> Self {
        self.sysctl("ipv6/conf/default/disable_ipv6", "1");
        self
    }

    /// One file of /sys/class/net/IFNAME would show the wrong namespace; this asks netlink.
    #[track_caller]
    pub fn link(&self, ifname: &str) -> serde_json::Value {
        let text = self.ip(&["-json", "-details", "addr", "show", "dev", ifname]);
        let links: Vec<serde_json::Value> =
            must(serde_json::from_str(&text), "read the output of ip -json");
        match links.into_iter().next() {
            Some(link) => link,
            None => panic!("{} has no interface {ifname}", self.name),
        }
    }

    /// Names of its interfaces but loopback.
    #[track_caller]
    pub fn ifnames(&self) -> Vec<String> {
        let text = self.ip(&["-json", "link", "show"]);
        let links: Vec<serde_json::Value> =
            must(serde_json::from_str(&text), "read the output of ip -json");
        let names = links.iter().filter_map(|link| link["ifname"].as_str());
        names
            .filter(|name| *name != "lo")
            .map(str::to_owned)
            .collect()
    }

    /// Global addresses of an interface.
    #[track_caller]
    pub fn addresses(&self, ifname: &str) -> Vec<IpAddr> {
        let link = self.link(ifname);
        let infos = link["addr_info"].as_array().cloned().unwrap_or_default();
        let global = infos.iter().filter(|info| info["scope"] == "global");
        global
            .filter_map(|info| info["local"].as_str()?.parse().ok())
            .collect()
    }
}

/// Deletes a namespace; none of that name is fine.
pub(super) fn delete(name: &str) {
    if Path::new("/run/netns").join(name).exists() {
        // A failure shows in the tests that count what is left.
        let _ = Command::new("ip").args(["netns", "del", name]).status();
    }
}
