//! An etcd cluster (Debian's `etcd-server`), one member in each of some namespaces.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::verdict::wait_until;
use super::{Finished, Namespace, Process, lock};

/// Until a member that was started has joined the others.
const PATIENCE: Duration = Duration::from_secs(40);
/// Where clients reach members.
const CLIENT_PORT: u16 = 2379;
/// Where members reach each other.
const PEER_PORT: u16 = 2380;

/// A cluster; its members end with the lab.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
    /// Further flags of each member.
    flags: Vec<String>,
}

#[derive(Debug)]
struct Member {
    ns: Namespace,
    address: IpAddr,
    process: Mutex<Option<Arc<Process>>>,
}

impl Etcd {
    /// Starts a member in each namespace, at that address of it, and waits until they're a cluster.
    #[track_caller]
    pub fn start(places: impl IntoIterator<Item = (Namespace, IpAddr)>) -> Self {
        Self::start_with(places, &[])
    }

    /// The same with further flags for each member.
    #[track_caller]
    pub fn start_with(
        places: impl IntoIterator<Item = (Namespace, IpAddr)>,
        flags: &[&str],
    ) -> Self {
        let members = places.into_iter().map(|(ns, address)| Member {
            ns,
            address,
            process: Mutex::default(),
        });
        let etcd = Self {
            members: members.collect(),
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        };
        for number in 1..=etcd.members.len() {
            etcd.start_member(number);
        }
        etcd.wait_healthy();
        etcd
    }

    /// The URL for `--store`.
    pub fn url(&self) -> String {
        let members = self.members.iter();
        let members = members.map(|member| format!("{}:{CLIENT_PORT}", member.address));
        format!("etcd://{}", members.collect::<Vec<_>>().join(","))
    }

    /// Starts the member of that number (from 1), on the data it had.
    #[track_caller]
    pub fn start_member(&self, number: usize) {
        let member = &self.members[number - 1];
        let all = (1..).zip(&self.members);
        let all = all.map(|(number, member)| format!("m{number}={}", peer_url(member.address)));
        let (client, peer) = (client_url(member.address), peer_url(member.address));
        let data = member.ns.lab_file(&format!("etcd{number}"));
        let args = [
            "--name",
            &format!("m{number}"),
            "--data-dir",
            &data.to_string_lossy(),
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
            "--initial-cluster",
            &all.collect::<Vec<_>>().join(","),
            "--log-level",
            "warn",
        ];
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        let words = [&args, &flags[..]].concat();
        let process = member.ns.spawn(&format!("etcd{number}"), "etcd", &words);
        *lock(&member.process) = Some(process);
    }

    /// `kill -9` of the member of that number (from 1).
    #[track_caller]
    pub fn kill_member(&self, number: usize) {
        let process = lock(&self.members[number - 1].process).clone();
        process.expect("it was started").kill();
    }

    /// Waits until a majority of the members answers by consensus.
    #[track_caller]
    pub fn wait_healthy(&self) {
        wait_until(PATIENCE, "etcd has a leader", || {
            let mut members = 1..=self.members.len();
            members.any(|number| {
                let args = ["--dial-timeout=1s", "--command-timeout=2s", "get", "health"];
                self.ctl(number, &args).code == Some(0)
            })
        });
    }

    /// Runs `etcdctl` against the member of that number (from 1).
    #[track_caller]
    pub fn ctl(&self, number: usize, args: &[&str]) -> Finished {
        let member = &self.members[number - 1];
        let endpoint = format!("--endpoints={}", client_url(member.address));
        let program = ["ETCDCTL_API=3", "etcdctl", &endpoint];
        member.ns.run("env", &[&program, args].concat())
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

fn client_url(address: IpAddr) -> String {
    format!("http://{address}:{CLIENT_PORT}")
}

fn peer_url(address: IpAddr) -> String {
    format!("http://{address}:{PEER_PORT}")
}
