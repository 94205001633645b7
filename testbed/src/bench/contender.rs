//! Who is measured: weft, the kernel alone, or somebody else. Most have a container that sends, one beside it on the same
//! host, and one on another host.

use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use weft_testbed::lab::meter::checksum_faults;
use weft_testbed::lab::traffic::answers;
use weft_testbed::lab::verdict::{processor_time, wait_until};
use weft_testbed::{Container, Host, KernelPair, Lab, Namespace, Pair};

use crate::out;
use crate::result::{ENCRYPTED, KERNEL, ROUTED, WEFT};
use crate::work::Reach;

/// VNI of the kernel's VXLAN devices.
const VNI: u32 = 4_242;
/// Until the first ping is answered.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long nothing happens to see what that costs.
const IDLE: Duration = Duration::from_secs(2);

/// From where to where frames go.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    /// Where the sender runs.
    pub(crate) from: Namespace,
    /// Where the receiver runs.
    pub(crate) to: Namespace,
    /// The receiver's address inside the overlay.
    pub(crate) ip: IpAddr,
}

/// One of those that are measured.
#[derive(Debug)]
pub(crate) struct Contender {
    /// As the table calls it.
    pub(crate) name: &'static str,
    /// Between two containers of a host; none when it can't.
    pub(crate) local: Option<Way>,
    /// From host to host; none when it can't.
    pub(crate) cross: Option<Way>,
    /// From a host's container to the outside; none when it can't.
    pub(crate) out: Option<Way>,
    /// The hosts.
    pub(crate) hosts: Vec<Namespace>,
    /// What carries the frames.
    pub(crate) switch: Switch,
}

/// What carries the frames.
#[derive(Debug)]
pub(crate) enum Switch {
    /// The kernel.
    Kernel,
    /// weft's agents.
    Weft(Box<Pair>),
    /// Other processes, by number.
    Processes(Vec<u32>),
}

impl Contender {
    /// Two hosts with weft.
    pub(crate) fn weft(pair: Pair) -> Self {
        pair.host1
            .weft(&["network", "create", "bench", "--subnet", "10.32.0.0/16"]);
        let join = |host: &Host, name: &str| pair.lab.quiet_container(host, "bench", name, &[]);
        let (client, near) = (join(&pair.host1, "c1"), join(&pair.host1, "c2"));
        let far = join(&pair.host2, "c3");
        let way = |to: &Container| Way {
            from: client.ns.clone(),
            to: to.ns.clone(),
            ip: to.ip(),
        };
        Self {
            name: WEFT,
            local: Some(way(&near)),
            cross: Some(way(&far)),
            out: Some(out::weft(&pair)),
            hosts: vec![pair.host1.ns.clone(), pair.host2.ns.clone()],
            switch: Switch::Weft(Box::new(pair)),
        }
    }

    /// The same two hosts and agents on an encrypted network: from host to host only, within one it is the same way.
    pub(crate) fn weft_encrypted(pair: &Pair) -> Self {
        let subnet = ["--subnet", "10.34.0.0/16"];
        pair.host1
            .weft(&[&["network", "create", "sealed", "--encrypted"], &subnet[..]].concat());
        let join = |host: &Host, name: &str| pair.lab.quiet_container(host, "sealed", name, &[]);
        let (client, far) = (join(&pair.host1, "s1"), join(&pair.host2, "s2"));
        let agents = [&pair.host1, &pair.host2].map(|host| host.agent().pid());
        Self {
            name: ENCRYPTED,
            local: None,
            cross: Some(Way {
                from: client.ns.clone(),
                to: far.ns.clone(),
                ip: far.ip(),
            }),
            out: None,
            hosts: vec![pair.host1.ns.clone(), pair.host2.ns.clone()],
            switch: Switch::Processes(agents.to_vec()),
        }
    }

    /// The same two hosts and agents, from one network of a router to another.
    pub(crate) fn weft_routed(pair: &Pair) -> Self {
        let host = &pair.host1;
        for (name, subnet) in [("left", "10.35.0.0/16"), ("right", "10.36.0.0/16")] {
            host.weft(&["network", "create", name, "--subnet", subnet]);
        }
        host.weft(&["router", "create", "core"]);
        host.weft(&["router", "connect", "core", "left", "right"]);
        pair.wait_in_sync();
        let join = |host, network, name| pair.lab.quiet_container(host, network, name, &[]);
        let client = join(host, "left", "r1");
        let way = |to: Container| Way {
            from: client.ns.clone(),
            to: to.ns.clone(),
            ip: to.ip(),
        };
        let agents = [&pair.host1, &pair.host2].map(|host| host.agent().pid());
        Self {
            name: ROUTED,
            local: Some(way(join(host, "right", "r2"))),
            cross: Some(way(join(&pair.host2, "right", "r3"))),
            out: None,
            hosts: vec![pair.host1.ns.clone(), pair.host2.ns.clone()],
            switch: Switch::Processes(agents.to_vec()),
        }
    }

    /// Two hosts with the kernel's bridge and VXLAN device.
    pub(crate) fn kernel(lab: &Lab) -> Self {
        let pair = KernelPair::up(lab, VNI);
        let (client, _) = pair.container(lab, 0, "k-c1", 1);
        let way = |(to, ip)| Way {
            from: client.clone(),
            to,
            ip,
        };
        Self {
            name: KERNEL,
            local: Some(way(pair.container(lab, 0, "k-c2", 2))),
            cross: Some(way(pair.container(lab, 1, "k-c3", 3))),
            out: out::kernel(lab),
            hosts: pair.hosts.to_vec(),
            switch: Switch::Kernel,
        }
    }

    /// Where that leads, when it leads there.
    pub(crate) fn way(&self, reach: Reach) -> Option<&Way> {
        match reach {
            Reach::Local => self.local.as_ref(),
            Reach::Cross => self.cross.as_ref(),
            Reach::Out => self.out.as_ref(),
        }
    }

    /// Waits until the other end answers: addresses are resolved before anything is measured.
    pub(crate) fn warm_up(&self, way: &Way) {
        wait_until(PATIENCE, &format!("{} carries a ping", self.name), || {
            answers(&way.from, way.ip)
        });
    }

    /// Processes that switch; none when the kernel does it.
    pub(crate) fn processes(&self) -> Vec<u32> {
        match &self.switch {
            Switch::Kernel => Vec::new(),
            Switch::Weft(pair) => [&pair.host1, &pair.host2]
                .map(|host| host.agent().pid())
                .to_vec(),
            Switch::Processes(pids) => pids.clone(),
        }
    }

    /// Processor time that those processes have taken so far.
    pub(crate) fn switch_time(&self) -> Duration {
        self.processes().into_iter().map(processor_time).sum()
    }

    /// Processor time that those processes take without traffic, by elapsed time; `None` when there are no processes.
    pub(crate) fn idle(&self) -> Option<f64> {
        if self.processes().is_empty() {
            return None;
        }
        let (began, before) = (Instant::now(), self.switch_time());
        thread::sleep(IDLE);
        let taken = self.switch_time().saturating_sub(before);
        Some(taken.as_secs_f64() / began.elapsed().as_secs_f64())
    }

    /// Frames that containers gave to the switch so far, a superframe is one; `None` when nobody counts them.
    pub(crate) fn frames(&self) -> Option<u64> {
        let Switch::Weft(pair) = &self.switch else {
            return None;
        };
        let ports = [&pair.host1, &pair.host2].map(Host::ports);
        Some(
            ports
                .iter()
                .flatten()
                .map(|port| port.traffic.rx_frames)
                .sum(),
        )
    }

    /// Packets that a kernel of this contender dropped for a wrong checksum so far: containers and hosts.
    pub(crate) fn checksum_faults(&self) -> u64 {
        let ways = [&self.local, &self.cross, &self.out].into_iter().flatten();
        let ends = ways.flat_map(|way| [&way.from, &way.to]);
        let mut all: Vec<&Namespace> = ends.chain(&self.hosts).collect();
        all.sort_by_key(|ns| ns.name());
        all.dedup_by_key(|ns| ns.name());
        all.into_iter().map(checksum_faults).sum()
    }
}
