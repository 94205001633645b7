//! A real etcd for tests: one member on a loopback address of its own, gone with its handle.

use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::EtcdConfig;

const PATIENCE: Duration = Duration::from_secs(30);

/// The process with its data.
#[derive(Debug)]
pub(crate) struct Server {
    address: Ipv4Addr,
    dir: TempDir,
    child: Child,
}

impl Server {
    pub(crate) fn start() -> Self {
        static COUNTER: AtomicU8 = AtomicU8::new(1);
        let [.., high, low] = std::process::id().to_be_bytes();
        let address = Ipv4Addr::new(
            127,
            high | 0x80,
            low,
            COUNTER.fetch_add(1, Ordering::Relaxed),
        );
        let dir = tempfile::tempdir().unwrap();
        let child = spawn(address, &dir);
        let server = Self {
            address,
            dir,
            child,
        };
        server.wait();
        server
    }

    /// Where it is; each store of a test has a prefix of its own.
    pub(crate) fn config(&self, prefix: &str) -> EtcdConfig {
        EtcdConfig::parse(&format!("etcd://{}:2379/{prefix}", self.address)).unwrap()
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again on its data.
    pub(crate) fn start_again(&mut self) {
        self.child = spawn(self.address, &self.dir);
        self.wait();
    }

    /// `etcdctl` against it.
    pub(crate) fn ctl(&self, args: &[&str]) -> String {
        let told = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .arg(format!("--endpoints=http://{}:2379", self.address))
            .args(args)
            .output()
            .expect("etcdctl is in the Debian package etcd-client");
        assert!(told.status.success(), "etcdctl {args:?}: {told:?}");
        String::from_utf8(told.stdout).unwrap()
    }

    fn wait(&self) {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect((self.address, 2379)).is_err() {
            assert!(Instant::now() < deadline, "etcd does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn spawn(address: Ipv4Addr, dir: &TempDir) -> Child {
    let (client, peer) = (
        format!("http://{address}:2379"),
        format!("http://{address}:2380"),
    );
    Command::new("etcd")
        .arg("--data-dir")
        .arg(dir.path())
        .args([
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ])
        .args([
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
        ])
        .args([
            "--initial-cluster",
            &format!("default={peer}"),
            "--log-level",
            "error",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("etcd is in the Debian package etcd-server")
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
