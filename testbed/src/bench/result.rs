//! All measurements of a run, reduced to rows: medians, ratios to who weft is compared with, and whether issues 3 and 5
//! are satisfied.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};
use std::{fmt, fs};

use serde::{Deserialize, Serialize};

use weft_testbed::lab::weft_bin;

use crate::args::Args;
use crate::chart;
use crate::run::Sample;
use crate::work::{Metric, Work, names};

/// Who everybody is compared with.
pub(crate) const KERNEL: &str = "kernel";
/// The usual way out without privileges: who is compared with what leaves the overlay.
pub(crate) const SLIRP: &str = "slirp4netns";
/// Who has targets to reach.
pub(crate) const WEFT: &str = "weft";
/// The same agents on an encrypted network.
pub(crate) const ENCRYPTED: &str = "weft encrypted";
/// QUIC datagrams over quinn as it is.
pub(crate) const QUINN: &str = "quinn";
/// QUIC datagrams over quinn-proto, driven by weft's workers.
pub(crate) const QUINN_PROTO: &str = "quinn-proto";
/// WireGuard in userspace.
pub(crate) const WIREGUARD: &str = "wireguard-go";

/// The same agents between two networks of a router.
pub(crate) const ROUTED: &str = "weft routed";
/// What issue 5 asks of routed throughput, by that within a network.
pub(crate) const ROUTED_TARGET: f64 = 0.8;

/// A run of the bench.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Under which circumstances.
    pub(crate) about: About,
    /// Names of those who were measured, in their order.
    pub(crate) contenders: Vec<String>,
    /// Processor time that a contender's processes take without traffic, by elapsed time.
    #[serde(default)]
    pub(crate) idle: BTreeMap<String, f64>,
    /// What came of it.
    pub(crate) rows: Vec<Row>,
}

/// Circumstances of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct About {
    /// Seconds since 1970.
    pub(crate) time: u64,
    /// Kernel release.
    pub(crate) kernel: String,
    /// Processor.
    pub(crate) cpu: String,
    /// Cores.
    pub(crate) cores: usize,
    /// TCP's congestion control.
    pub(crate) congestion_control: String,
    /// `weft --version`.
    pub(crate) weft: String,
    /// `iperf3 --version`.
    pub(crate) iperf3: String,
    /// Flags that weft's agents were given.
    pub(crate) agent_args: Vec<String>,
    /// Rounds.
    pub(crate) rounds: u32,
    /// Seconds of one measurement.
    pub(crate) seconds: u32,
}

/// One metric of one work.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    /// Name of the work.
    pub(crate) work: String,
    /// On which wire.
    pub(crate) underlay: Option<String>,
    /// Unit of the values.
    pub(crate) unit: String,
    /// Whether less is better.
    pub(crate) is_time: bool,
    /// What the ratio should be: at least, or at most for times.
    pub(crate) target: f64,
    /// Who weft is compared with.
    #[serde(default = "kernel")]
    pub(crate) rival: String,
    /// weft's median by the rival's.
    pub(crate) ratio: Option<f64>,
    /// Whether the target is reached.
    pub(crate) reached: Option<bool>,
    /// weft's median between two networks of a router by that within one.
    #[serde(default)]
    pub(crate) routed: Option<f64>,
    /// By contender.
    pub(crate) series: BTreeMap<String, Series>,
}

fn kernel() -> String {
    KERNEL.to_owned()
}

/// What one contender did, round by round.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Series {
    /// In the order of the rounds.
    pub(crate) samples: Vec<f64>,
    /// Median of them.
    pub(crate) median: f64,
    /// Half the distance between the least and the greatest, as a share of the median.
    pub(crate) spread: f64,
    /// Median of the TCP segments that were sent again.
    pub(crate) retransmits: Option<f64>,
    /// Median share of datagrams that were lost, 0 to 1.
    pub(crate) loss: Option<f64>,
    /// Processor seconds of the switch's processes per 10^9 bytes of payload that arrived.
    pub(crate) switch_seconds_per_gb: Option<f64>,
    /// Processor nanoseconds of the switch's processes per frame that a container gave it; a superframe is one.
    pub(crate) switch_ns_per_frame: Option<f64>,
    /// Processor seconds of the whole machine, the load's own processes too, per 10^9 bytes of payload that arrived.
    pub(crate) machine_seconds_per_gb: Option<f64>,
    /// Processor time of the whole machine by elapsed time: cores that were busy.
    pub(crate) machine_cores: f64,
    /// Packets with a wrong checksum that a kernel dropped, all rounds together.
    pub(crate) checksum_faults: u64,
}

/// Samples by row of the plan and contender.
pub(crate) type Samples = BTreeMap<(usize, &'static str), Vec<Sample>>;

impl Report {
    /// Reduces samples.
    pub(crate) fn new(args: &Args, plan: &[Work], contenders: &[&str], samples: &Samples) -> Self {
        // As the work is listed: the run goes by underlay.
        let mut plan: Vec<(usize, &Work)> = plan.iter().enumerate().collect();
        plan.sort_by_key(|(_, work)| names().iter().position(|name| *name == work.name));
        let mut rows = Vec::new();
        for (at, work) in plan {
            for metric in work.metrics() {
                let series = contenders.iter().filter_map(|name| {
                    let samples = samples.get(&(at, name))?;
                    Some(((*name).to_owned(), Series::new(*metric, samples)))
                });
                rows.push(Row::new(work, *metric, series.collect()));
            }
        }
        Self {
            about: About::new(args),
            contenders: contenders.iter().map(|name| (*name).to_owned()).collect(),
            idle: BTreeMap::new(),
            rows,
        }
    }

    /// Writes it as an SVG chart, and as PNG beside it where Debian's librsvg2-bin is installed.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn write_chart(&self, path: &Path) -> Result<(), String> {
        write(path, &chart::draw(self))?;
        // Without the program there is no PNG: the SVG has it all.
        let _ = Command::new("rsvg-convert")
            .arg(path)
            .arg("--output")
            .arg(path.with_extension("png"))
            .status();
        Ok(())
    }

    /// What routing costs, if that was measured: throughput and rates between two networks by those within one.
    pub(crate) fn routed(&self) -> Option<String> {
        let rows = self.rows.iter().filter(|row| !row.is_time);
        let ratios = rows.filter_map(|row| Some((row, row.routed?)));
        let ratios: Vec<String> = ratios
            .map(|(row, ratio)| {
                let short = if ratio < ROUTED_TARGET {
                    " (short)"
                } else {
                    ""
                };
                let wire = row.underlay.as_deref().unwrap_or_default();
                format!("{} {wire}: {ratio:.2}{short}", row.work).replace(" :", ":")
            })
            .collect();
        (!ratios.is_empty()).then(|| {
            let all = ratios.join(", ");
            format!("Routed by bridged, at least {ROUTED_TARGET} is wanted: {all}")
        })
    }

    /// Packets with a wrong checksum, everybody's.
    pub(crate) fn checksum_faults(&self) -> BTreeMap<&str, u64> {
        let mut faults = BTreeMap::new();
        for row in &self.rows {
            for (name, series) in &row.series {
                *faults.entry(name.as_str()).or_default() += series.checksum_faults;
            }
        }
        faults
    }

    /// Reads what [`Report::write_json`] wrote.
    ///
    /// # Errors
    /// The file cannot be read, or holds something else.
    pub(crate) fn read_json(path: &Path) -> Result<Self, String> {
        let failed = |error: &dyn fmt::Display| format!("cannot read {}: {error}", path.display());
        let text = fs::read_to_string(path).map_err(|error| failed(&error))?;
        serde_json::from_str(&text).map_err(|error| failed(&error))
    }

    /// Writes it as JSON, and makes the directory.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn write_json(&self, path: &Path) -> Result<(), String> {
        let text = serde_json::to_string_pretty(self).map_err(|error| error.to_string())?;
        write(path, &text)
    }
}

/// Writes a file and makes its directory.
fn write(path: &Path, text: &str) -> Result<(), String> {
    let done = path.parent().map_or(Ok(()), fs::create_dir_all);
    done.and_then(|()| fs::write(path, text))
        .map_err(|error| format!("cannot write {}: {error}", path.display()))
}

impl About {
    fn new(args: &Args) -> Self {
        let read = |path: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            text.trim().to_owned()
        };
        let first_line = |program: &std::ffi::OsStr| {
            let output = Command::new(program).arg("--version").output();
            let text = output.map(|output| output.stdout).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            text.lines().next().unwrap_or_default().to_owned()
        };
        let cpuinfo = read("/proc/cpuinfo");
        let cpu = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("model name"));
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            time: since_1970.unwrap_or_default().as_secs(),
            kernel: read("/proc/sys/kernel/osrelease"),
            cpu: cpu
                .unwrap_or_default()
                .trim_start_matches([' ', '\t', ':'])
                .to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            congestion_control: args
                .congestion
                .clone()
                .unwrap_or_else(|| read("/proc/sys/net/ipv4/tcp_congestion_control")),
            weft: first_line(weft_bin().as_os_str()),
            iperf3: first_line("iperf3".as_ref()),
            agent_args: args.agent_arg.clone(),
            rounds: args.rounds(),
            seconds: args.seconds(),
        }
    }
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            weft,
            kernel,
            cores,
            cpu,
            congestion_control,
            rounds,
            seconds,
            ..
        } = self;
        write!(
            f,
            "{weft}, Linux {kernel}, {cores} cores {cpu}, TCP {congestion_control}"
        )?;
        write!(f, ", median of {rounds} rounds of {seconds} s")?;
        if !self.agent_args.is_empty() {
            write!(f, ", agents with {}", self.agent_args.join(" "))?;
        }
        Ok(())
    }
}

impl Row {
    fn new(work: &Work, metric: Metric, series: BTreeMap<String, Series>) -> Self {
        let median = |name: &str| series.get(name).map(|series| series.median);
        let ratio = |of: &str, to: &str| {
            let both = median(of).zip(median(to)).filter(|(_, to)| *to > 0.0);
            both.map(|(of, to)| of / to)
        };
        let routed = ratio(ROUTED, WEFT);
        let ratio = ratio(WEFT, work.rival());
        let (target, is_time) = (work.target(), metric.is_time());
        let reached = |ratio: f64| {
            if is_time {
                ratio <= target
            } else {
                ratio >= target
            }
        };
        Self {
            work: work.name.to_owned(),
            underlay: work.underlay.map(|underlay| underlay.name().to_owned()),
            unit: metric.unit().to_owned(),
            is_time,
            target,
            rival: work.rival().to_owned(),
            reached: ratio.map(reached),
            routed,
            ratio,
            series,
        }
    }
}

impl Series {
    fn new(metric: Metric, samples: &[Sample]) -> Self {
        let values: Vec<f64> = samples
            .iter()
            .filter_map(|sample| sample.values.get(&metric).copied())
            .collect();
        let middle =
            |of: &dyn Fn(&Sample) -> Option<f64>| median(samples.iter().filter_map(of).collect());
        let has_switch = samples.iter().any(|sample| !sample.cost.switch.is_zero());
        let per_gb = |time: f64, bytes: Option<u64>| {
            bytes
                .filter(|bytes| *bytes > 0)
                .map(|bytes| time * 1e9 / bytes as f64)
        };
        Self {
            median: median(values.clone()).unwrap_or_default(),
            spread: spread(&values),
            samples: values,
            retransmits: middle(&|sample| sample.retransmits.map(|count| count as f64)),
            loss: middle(&|sample| sample.loss),
            switch_seconds_per_gb: middle(&|sample| {
                per_gb(sample.cost.switch.as_secs_f64(), sample.cost.bytes)
            })
            .filter(|_| has_switch),
            switch_ns_per_frame: middle(&|sample| {
                let frames = sample.cost.frames.filter(|frames| *frames > 0)?;
                Some(sample.cost.switch.as_secs_f64() * 1e9 / frames as f64)
            })
            .filter(|_| has_switch),
            machine_seconds_per_gb: middle(&|sample| {
                per_gb(sample.cost.machine.as_secs_f64(), sample.cost.bytes)
            }),
            machine_cores: middle(&|sample| {
                Some(sample.cost.machine.as_secs_f64() / sample.cost.elapsed.as_secs_f64())
            })
            .unwrap_or_default(),
            checksum_faults: samples.iter().map(|sample| sample.checksum_faults).sum(),
        }
    }
}

/// The middle one, or the mean of the middle two; none of nothing.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (half, even) = (values.len() / 2, values.len().is_multiple_of(2));
    match (values.get(half), even) {
        (None, _) => None,
        (Some(upper), true) => Some(f64::midpoint(values[half - 1], *upper)),
        (Some(middle), false) => Some(*middle),
    }
}

fn spread(values: &[f64]) -> f64 {
    let middle = median(values.to_vec()).filter(|middle| *middle > 0.0);
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let greatest = values.iter().copied().fold(0.0, f64::max);
    middle.map_or(0.0, |middle| (greatest - least) / 2.0 / middle)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0]), Some(3.0));
        assert_eq!(median(vec![9.0, 1.0]), Some(5.0));
        assert_eq!(median(vec![9.0, 1.0, 2.0]), Some(2.0));
    }

    #[test]
    fn routed_is_compared_with_bridged_of_the_same_row() {
        let series = |median| Series {
            median,
            ..Series::default()
        };
        let row = |work: &str, is_time, routed| {
            let work = *plan_of(work).first().expect("there is such work");
            let metric = if is_time {
                Metric::P50
            } else {
                Metric::Throughput
            };
            let all = [(WEFT, 10.0), (ROUTED, routed)];
            let all = all.map(|(name, median)| (name.to_owned(), series(median)));
            Row::new(&work, metric, all.into())
        };
        let report = |rows| Report {
            about: About::new(&Args::parse_from(["bench"])),
            contenders: Vec::new(),
            idle: BTreeMap::new(),
            rows,
        };
        assert_eq!(report(Vec::new()).routed(), None);
        let rows = vec![
            row("tcp-cross-1", false, 7.0),
            row("latency-cross", true, 20.0),
        ];
        assert_eq!(rows[0].routed, Some(0.7));
        let said = report(rows).routed().expect("measured");
        assert!(said.ends_with("tcp-cross-1 full: 0.70 (short)"), "{said}");
    }

    fn plan_of(name: &str) -> Vec<Work> {
        let args = Args::parse_from(["bench", "--only", name]);
        crate::work::plan(&args).expect("a plan")
    }

    #[test]
    fn the_spread_is_what_stands_behind_plus_or_minus() {
        assert_eq!(spread(&[10.0, 8.0, 14.0]), 0.3);
        assert_eq!(spread(&[7.0]), 0.0);
        assert_eq!(spread(&[]), 0.0);
    }
}
