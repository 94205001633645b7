//! `testbed/bench`: weft and the kernel do the same work in one run, by turns, in several rounds. Turns, so that what
//! else the machine does meets both; medians, so that one bad second decides nothing; ratios to the kernel, because only
//! they survive a change of machine.
//!
//! | file | what |
//! |---|---|
//! | `args` | the command line |
//! | `work` | what is measured, and what issue 3 asks for |
//! | `underlay` | what the wire between the hosts can do |
//! | `contender` | who is measured |
//! | `peers` | other userspace switches and overlays, where installed |
//! | `out` | ways to the outside |
//! | `run` | one measurement |
//! | `result` | samples reduced to rows |
//! | `table` | rows as text |
//! | `encrypted` | rows of what is encrypted |
//! | `chart` | rows as a picture |
//! | `profile` | where the agents' time goes |

mod args;
mod work;
mod underlay;
mod contender;
mod peers;
mod out;
mod run;
mod result;
mod table;
mod encrypted;
mod chart;
mod profile;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use weft_testbed::lab::say;
use weft_testbed::{Lab, Pair};

use args::Args;
use contender::{Contender, Switch};
use result::{Report, Samples};
use run::Sample;
use work::{Reach, Work};

fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        print(&work::names().join("\n"));
        return ExitCode::SUCCESS;
    }
    if let Some(path) = &args.show {
        return match show(path, args.markdown) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(&error, ExitCode::FAILURE),
        };
    }
    let plan = match work::plan(&args) {
        Ok(plan) => plan,
        Err(error) => return failed(&error, ExitCode::from(2)),
    };
    if !args.profile {
        return finish(&args, &bench(&args, &plan));
    }
    match profile::run(&args, &plan) {
        Ok(text) => {
            print(&text);
            ExitCode::SUCCESS
        }
        Err(error) => failed(&error, ExitCode::FAILURE),
    }
}

fn failed(error: &str, code: ExitCode) -> ExitCode {
    say(&format!("bench: {error}"));
    code
}

fn bench(args: &Args, plan: &[Work]) -> Report {
    let lab = Lab::alone();
    lab.give_agents(&args.agent_arg);
    let kernel = Contender::kernel(&lab);
    let peers = peers::up(&lab, args);
    let outs = if plan.iter().any(|work| work.reach == Reach::Out) {
        peers::up_out(&lab)
    } else {
        Vec::new()
    };
    let pair = Pair::up(lab);
    let encrypted = args.encrypted.then(|| Contender::weft_encrypted(&pair));
    let routed = args.routed.then(|| Contender::weft_routed(&pair));
    let mut contenders = vec![kernel, Contender::weft(pair)];
    contenders.extend(encrypted);
    contenders.extend(routed);
    contenders.extend(peers);
    contenders.extend(outs);
    let idle = contenders
        .iter()
        .filter_map(|contender| Some((contender.name.to_owned(), contender.idle()?)))
        .collect();
    let mut samples = Samples::new();
    for round in 1..=args.rounds() {
        say(&format!("round {round} of {}", args.rounds()));
        run_round(args, plan, &contenders, &mut samples);
    }
    peers::clean_up();
    let names: Vec<&str> = contenders.iter().map(|contender| contender.name).collect();
    Report {
        idle,
        ..Report::new(args, plan, &names, &samples)
    }
}

/// Everybody does everything once, by turns.
fn run_round(args: &Args, plan: &[Work], contenders: &[Contender], samples: &mut Samples) {
    let mut wire = None;
    for (at, work) in plan.iter().enumerate() {
        if let Some(underlay) = work.underlay.filter(|underlay| wire != Some(*underlay)) {
            for contender in contenders {
                underlay.apply(&contender.hosts);
            }
            wire = Some(underlay);
        }
        // The others are there for an idea of the field: the first wire is enough for that.
        let is_first = work
            .underlay
            .is_none_or(|underlay| Some(&underlay) == args.underlay.first());
        for contender in contenders {
            let is_peer = matches!(contender.switch, Switch::Processes(_));
            if is_peer && !is_first {
                continue;
            }
            if let Some(sample) = run::measure(contender, work, args) {
                say(&progress(work, contender, &sample));
                samples
                    .entry((at, contender.name))
                    .or_default()
                    .push(sample);
            }
        }
    }
}

fn progress(work: &Work, contender: &Contender, sample: &Sample) -> String {
    let values = sample
        .values
        .iter()
        .map(|(metric, value)| format!("{value:.2} {}", metric.unit()));
    let again = sample
        .retransmits
        .map(|count| format!("{count} retransmits"));
    let lost = sample
        .loss
        .filter(|loss| *loss > 0.0)
        .map(|loss| format!("{:.1} % lost", loss * 100.0));
    let values = values
        .chain(again)
        .chain(lost)
        .collect::<Vec<_>>()
        .join(", ");
    format!("  {:<18} {:<14} {values}", work.title(), contender.name)
}

fn show(path: &Path, markdown: bool) -> Result<(), String> {
    let report = Report::read_json(path)?;
    print_report(&report, markdown);
    report.write_chart(&path.with_extension("svg"))
}

fn print_report(report: &Report, markdown: bool) {
    let idle = report
        .idle
        .iter()
        .map(|(name, cores)| format!("{name} {:.1} %", cores * 100.0));
    let idle = idle.collect::<Vec<_>>().join(", ");
    let table = report.table(markdown);
    print(&format!(
        "{}\n\n{table}\n\nOf a core, without traffic: {idle}",
        report.about
    ));
    if let Some(encrypted) = report.encrypted(markdown) {
        print(&format!("\n{encrypted}"));
    }
    if let Some(routed) = report.routed() {
        print(&format!("\n{routed}"));
    }
}

/// Prints and writes the report. Wrong checksums are a failure whatever the speed.
fn finish(args: &Args, report: &Report) -> ExitCode {
    print_report(report, args.markdown);
    let chart = args.json.with_extension("svg");
    let written = report
        .write_json(&args.json)
        .and_then(|()| report.write_chart(&chart));
    let mut done = written.is_ok();
    match written {
        Ok(()) => say(&format!(
            "written to {} and {}",
            args.json.display(),
            chart.display()
        )),
        Err(error) => say(&format!("bench: {error}")),
    }
    for (name, faults) in report.checksum_faults() {
        say(&format!(
            "packets with a wrong checksum (InCsumErrors), {name}: {faults}"
        ));
        done &= faults == 0;
    }
    if done {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

#[expect(clippy::print_stdout, reason = "the table is what this program is for")]
fn print(text: &str) {
    println!("{text}");
}
