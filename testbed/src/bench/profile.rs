//! Where the agents' processor time goes during one work: perf, from Debian's linux-perf, samples both of them.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use weft_testbed::lab::process;
use weft_testbed::lab::say;
use weft_testbed::{Lab, Pair};

use crate::args::Args;
use crate::contender::Contender;
use crate::run::measure;
use crate::work::Work;

/// Profiled when `--only` says nothing.
const DEFAULT_WORK: &str = "tcp-cross-1";
/// Samples per second and core: no divisor of a tick.
const FREQUENCY: &str = "1999";
/// How long perf may take to write or to read its file.
const PATIENCE: Duration = Duration::from_secs(60);
/// Shares under this many percent are left out.
const LEAST_PERCENT: &str = "0.5";

/// Records one measurement and returns the top symbols as perf prints them.
///
/// # Errors
/// perf is missing or cannot record here; says what it said.
pub(crate) fn run(args: &Args, plan: &[Work]) -> Result<String, String> {
    let wanted = plan
        .iter()
        .find(|work| !args.only.is_empty() || work.name == DEFAULT_WORK);
    let work = wanted.ok_or("the plan is empty")?;
    let dir = args.dir();
    std::fs::create_dir_all(dir)
        .map_err(|error| format!("cannot make {}: {error}", dir.display()))?;
    let data = dir.join("perf.data");
    let lab = Lab::alone();
    lab.give_agents(&args.agent_arg);
    let weft = Contender::weft(Pair::up(lab));
    if let Some(underlay) = work.underlay {
        underlay.apply(&weft.hosts);
    }
    let sample = record(&weft, &data, || measure(&weft, work, args))?;
    if let Some(sample) = sample {
        say(&crate::progress(work, &weft, &sample));
    }
    say(&format!("recorded in {}", data.display()));
    report(&data)
}

fn record<T>(weft: &Contender, data: &Path, work: impl FnOnce() -> T) -> Result<T, String> {
    let pids: Vec<String> = weft.processes().iter().map(u32::to_string).collect();
    let (pids, data) = (pids.join(","), data.to_string_lossy());
    // No processor of a virtual machine need have counters: the clock is everywhere.
    let args = [
        "record",
        "-e",
        "cpu-clock",
        "-F",
        FREQUENCY,
        "-g",
        "-o",
        &data,
        "-p",
        &pids,
    ];
    let perf = weft.hosts[0].spawn("perf", "perf", &args);
    std::thread::sleep(Duration::from_millis(500));
    if !perf.is_running() {
        return Err(format!("perf does not record here:\n{}", perf.log()));
    }
    let result = work();
    // It ends by the signal that asked it to stop.
    perf.stop(Signal::SIGINT, PATIENCE);
    Ok(result)
}

/// What perf found, by program and then by function.
fn report(data: &Path) -> Result<String, String> {
    let parts = ["dso", "dso,symbol"].map(|sort| report_by(sort, data));
    let [by_program, by_function] = parts;
    Ok(format!("{}\n\n{}", by_program?, by_function?))
}

fn report_by(sort: &str, data: &Path) -> Result<String, String> {
    let mut command = Command::new("perf");
    command
        .args(["report", "--stdio", "--no-children", "-g", "none"])
        .args(["--percent-limit", LEAST_PERCENT, "--sort", sort, "-i"])
        .arg(data);
    let finished = process::run(&mut command, PATIENCE);
    if finished.code != Some(0) {
        return Err(finished.to_string());
    }
    // Columns for which this machine has no counters are dashes.
    let lines = finished
        .stdout
        .lines()
        .map(|line| line.trim_end_matches([' ', '-']));
    let lines: Vec<&str> = lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect();
    Ok(lines.join("\n"))
}
