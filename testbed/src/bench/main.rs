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
//! | `run` | one measurement |
//! | `result` | samples reduced to rows |
//! | `table` | rows as text |
//! | `chart` | rows as a picture |
//! | `profile` | where the agents' time goes |

mod args;
mod work;
mod underlay;
mod contender;
mod run;
mod result;
mod table;
mod chart;
mod profile;

use std::process::ExitCode;

use clap::Parser;

use weft_testbed::lab::say;
use weft_testbed::{Lab, Pair};

use args::Args;
use contender::Contender;
use result::{Report, Samples};
use run::Sample;
use work::Work;

fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        print(&work::names().join("\n"));
        return ExitCode::SUCCESS;
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
    let contenders = [kernel, Contender::weft(Pair::up(lab))];
    let mut samples = Samples::new();
    for round in 1..=args.rounds() {
        say(&format!("round {round} of {}", args.rounds()));
        let mut wire = None;
        for (at, work) in plan.iter().enumerate() {
            if let Some(underlay) = work.underlay.filter(|underlay| wire != Some(*underlay)) {
                for contender in &contenders {
                    underlay.apply(&contender.hosts);
                }
                wire = Some(underlay);
            }
            for contender in &contenders {
                let sample = run::measure(contender, work, args);
                say(&progress(work, contender, &sample));
                samples
                    .entry((at, contender.name))
                    .or_default()
                    .push(sample);
            }
        }
    }
    let names = contenders.each_ref().map(|contender| contender.name);
    Report::new(args, plan, &names, &samples)
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
    format!("  {:<18} {:<8} {values}", work.title(), contender.name)
}

/// Prints and writes the report. Wrong checksums are a failure whatever the speed.
fn finish(args: &Args, report: &Report) -> ExitCode {
    print(&report.table(args.markdown));
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
