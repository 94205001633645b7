//! Who is measured: weft, or the kernel alone. Everybody has a container that sends, one beside it on the same host, and
//! one on another host.

use std::net::IpAddr;
use std::time::Duration;

use weft_testbed::lab::meter::checksum_faults;
use weft_testbed::lab::traffic::answers;
use weft_testbed::lab::verdict::{processor_time, wait_until};
use weft_testbed::{Host, KernelPair, Lab, Namespace, Pair};

use crate::work::Reach;

/// VNI of the kernel's VXLAN devices.
const VNI: u32 = 4_242;
/// Until the first ping is answered.
const PATIENCE: Duration = Duration::from_secs(15);

/// A container and its address.
#[derive(Clone, Debug)]
pub(crate) struct End {
    /// Where its processes run.
    pub(crate) ns: Namespace,
    /// Inside the overlay.
    pub(crate) ip: IpAddr,
}

/// One of those that are measured.
#[derive(Debug)]
pub(crate) struct Contender {
    /// As the table calls it.
    pub(crate) name: &'static str,
    /// The container that sends.
    pub(crate) client: Namespace,
    /// On the same host.
    pub(crate) near: End,
    /// On the other host.
    pub(crate) far: End,
    /// The hosts.
    pub(crate) hosts: [Namespace; 2],
    /// What switches, when it's in userspace.
    pub(crate) switch: Switch,
}

/// What carries the frames.
#[derive(Debug)]
pub(crate) enum Switch {
    /// The kernel.
    Kernel,
    /// weft's agents.
    Weft(Box<Pair>),
}

impl Contender {
    /// Two hosts with weft.
    pub(crate) fn weft(pair: Pair) -> Self {
        pair.host1
            .weft(&["network", "create", "bench", "--subnet", "10.32.0.0/16"]);
        let join = |host: &Host, name: &str| pair.lab.quiet_container(host, "bench", name, &[]);
        let (client, near) = (join(&pair.host1, "c1"), join(&pair.host1, "c2"));
        let far = join(&pair.host2, "c3");
        let end = |container: &weft_testbed::Container| End {
            ns: container.ns.clone(),
            ip: container.ip(),
        };
        Self {
            name: "weft",
            client: client.ns.clone(),
            near: end(&near),
            far: end(&far),
            hosts: [pair.host1.ns.clone(), pair.host2.ns.clone()],
            switch: Switch::Weft(Box::new(pair)),
        }
    }

    /// Two hosts with the kernel's bridge and VXLAN device.
    pub(crate) fn kernel(lab: &Lab) -> Self {
        let pair = KernelPair::up(lab, VNI);
        let (client, _) = pair.container(lab, 0, "k-c1", 1);
        let end = |(ns, ip)| End { ns, ip };
        Self {
            name: "kernel",
            client,
            near: end(pair.container(lab, 0, "k-c2", 2)),
            far: end(pair.container(lab, 1, "k-c3", 3)),
            hosts: pair.hosts,
            switch: Switch::Kernel,
        }
    }

    /// The container at the other end.
    pub(crate) fn end(&self, reach: Reach) -> &End {
        match reach {
            Reach::Local => &self.near,
            Reach::Cross => &self.far,
        }
    }

    /// Waits until the other end answers: addresses are resolved before anything is measured.
    pub(crate) fn warm_up(&self, reach: Reach) {
        let end = self.end(reach);
        wait_until(PATIENCE, &format!("{} carries a ping", self.name), || {
            answers(&self.client, end.ip)
        });
    }

    /// Processes that switch; none when the kernel does it.
    pub(crate) fn processes(&self) -> Vec<u32> {
        match &self.switch {
            Switch::Kernel => Vec::new(),
            Switch::Weft(pair) => [&pair.host1, &pair.host2]
                .map(|host| host.agent().pid())
                .to_vec(),
        }
    }

    /// Processor time that those processes have taken so far.
    pub(crate) fn switch_time(&self) -> Duration {
        self.processes().into_iter().map(processor_time).sum()
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
        let [first, second] = &self.hosts;
        let all = [&self.client, &self.near.ns, &self.far.ns, first, second];
        all.into_iter().map(checksum_faults).sum()
    }
}
