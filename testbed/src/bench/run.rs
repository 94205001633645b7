//! One measurement: one contender does one work.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use weft_testbed::lab::echo::one_way_times;
use weft_testbed::lab::flood::Flood;
use weft_testbed::lab::meter::machine_time;
use weft_testbed::lab::traffic::IperfPlan;

use crate::args::Args;
use crate::contender::{Contender, Way};
use crate::work::{Load, Metric, Work};

/// Payload of a flood's datagrams in bytes.
const DATAGRAM_LEN: usize = 64;
/// A flood runs this long before it is counted.
const LEAD: Duration = Duration::from_millis(300);
/// A TCP connection has this many seconds before and after the datagrams that are timed beside it.
const MARGIN_SECS: u32 = 1;
/// Time between the start of a connection and the first datagram that is timed.
const SETTLE: Duration = Duration::from_millis(700);

/// What one measurement gave.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// By metric.
    pub(crate) values: BTreeMap<Metric, f64>,
    /// Share of datagrams that did not arrive, 0 to 1.
    pub(crate) loss: Option<f64>,
    /// TCP segments that were sent again.
    pub(crate) retransmits: Option<u64>,
    /// What it cost; not for latencies, where waiting is the point.
    pub(crate) cost: Cost,
    /// Packets with a wrong checksum that a kernel dropped.
    pub(crate) checksum_faults: u64,
}

/// Processor time and what it was spent on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// How long it took.
    pub(crate) elapsed: Duration,
    /// Of the switch's processes, user and system.
    pub(crate) switch: Duration,
    /// Of the whole machine, all cores, the load's own processes too.
    pub(crate) machine: Duration,
    /// Payload bytes that arrived, when they were counted.
    pub(crate) bytes: Option<u64>,
    /// Frames that the switch took from containers.
    pub(crate) frames: Option<u64>,
}

/// Clocks at the begin of a measurement.
struct Meter<'a> {
    contender: &'a Contender,
    began: Instant,
    switch: Duration,
    machine: Duration,
    frames: Option<u64>,
    frames_asked: Instant,
}

impl<'a> Meter<'a> {
    fn start(contender: &'a Contender) -> Self {
        // The frames first: to ask for them costs time.
        let (frames_asked, frames) = (Instant::now(), contender.frames());
        Self {
            contender,
            frames,
            frames_asked,
            switch: contender.switch_time(),
            machine: machine_time(),
            began: Instant::now(),
        }
    }

    /// For a load that began and ended in between.
    fn stop(self) -> Cost {
        let elapsed = self.began.elapsed();
        let machine = machine_time().saturating_sub(self.machine);
        let switch = self.contender.switch_time().saturating_sub(self.switch);
        let frames = self.contender.frames().zip(self.frames);
        Cost {
            elapsed,
            switch,
            machine,
            bytes: None,
            frames: frames.map(|(after, before)| after - before),
        }
    }

    /// For a load that goes on: the frames of the time in which clocks and frames were read are not counted.
    fn stop_under_load(self) -> Cost {
        let asked = self.frames_asked;
        let mut cost = self.stop();
        let share = cost.elapsed.as_secs_f64() / asked.elapsed().as_secs_f64();
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a share of a count that fits"
        )]
        let scaled = |frames: u64| (frames as f64 * share) as u64;
        cost.frames = cost.frames.map(scaled);
        cost
    }
}

/// Measures as long as the arguments say; nothing when the contender can't do this work.
pub(crate) fn measure(contender: &Contender, work: &Work, args: &Args) -> Option<Sample> {
    let way = contender.way(work.reach)?;
    contender.warm_up(way);
    let faults = contender.checksum_faults();
    let seconds = args.seconds();
    let iperf = |flows, secs| IperfPlan {
        secs,
        flows,
        congestion: args.congestion.clone(),
        reverse: matches!(work.load, Load::Download { .. }),
    };
    let mut sample = match work.load {
        Load::Tcp { flows } | Load::Download { flows } => {
            tcp(contender, way, &iperf(flows, seconds))
        }
        Load::Udp => udp(contender, way, seconds),
        Load::Latency => latency(contender, way, seconds),
        Load::LoadedLatency => {
            let beside = iperf(1, seconds + 2 * MARGIN_SECS);
            loaded_latency(contender, way, seconds, &beside)
        }
    };
    sample.checksum_faults = contender.checksum_faults() - faults;
    Some(sample)
}

fn sample(values: impl IntoIterator<Item = (Metric, f64)>, cost: Cost) -> Sample {
    Sample {
        values: values.into_iter().collect(),
        loss: None,
        retransmits: None,
        cost,
        checksum_faults: 0,
    }
}

fn tcp(contender: &Contender, way: &Way, plan: &IperfPlan) -> Sample {
    let meter = Meter::start(contender);
    let report = plan.start(&way.from, &way.to, way.ip).finish();
    let mut cost = meter.stop();
    cost.bytes = Some(report.bytes);
    let mut sample = sample([(Metric::Throughput, report.bits_per_second / 1e9)], cost);
    sample.retransmits = Some(report.retransmits);
    sample
}

fn udp(contender: &Contender, way: &Way, seconds: u32) -> Sample {
    let flood = Flood::start(&way.from, (&way.to, way.ip), DATAGRAM_LEN);
    thread::sleep(LEAD);
    let meter = Meter::start(contender);
    let before = flood.count();
    thread::sleep(Duration::from_secs(u64::from(seconds)));
    let after = flood.count();
    let mut cost = meter.stop_under_load();
    let all = flood.finish();
    let received = after.received - before.received;
    cost.bytes = Some(received * DATAGRAM_LEN as u64);
    let rate = per_second(received, after.at - before.at) / 1e6;
    let mut sample = sample([(Metric::Rate, rate)], cost);
    sample.loss = Some(1.0 - share(all.received, all.offered));
    sample
}

fn latency(contender: &Contender, way: &Way, seconds: u32) -> Sample {
    let meter = Meter::start(contender);
    let time = Duration::from_secs(u64::from(seconds));
    let times = one_way_times(&way.from, (&way.to, way.ip), time);
    let cost = meter.stop();
    let values = [(Metric::P50, 0.5), (Metric::P99, 0.99)];
    let mut sample = sample(
        values.map(|(metric, at)| (metric, micros(times.percentile(at)))),
        cost,
    );
    sample.loss = Some(share(times.lost, times.count() as u64));
    sample
}

fn loaded_latency(contender: &Contender, way: &Way, seconds: u32, beside: &IperfPlan) -> Sample {
    let load = beside.start(&way.from, &way.to, way.ip);
    thread::sleep(SETTLE);
    let mut sample = latency(contender, way, seconds);
    let report = load.finish();
    sample
        .values
        .insert(Metric::Throughput, report.bits_per_second / 1e9);
    sample
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn per_second(count: u64, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    part as f64 / whole as f64
}
