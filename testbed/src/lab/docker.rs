//! A host's own dockerd: real, with its own data, containers and sockets, in the host's network namespace and in a mount
//! namespace where the driver's socket is the one that this host's agent serves.
//!
//! The image is made offline from the static busybox. What dockerd starts (containerd, shims, containers) outlives a
//! killed dockerd, as on any host; so this ends it all, by number.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::process::{self, Finished, Process};
use super::verdict::wait_until;
use super::{Controller, Host, api, image, lock, must, names_in};

/// Image of every container.
pub const IMAGE: &str = "box";
/// How long dockerd may take to come up. With the plugin away it waits for it, see the tests.
const UP_PATIENCE: Duration = Duration::from_secs(150);
/// How long one `docker` command may take.
const COMMAND_PATIENCE: Duration = Duration::from_secs(90);
/// How long dockerd may take to end: it gives its containers ten seconds.
const DOWN_PATIENCE: Duration = Duration::from_secs(40);

/// A dockerd with its files; ended when this goes.
#[derive(Debug)]
pub struct Docker {
    dir: PathBuf,
    ns: super::Namespace,
    name: String,
    process: Mutex<Option<Arc<Process>>>,
}

impl Docker {
    /// Makes the files of a dockerd for `host`, and starts nothing.
    #[track_caller]
    pub fn cold(host: &Host) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        for (program, package) in [("dockerd", "docker.io"), ("busybox", "busybox-static")] {
            let here = std::env::split_paths(&path).any(|dir| dir.join(program).is_file());
            assert!(
                here,
                "the program {program} is missing: install the Debian package {package}"
            );
        }
        let dir = host.ns.lab_file(&format!("{}.docker", host.name));
        for part in ["plugins", "run", "data"] {
            must(
                fs::create_dir_all(dir.join(part)),
                "make dockerd's directories",
            );
        }
        Self {
            dir,
            ns: host.ns.clone(),
            name: host.name.clone(),
            process: Mutex::new(None),
        }
    }

    /// The flags by which the host's agent serves this dockerd.
    pub fn agent_flags(&self) -> Vec<String> {
        [
            "--docker",
            "--docker-socket",
            &self.text("plugins/weft.sock"),
            "--docker-host",
            &self.text("sock"),
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// The driver's socket.
    pub fn plugin(&self) -> PathBuf {
        self.dir.join("plugins/weft.sock")
    }

    fn text(&self, part: &str) -> String {
        self.dir.join(part).to_string_lossy().into_owned()
    }

    /// Starts dockerd and waits until it answers; makes the image the first time.
    #[track_caller]
    pub fn start(&self) -> Duration {
        let first = names_in(&self.dir.join("data")).is_empty();
        self.forget_dead();
        let script = format!(
            "mkdir -p /run/docker/plugins && mount --bind {plugins} /run/docker/plugins && exec dockerd \
             --data-root {data} --exec-root {run} --pidfile {pid} -H unix://{sock} --iptables=false \
             --ip6tables=false --ip-masq=false --bridge=none",
            plugins = self.text("plugins"),
            data = self.text("data"),
            run = self.text("run"),
            pid = self.text("pid"),
            sock = self.text("sock"),
        );
        let args = ["--mount", "--propagation", "private", "sh", "-c", &script];
        let log = format!("{}.dockerd", self.name);
        let process = self.ns.spawn(&log, "unshare", &args);
        let took = wait_until(UP_PATIENCE, "dockerd answers", || {
            assert!(process.is_running(), "dockerd ended:\n{}", process.log());
            self.try_run(&["version"]).code == Some(0)
        });
        *lock(&self.process) = Some(process);
        if first {
            self.import_image();
        }
        took
    }

    /// A dockerd that was killed leaves files with numbers of processes. containerd ends with it, but until somebody has
    /// reaped it its number looks taken, and the next dockerd waits for its socket in vain.
    fn forget_dead(&self) {
        let _ = fs::remove_file(self.dir.join("pid"));
        let file = self.dir.join("run/containerd/containerd.pid");
        let text = fs::read_to_string(&file).unwrap_or_default();
        if let Ok(containerd) = text.trim().parse::<u32>() {
            wait_until(DOWN_PATIENCE, "containerd has ended", || {
                !process::pids_mentioning(&self.dir).contains(&containerd)
            });
        }
        let _ = fs::remove_file(file);
    }

    fn import_image(&self) {
        let tar = image::root_tar(&self.dir).to_string_lossy().into_owned();
        self.run(&["import", &tar, IMAGE]);
    }

    /// `kill -9` of dockerd; containerd and containers stay.
    #[track_caller]
    pub fn kill(&self) {
        self.running().kill();
    }

    /// SIGTERM; dockerd stops its containers.
    #[track_caller]
    pub fn stop(&self) {
        self.running().stop(Signal::SIGTERM, DOWN_PATIENCE);
    }

    fn running(&self) -> Arc<Process> {
        lock(&self.process)
            .clone()
            .expect("the test started dockerd")
    }

    /// What dockerd said.
    pub fn log(&self) -> String {
        self.running().log()
    }

    /// A command with this dockerd's address in its environment.
    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(args)
            .env("DOCKER_HOST", format!("unix://{}", self.text("sock")))
            .env("DOCKER_CONFIG", self.dir.join("config"));
        command
    }

    /// Runs `docker`, whatever comes of it.
    #[track_caller]
    pub fn try_run(&self, args: &[&str]) -> Finished {
        process::run(&mut self.command("docker", args), COMMAND_PATIENCE)
    }

    /// Runs `docker`; it must succeed. Returns what it printed, without white space around it.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> String {
        self.try_run(args).expect_done().trim().to_owned()
    }

    /// Runs `docker`; it must fail. Returns why.
    #[track_caller]
    pub fn refused(&self, args: &[&str]) -> String {
        let finished = self.try_run(args);
        assert!(finished.code != Some(0), "this was not refused: {finished}");
        finished.stderr
    }

    /// Runs `docker-compose` in `dir`; it must succeed.
    #[track_caller]
    pub fn compose(&self, dir: &Path, args: &[&str]) -> String {
        let mut command = self.command("docker-compose", args);
        command.current_dir(dir);
        process::run(&mut command, COMMAND_PATIENCE).expect_done()
    }

    /// Makes a network of the driver; `extra` are further flags.
    #[track_caller]
    pub fn create_network(&self, name: &str, extra: &[&str]) {
        let args = [
            "network",
            "create",
            "--driver",
            "weft",
            "--ipam-driver",
            "weft",
        ];
        self.run(&[&args, extra, &[name]].concat());
    }

    /// Starts a container that sleeps; `extra` are further flags.
    #[track_caller]
    pub fn container(&self, name: &str, extra: &[&str]) {
        let args = ["run", "--detach", "--name", name];
        self.run(&[&args, extra, &[IMAGE, "sleep", "3600"]].concat());
    }

    /// Runs a shell command in a container; it must succeed.
    #[track_caller]
    pub fn exec(&self, container: &str, script: &str) -> String {
        self.run(&["exec", container, "sh", "-c", script])
    }

    /// Whether `target` answers one of three pings out of a container.
    pub fn pings(&self, container: &str, target: &str) -> bool {
        let script = format!("ping -c 3 -W 1 {target}");
        self.try_run(&["exec", container, "sh", "-c", &script]).code == Some(0)
    }

    /// A container's address on a network.
    #[track_caller]
    pub fn address(&self, container: &str, network: &str) -> String {
        let containers: Vec<Value> = must(
            serde_json::from_str(&self.run(&["inspect", container])),
            "read docker inspect",
        );
        let of = &containers[0]["NetworkSettings"]["Networks"][network]["IPAddress"];
        of.as_str().unwrap_or_default().to_owned()
    }

    /// A call of the driver as dockerd would make it, without dockerd.
    #[track_caller]
    pub fn call(&self, method: &str, body: &Value) -> Value {
        api::ask(&self.plugin(), "POST", &format!("/{method}"), body).1
    }

    /// Numbers of the containers' processes, by the ids that dockerd's data has.
    fn container_pids(&self) -> Vec<u32> {
        let ids = names_in(&self.dir.join("data/containers"));
        let pids = names_in(Path::new("/proc")).into_iter();
        pids.filter_map(|name| name.parse().ok())
            .filter(|pid: &u32| {
                let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
                ids.iter().any(|id| groups.contains(id.as_str()))
            })
            .collect()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let process = lock(&self.process).take();
        if let Some(process) = process {
            process.kill();
        }
        // dockerd's children name its directory; containers are known by their control groups.
        let pids = || process::pids_mentioning(&self.dir).into_iter();
        for pid in pids().chain(self.container_pids()) {
            process::kill_pid(pid);
        }
        // Their directories can go when they are gone.
        for _ in 0..200 {
            if pids().count() == 0 && self.container_pids().is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        for id in names_in(&self.dir.join("data/containers")) {
            for controller in names_in(Path::new("/sys/fs/cgroup")) {
                let group = Path::new("/sys/fs/cgroup").join(controller);
                // Most controllers have none.
                let _ = fs::remove_dir(group.join("docker").join(&id));
            }
        }
    }
}

impl Host {
    /// Joins a cluster with an agent that serves `docker`.
    #[track_caller]
    pub fn join_with_docker(&self, controller: &Controller, docker: &Docker) {
        self.give_agent(&docker.agent_flags());
        self.join(controller);
    }
}
