//! Real container runtimes that call the CNI plugin: Debian's podman (CNI backend) and containerd, each with everything
//! of its own in the lab's directory.

#![expect(
    clippy::too_many_lines,
    clippy::unwrap_used,
    reason = "scenarios are told in order, and a test may panic"
)]

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use weft_testbed::lab::verdict::{SOON, wait_until};
use weft_testbed::lab::{Finished, Host, image};
use weft_testbed::{Lab, Pair};

/// A daemon-less podman may take its time on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}

/// Plugin directory and network configurations of one host, as `weft cni install` makes them.
fn install(host: &Host, dir: &Path) -> (PathBuf, PathBuf) {
    let (bin, conf) = (dir.join("bin"), dir.join("net.d"));
    let dirs = [
        "--bin-dir",
        bin.to_str().unwrap(),
        "--conf-dir",
        conf.to_str().unwrap(),
    ];
    for (name, file, subnet) in [
        ("pods", "10-pods.conflist", "10.40.0.0/16"),
        ("other", "20-other.conflist", "10.41.0.0/16"),
    ] {
        let flags = [
            "cni",
            "install",
            "--link",
            "--name",
            name,
            "--conf-file",
            file,
            "--subnet",
            subnet,
        ];
        host.weft(&[&flags[..], &dirs].concat());
    }
    (bin, conf)
}

/// podman of one host.
struct Podman<'a> {
    host: &'a Host,
    dir: PathBuf,
}

impl<'a> Podman<'a> {
    fn new(host: &'a Host) -> Self {
        // Not below a symlink and short: podman puts unix sockets there.
        let dir = host.ns.lab_file(&format!("{}-podman", host.name));
        fs::create_dir_all(&dir).unwrap();
        let (bin, conf) = install(host, &dir);
        write(
            &dir.join("containers.conf"),
            &format!(
                "[network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [\"{}\", \"/usr/lib/cni\"]\nnetwork_config_dir = \"{}\"\n\
                 [engine]\nenable_port_reservation = false\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\nruntime = \"runc\"\n\
                 [containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\npids_limit = 0\n",
                bin.display(),
                conf.display()
            ),
        );
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\nrunroot = \"{0}/run\"\ngraphroot = \"{0}/root\"\n",
            dir.display()
        );
        write(&dir.join("storage.conf"), &storage);
        let podman = Self { host, dir };
        let tar = image::root_tar(&podman.dir);
        podman.run(&["import", tar.to_str().unwrap(), "localhost/bb"]);
        podman
    }

    fn attempt(&self, args: &[&str]) -> Finished {
        let path = |name: &str| self.dir.join(name).display().to_string();
        let settings = [
            format!("CONTAINERS_CONF={}", path("containers.conf")),
            format!("CONTAINERS_STORAGE_CONF={}", path("storage.conf")),
        ];
        let (root, runroot, tmp) = (path("root"), path("run"), path("tmp"));
        let own = [
            settings[0].as_str(),
            settings[1].as_str(),
            "podman",
            "--root",
            &root,
            "--runroot",
            &runroot,
            "--tmpdir",
            &tmp,
            "--storage-driver",
            "vfs",
        ];
        self.host
            .ns
            .run_for(PATIENCE, "env", &[&own[..], args].concat())
    }

    #[track_caller]
    fn run(&self, args: &[&str]) -> String {
        self.attempt(args).expect_done()
    }

    fn ip(&self, container: &str, network: &str) -> IpAddr {
        let text = self.run(&["inspect", container]);
        let all: Vec<Value> = serde_json::from_str(&text).unwrap();
        let network = &all[0]["NetworkSettings"]["Networks"][network];
        network["IPAddress"].as_str().unwrap().parse().unwrap()
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        // Whatever the test came to.
        let _ = self.attempt(&["rm", "--all", "--force", "--time", "0"]);
    }
}

/// `podman run --publish`, on two networks that are both told of it.
fn expect_published(podman: &Podman<'_>) {
    podman.run(&[
        "run",
        "-d",
        "--name",
        "served",
        "--network",
        "pods,other",
        "-p",
        "8087:80",
        "localhost/bb",
        "sh",
        "-c",
        "while true; do echo hello | nc -l -p 80; done",
    ]);
    let ask = || {
        let ask = "busybox nc -w 2 10.99.0.1 8087 </dev/null";
        podman.host.ns.run("sh", &["-c", ask]).stdout
    };
    wait_until(SOON, "the port answers", || ask() == "hello\n");
    podman.run(&["rm", "--force", "--time", "0", "served"]);
    assert_eq!(ask(), "");
}

#[test]
fn podmans_containers_reach_each_other_across_hosts_and_leave_nothing() {
    let pair = Pair::up(Lab::new());
    let (one, two) = (Podman::new(&pair.host1), Podman::new(&pair.host2));
    one.run(&[
        "run",
        "-d",
        "--name",
        "web",
        "--network",
        "pods",
        "--network-alias",
        "www",
        "--ip",
        "10.40.0.77",
        "localhost/bb",
        "sleep",
        "600",
    ]);
    assert_eq!(
        one.ip("web", "pods"),
        "10.40.0.77".parse::<IpAddr>().unwrap()
    );
    let ports = pair.host1.ports();
    assert_eq!((ports[0].name.as_str(), ports.len()), ("web", 1));
    assert!(
        ports[0].aliases.contains(&"www".to_owned()),
        "{:?}",
        ports[0].aliases
    );
    let ping = |podman: &Podman<'_>, to: &str| {
        podman.run(&[
            "run",
            "--rm",
            "--network",
            "pods",
            "localhost/bb",
            "ping",
            "-c",
            "2",
            "-W",
            "5",
            to,
        ])
    };
    let said = ping(&two, "10.40.0.77");
    assert!(said.contains(" 0% packet loss"), "{said}");
    // By name and alias, too: podman takes the network's gateway as name server.
    for name in ["web", "www"] {
        let said = ping(&two, name);
        assert!(
            said.contains("(10.40.0.77)") && said.contains(" 0% packet loss"),
            "{said}"
        );
    }
    // What asks for a taken address is told so by podman, and leaves nothing.
    let refused = two.attempt(&[
        "run",
        "--rm",
        "--network",
        "pods",
        "--ip",
        "10.40.0.77",
        "localhost/bb",
        "sleep",
        "0",
    ]);
    assert_ne!(refused.code, Some(0));
    assert!(
        refused.stderr.contains("10.40.0.77") && refused.stderr.contains("taken"),
        "{refused}"
    );
    // A second network, while it runs.
    one.run(&["network", "connect", "other", "web"]);
    let interfaces = one.run(&["exec", "web", "ip", "-o", "addr"]);
    assert!(
        interfaces.contains("eth1") && interfaces.contains("10.41."),
        "{interfaces}"
    );
    one.run(&["network", "disconnect", "other", "web"]);
    assert_eq!(pair.host1.ports().len(), 1);
    expect_published(&one);
    // It is what it was after a restart of itself, and of the agent.
    one.run(&["restart", "--time", "0", "web"]);
    assert_eq!(
        one.ip("web", "pods"),
        "10.40.0.77".parse::<IpAddr>().unwrap()
    );
    pair.host1.kill_agent();
    pair.host1.restart_agent();
    let said = ping(&two, "10.40.0.77");
    assert!(said.contains(" 0% packet loss"), "{said}");
    one.run(&["rm", "--force", "--time", "0", "web"]);
    for host in [&pair.host1, &pair.host2] {
        assert!(host.ports().is_empty(), "{:?}", host.ports());
    }
    assert!(pair.host1.network("pods").members.is_empty());
    // With the agent away a container is refused with the reason, and one that runs can still be removed.
    one.run(&[
        "run",
        "-d",
        "--name",
        "last",
        "--network",
        "pods",
        "localhost/bb",
        "sleep",
        "600",
    ]);
    pair.host1.stop_agent();
    let refused = one.attempt(&[
        "run",
        "--rm",
        "--network",
        "pods",
        "localhost/bb",
        "sleep",
        "0",
    ]);
    assert!(refused.stderr.contains("no agent listens"), "{refused}");
    one.run(&["rm", "--force", "--time", "0", "last"]);
    pair.host1.restart_agent();
    wait_until(SOON, "the port is forgotten", || {
        pair.host1.ports().is_empty()
    });
}

/// containerd and what it runs end with the script; what it mounts is its own.
const CONTAINERD: &str = r#"
set -eu
dir=$1 bin=$2 conf=$3 to=$4
mount --make-rprivate /
mkdir -p /opt/cni /etc/cni
mount -t tmpfs none /opt/cni
mount -t tmpfs none /etc/cni
ln -s "$bin" /opt/cni/bin
ln -s "$conf" /etc/cni/net.d
cat >"$dir/config.toml" <<END
version = 2
root = "$dir/root"
state = "$dir/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "$dir/sock"
END
containerd -c "$dir/config.toml" >"$dir/log" 2>&1 &
daemon=$!
trap 'kill $daemon; wait $daemon || true' EXIT
for _ in $(seq 100); do [ -S "$dir/sock" ] && break; sleep 0.1; done
ctr="ctr --address $dir/sock"
$ctr images import --snapshotter native --base-name localhost/bb "$dir/oci.tar" >&2
for n in 1 2; do
    $ctr run --snapshotter native --rm --cni localhost/bb:latest "c$n" /bin/sh -c "ip -o addr show eth0; ping -c 2 -W 5 $to"
done
"#;

#[test]
fn containerd_connects_its_containers() {
    let pair = Pair::up(Lab::new());
    let host = &pair.host1;
    let podman = Podman::new(host);
    let dir = host.ns.lab_file("cd");
    fs::create_dir_all(&dir).unwrap();
    let (bin, conf) = install(host, &dir);
    fs::remove_file(conf.join("20-other.conflist")).unwrap();
    symlink("/usr/lib/cni/loopback", bin.join("loopback")).unwrap();
    let oci = dir.join("oci.tar").display().to_string();
    podman.run(&["tag", "localhost/bb", "localhost/bb:latest"]);
    podman.run(&[
        "save",
        "--format",
        "oci-archive",
        "-o",
        &oci,
        "localhost/bb:latest",
    ]);
    pair.host2
        .weft(&["network", "create", "pods", "--subnet", "10.40.0.0/16"]);
    let far = pair.lab.container(&pair.host2, "pods", "far", &[]);
    let to = far.ip().to_string();
    let paths = [&dir, &bin, &conf].map(|path| path.display().to_string());
    let args = [
        "-m",
        "sh",
        "-c",
        CONTAINERD,
        "containerd",
        &paths[0],
        &paths[1],
        &paths[2],
        &to,
    ];
    let done = host.ns.run_for(PATIENCE, "unshare", &args);
    let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
    assert_eq!(done.code, Some(0), "{done}\n{log}");
    assert_eq!(done.stdout.matches(" 0% packet loss").count(), 2, "{done}");
    assert_eq!(done.stdout.matches("inet 10.40.").count(), 2, "{done}");
    wait_until(SOON, "its ports go", || host.ports().is_empty());
}
