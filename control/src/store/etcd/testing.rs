//! A real etcd for tests: one member on a loopback address of its own, gone with its handle.

use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use super::EtcdConfig;

const PATIENCE: Duration = Duration::from_secs(30);
const DATA: &str = "data";
const SAVED: &str = "saved";

/// The process with its data.
#[derive(Debug)]
pub(crate) struct Server {
    address: Ipv4Addr,
    dir: TempDir,
    is_secure: bool,
    child: Child,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_as(false)
    }

    /// With TLS both ways.
    pub(crate) fn start_secure() -> Self {
        Self::start_as(true)
    }

    fn start_as(is_secure: bool) -> Self {
        static COUNTER: AtomicU8 = AtomicU8::new(1);
        let [.., high, low] = std::process::id().to_be_bytes();
        let address = Ipv4Addr::new(
            127,
            high | 0x80,
            low,
            COUNTER.fetch_add(1, Ordering::Relaxed),
        );
        let dir = tempfile::tempdir().unwrap();
        if is_secure {
            make_certificates(address, dir.path());
        }
        let child = spawn(address, dir.path(), is_secure);
        let server = Self {
            address,
            dir,
            is_secure,
            child,
        };
        server.wait();
        server
    }

    /// Where it is; each store of a test has a prefix of its own.
    pub(crate) fn config(&self, prefix: &str) -> EtcdConfig {
        EtcdConfig::parse(&format!("etcd://{}:2379/{prefix}", self.address)).unwrap()
    }

    /// A PEM file that it was started with: `ca`, `cert` or `key`; its certificate serves as a client's, too.
    pub(crate) fn pem(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.pem"))
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again on its data.
    pub(crate) fn start_again(&mut self) {
        self.child = spawn(self.address, self.dir.path(), self.is_secure);
        self.wait();
    }

    /// Notes what is in it, for [`set_back`](Self::set_back).
    pub(crate) fn save(&mut self) {
        self.kill();
        self.copy(DATA, SAVED);
        self.start_again();
    }

    /// It is again as it was when it was saved.
    pub(crate) fn set_back(&mut self) {
        self.kill();
        std::fs::remove_dir_all(self.dir.path().join(DATA)).unwrap();
        self.copy(SAVED, DATA);
        self.start_again();
    }

    fn copy(&self, from: &str, to: &str) {
        let copied = Command::new("cp")
            .arg("-a")
            .args([from, to].map(|name| self.dir.path().join(name)))
            .status();
        assert!(copied.unwrap().success());
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

/// An authority and a certificate of it for that address.
fn make_certificates(address: Ipv4Addr, dir: &Path) {
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::from_ca_cert_der(ca.der(), &ca_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![address.to_string()]).unwrap();
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let cert = params.signed_by(&key, &issuer).unwrap();
    for (name, text) in [
        ("ca", ca.pem()),
        ("cert", cert.pem()),
        ("key", key.serialize_pem()),
    ] {
        std::fs::write(dir.join(format!("{name}.pem")), text).unwrap();
    }
}

fn spawn(address: Ipv4Addr, dir: &Path, is_secure: bool) -> Child {
    let scheme = if is_secure { "https" } else { "http" };
    let (client, peer) = (
        format!("{scheme}://{address}:2379"),
        format!("http://{address}:2380"),
    );
    let mut command = Command::new("etcd");
    if is_secure {
        for (flag, name) in [
            ("--cert-file", "cert"),
            ("--key-file", "key"),
            ("--trusted-ca-file", "ca"),
        ] {
            command.arg(flag).arg(dir.join(format!("{name}.pem")));
        }
        command.arg("--client-cert-auth");
    }
    command
        .arg("--data-dir")
        .arg(dir.join(DATA))
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
