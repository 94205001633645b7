//! Hosts that each have a member of etcd and a controller: any one of them may die.

use std::time::Duration;

use super::{Segment, three};
use crate::lab::etcd::Etcd;
use crate::lab::verdict::wait_until;
use crate::lab::{Controller, Host, Lab};

/// How long agents may take to agree after what was done to them.
const PATIENCE: Duration = Duration::from_secs(40);

/// Hosts on one Ethernet segment.
///
/// ```text
///   host1                 host2                 host3
///   agent                 agent                 agent
///   controller            controller            controller
///   etcd                  etcd                  etcd
///   10.99.0.1 u0          10.99.0.2 u0          10.99.0.3 u0
///          |                     |                     |
///          f1 ----------------- f2 ---- br0 --------- f3         namespace "fabric"
/// ```
#[derive(Debug)]
pub struct Redundant {
    /// What owns everything here.
    pub lab: Lab,
    /// In order, as are controllers and members.
    pub hosts: Vec<Host>,
    /// One on each host.
    pub controllers: Vec<Controller>,
    /// One member on each host.
    pub etcd: Etcd,
    segment: Segment,
}

impl Redundant {
    /// etcd runs, controllers and agents don't.
    #[track_caller]
    pub fn wired(lab: Lab, count: u8) -> Self {
        Self::wired_with(lab, count, &[])
    }

    /// The same with further flags for each member of etcd.
    #[track_caller]
    pub fn wired_with(lab: Lab, count: u8, etcd_flags: &[&str]) -> Self {
        let (hosts, segment) = Segment::with_hosts(&lab, count);
        let places = hosts.iter().map(|host| (host.ns.clone(), host.underlay));
        let etcd = Etcd::start_with(places, etcd_flags);
        let controllers = hosts.iter().zip(1..).map(|(host, number)| {
            let name = format!("controller{number}");
            Controller::named(&lab, host.ns.clone(), host.underlay, &name)
                .with_args(&["--store", &etcd.url()])
        });
        let controllers = controllers.collect();
        Self {
            lab,
            hosts,
            controllers,
            etcd,
            segment,
        }
    }

    /// All run and are in sync. Each agent was told only of the controller on its own host.
    #[track_caller]
    pub fn up(lab: Lab, count: u8) -> Self {
        Self::wired(lab, count).started()
    }

    /// Starts what is wired.
    #[track_caller]
    pub fn started(self) -> Self {
        for controller in &self.controllers {
            controller.start();
        }
        for (host, controller) in self.hosts.iter().zip(&self.controllers) {
            host.join(controller);
        }
        self.wait_in_agreement();
        self
    }

    /// A controller on the first host, with a store of its own, in the place of the first one.
    pub fn embedded_controller(&self) -> Controller {
        let host = &self.hosts[0];
        Controller::named(&self.lab, host.ns.clone(), host.underlay, "embedded")
    }

    /// Waits until all agents follow, and all hosts see every node connected.
    #[track_caller]
    pub fn wait_in_agreement(&self) {
        wait_until(PATIENCE, "all nodes are connected, as seen by all", || {
            self.hosts.iter().all(|host| {
                let told = host.try_weft(&["nodes", "--json"]);
                let nodes: Vec<serde_json::Value> =
                    serde_json::from_str(&told.stdout).unwrap_or_default();
                told.code == Some(0)
                    && nodes.len() == self.hosts.len()
                    && nodes.iter().all(|node| node["state"] == "connected")
            })
        });
        for host in &self.hosts {
            host.wait_in_sync();
        }
    }

    /// The hosts of a layout of three.
    pub fn three(&self) -> [&Host; 3] {
        three(&self.hosts)
    }

    /// Waits until each agent, which was told of one controller, knows them all.
    #[track_caller]
    pub fn wait_for_addresses(&self, patience: Duration) {
        wait_until(patience, "agents know all controllers", || {
            let count = self.controllers.len();
            let mut hosts = self.hosts.iter();
            hosts.all(|host| host.status().controller.addresses.len() == count)
        });
    }

    /// Cuts the host of that number (from 1) off from all others.
    pub fn cut_off(&self, number: u8) {
        self.segment.cut_off(number);
    }

    /// Heals what [`Redundant::cut_off`] cut.
    pub fn heal(&self, number: u8) {
        self.segment.heal(number);
    }

    /// The number (from 1) of the controller that the host's agent is connected to; `None` when to none.
    pub fn controller_of(&self, host: &Host) -> Option<usize> {
        let told = host.try_weft(&["status", "--json"]);
        let status: serde_json::Value = serde_json::from_str(&told.stdout).unwrap_or_default();
        let connected = status["controller"]["connected"].as_str()?;
        let at = self
            .controllers
            .iter()
            .position(|controller| controller.address.to_string() == connected);
        at.map(|at| at + 1)
    }
}
