//! The work that is measured, and what issues 3 and 5 want of it.

use crate::args::Args;
use crate::result::{KERNEL, SLIRP};
use crate::underlay::Underlay;

/// Where the second container is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// On the same host.
    Local,
    /// On the other host.
    Cross,
    /// Outside of the overlay, by the host's address translation; both with an MTU of 1500.
    Out,
}

/// What the containers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// iperf3 with this many connections, one direction.
    Tcp {
        /// Connections.
        flows: u32,
    },
    /// The same, the other direction.
    Download {
        /// Connections.
        flows: u32,
    },
    /// A flood of datagrams with 64 bytes of payload.
    Udp,
    /// One datagram to and fro.
    Latency,
    /// The same while one TCP connection of the same two containers takes what it can get.
    LoadedLatency,
}

/// One line of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    /// Its name, for `--only`.
    pub(crate) name: &'static str,
    /// Between whom.
    pub(crate) reach: Reach,
    /// What.
    pub(crate) load: Load,
    /// On which wire, when one is crossed.
    pub(crate) underlay: Option<Underlay>,
}

/// What is read off the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Metric {
    /// Payload that arrived, Gb/s.
    Throughput,
    /// Datagrams that arrived, millions per second.
    Rate,
    /// One-way time, median, µs.
    P50,
    /// One-way time that one in a hundred datagrams exceeds, µs.
    P99,
}

impl Metric {
    /// Its unit.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Throughput => "Gb/s",
            Self::Rate => "Mpps",
            Self::P50 => "µs p50",
            Self::P99 => "µs p99",
        }
    }

    /// Whether less is better.
    pub(crate) fn is_time(self) -> bool {
        matches!(self, Self::P50 | Self::P99)
    }
}

const ALL: [(&str, Reach, Load); 15] = [
    ("tcp-local-1", Reach::Local, Load::Tcp { flows: 1 }),
    ("tcp-local-4", Reach::Local, Load::Tcp { flows: 4 }),
    ("tcp-cross-1", Reach::Cross, Load::Tcp { flows: 1 }),
    ("tcp-cross-4", Reach::Cross, Load::Tcp { flows: 4 }),
    ("udp-local", Reach::Local, Load::Udp),
    ("udp-cross", Reach::Cross, Load::Udp),
    ("latency-local", Reach::Local, Load::Latency),
    ("latency-cross", Reach::Cross, Load::Latency),
    ("loaded-local", Reach::Local, Load::LoadedLatency),
    ("loaded-cross", Reach::Cross, Load::LoadedLatency),
    ("egress-up-1", Reach::Out, Load::Tcp { flows: 1 }),
    ("egress-up-4", Reach::Out, Load::Tcp { flows: 4 }),
    ("egress-down-1", Reach::Out, Load::Download { flows: 1 }),
    ("egress-down-4", Reach::Out, Load::Download { flows: 4 }),
    ("egress-latency", Reach::Out, Load::Latency),
];

/// Names of all work.
pub(crate) fn names() -> Vec<&'static str> {
    ALL.iter().map(|(name, ..)| *name).collect()
}

/// What these arguments ask for: by underlay, so that the wire changes seldom.
///
/// # Errors
/// A name in `--only` that no work begins with.
pub(crate) fn plan(args: &Args) -> Result<Vec<Work>, String> {
    for wanted in &args.only {
        if !names().iter().any(|name| name.starts_with(wanted.as_str())) {
            let names = names().join(", ");
            return Err(format!("there is no work {wanted}: the names are {names}"));
        }
    }
    let asked = |name: &str| {
        args.only.is_empty() || args.only.iter().any(|only| name.starts_with(only.as_str()))
    };
    let mut plan = Vec::new();
    for (at, underlay) in args.underlay.iter().enumerate() {
        for (name, reach, load) in ALL.iter().filter(|(name, ..)| asked(name)) {
            let everywhere = *reach == Reach::Cross && matches!(load, Load::Tcp { .. });
            if at == 0 || everywhere {
                plan.push(Work {
                    name,
                    reach: *reach,
                    load: *load,
                    underlay: (*reach == Reach::Cross).then_some(*underlay),
                });
            }
        }
    }
    Ok(plan)
}

impl Work {
    /// Name and wire.
    pub(crate) fn title(&self) -> String {
        match self.underlay {
            Some(underlay) => format!("{} {}", self.name, underlay.name()),
            None => self.name.to_owned(),
        }
    }

    /// What is read off it, a row of the table each.
    pub(crate) fn metrics(&self) -> &'static [Metric] {
        match self.load {
            Load::Tcp { .. } | Load::Download { .. } => &[Metric::Throughput],
            Load::Udp => &[Metric::Rate],
            Load::Latency => &[Metric::P50, Metric::P99],
            Load::LoadedLatency => &[Metric::P99],
        }
    }

    /// Who weft is compared with: to the outside, the usual way out of containers that are nobody's but their user's.
    pub(crate) fn rival(&self) -> &'static str {
        match self.reach {
            Reach::Local | Reach::Cross => KERNEL,
            Reach::Out => SLIRP,
        }
    }

    /// The ratio to the rival that issues 3 and 5 ask for: at least this, or at most this for times.
    pub(crate) fn target(&self) -> f64 {
        if self.reach == Reach::Out {
            return match self.load {
                Load::Tcp { .. } | Load::Download { .. } => 5.0,
                Load::Udp | Load::Latency | Load::LoadedLatency => 1.0,
            };
        }
        match (self.load, self.underlay) {
            (Load::Tcp { flows: 1 }, None) => 1.0,
            (Load::Tcp { .. }, None) => 0.6,
            (Load::Tcp { flows: 1 }, Some(Underlay::Full)) => 0.9,
            (Load::Tcp { .. }, Some(Underlay::Full)) => 0.6,
            (Load::Tcp { flows: 1 }, Some(Underlay::Nogso)) => 1.1,
            (Load::Tcp { .. }, Some(Underlay::Nogso | Underlay::Bare)) => 0.8,
            (Load::Download { .. }, _) => 0.6,
            (Load::Udp, _) => 1.0,
            (Load::Latency, _) => 1.2,
            (Load::LoadedLatency, _) => 2.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn titles(args: &[&str]) -> Result<Vec<String>, String> {
        let args = Args::parse_from([&["bench"], args].concat());
        plan(&args).map(|plan| plan.iter().map(Work::title).collect())
    }

    #[test]
    fn only_tcp_between_hosts_runs_on_every_wire() {
        let all = titles(&[]).expect("a plan");
        assert_eq!(all.len(), names().len() + 2 * 2);
        let bare = titles(&[
            "--underlay",
            "nogso,bare",
            "--only",
            "udp,tcp-cross-1,latency-local",
        ]);
        let wanted = [
            "tcp-cross-1 nogso",
            "udp-local",
            "udp-cross nogso",
            "latency-local",
            "tcp-cross-1 bare",
        ];
        assert_eq!(bare.expect("a plan"), wanted);
    }

    #[test]
    fn a_name_that_nothing_has_is_refused_with_those_that_exist() {
        let error = titles(&["--only", "tcp,cdp"]).expect_err("no such work");
        assert!(
            error.contains("cdp") && error.contains("tcp-local-1"),
            "{error}"
        );
    }
}
