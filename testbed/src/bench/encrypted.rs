//! What is encrypted beside the kernel's VXLAN, which isn't: a table of its own, since each has a column of figures.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

use crate::result::{ENCRYPTED, KERNEL, QUINN, QUINN_PROTO, Report, Row, Series, WIREGUARD};
use crate::table::number;

/// What issue 4 asks of one TCP connection's throughput, by the kernel's VXLAN: of QUIC datagrams, and of the best.
const QUIC_TARGET: f64 = 0.18;
const BEST_TARGET: f64 = 0.45;
/// What it asks of the best one's median latency, by the kernel's.
const LATENCY_TARGET: f64 = 1.6;
/// Who is in the table.
const NAMES: [&str; 4] = [ENCRYPTED, QUINN_PROTO, QUINN, WIREGUARD];

impl Report {
    /// The table; `None` if nothing encrypted was measured.
    pub(crate) fn encrypted(&self, markdown: bool) -> Option<String> {
        let mut table = Table::new();
        let preset = if markdown {
            presets::ASCII_MARKDOWN
        } else {
            presets::NOTHING
        };
        table
            .load_style(preset)
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header([
                "work",
                "underlay",
                "unit",
                "who",
                "value",
                "of the kernel",
                "target",
                "retransmits",
                "loss",
                "switch s/GB",
                "machine s/GB",
            ]);
        for column in table.column_iter_mut().skip(4) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let mut rows = 0;
        for row in &self.rows {
            let Some(kernel) = row.series.get(KERNEL) else {
                continue;
            };
            let present = NAMES
                .iter()
                .filter_map(|name| Some((*name, row.series.get(*name)?)));
            let present: Vec<(&str, &Series)> = present.collect();
            if present.is_empty() {
                continue;
            }
            table.add_row(cells(row, (KERNEL, kernel), kernel));
            for of in present {
                table.add_row(cells(row, of, kernel));
                rows += 1;
            }
        }
        (rows > 0).then(|| table.trim_fmt())
    }
}

fn cells(row: &Row, (name, series): (&str, &Series), kernel: &Series) -> Vec<Cell> {
    let ratio = Some(kernel.median).filter(|median| *median > 0.0);
    let ratio = ratio
        .map(|median| series.median / median)
        .filter(|_| name != KERNEL);
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let cells = [
        row.work.clone(),
        or_none(row.underlay.clone()),
        row.unit.clone(),
        name.to_owned(),
        crate::table::value(series),
        or_none(ratio.map(|ratio| format!("{ratio:.2}"))),
        or_none(target(row, name, ratio)),
        or_none(series.retransmits.map(|count| format!("{count:.0}"))),
        or_none(series.loss.map(|loss| format!("{:.1} %", loss * 100.0))),
        number(series.switch_seconds_per_gb),
        number(series.machine_seconds_per_gb),
    ];
    cells.into_iter().map(Cell::new).collect()
}

/// The target, and whether it is reached.
fn target(row: &Row, name: &str, ratio: Option<f64>) -> Option<String> {
    let target = match (row.work.as_str(), row.unit.as_str(), name) {
        ("tcp-cross-1", _, ENCRYPTED) => BEST_TARGET,
        ("tcp-cross-1", _, QUINN | QUINN_PROTO) => QUIC_TARGET,
        ("latency-cross", "µs p50", ENCRYPTED) => LATENCY_TARGET,
        _ => return None,
    };
    let (sign, reached) = if row.is_time {
        ("≤", ratio? <= target)
    } else {
        ("≥", ratio? >= target)
    };
    let reached = if reached { "yes" } else { "no" };
    Some(format!("{sign} {target}: {reached}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Args;
    use crate::work;

    fn report(medians: &[(&str, f64)]) -> Report {
        let args = Args::parse_from(["bench", "--only", "tcp-cross-1", "--underlay", "full"]);
        let plan = work::plan(&args).expect("a plan");
        let mut report = Report::new(&args, &plan, &[], &crate::result::Samples::new());
        for (name, median) in medians {
            let series = Series {
                median: *median,
                ..Series::default()
            };
            report.rows[0].series.insert((*name).to_owned(), series);
        }
        report
    }

    #[test]
    fn each_is_compared_with_the_kernel_and_has_its_own_target() {
        assert_eq!(report(&[(KERNEL, 10.0)]).encrypted(false), None);
        let table = report(&[
            (KERNEL, 10.0),
            (ENCRYPTED, 5.0),
            (QUINN, 1.5),
            (QUINN_PROTO, 1.8),
        ]);
        let table = table.encrypted(false).expect("measured");
        let line = |name: &str| {
            let mut lines = table
                .lines()
                .map(|line| line.split_whitespace().collect::<Vec<_>>());
            let line = lines.find(|words| words.join(" ").contains(&format!("Gb/s {name} ")));
            line.unwrap_or_else(|| panic!("{name} is in {table}"))
                .join(" ")
        };
        assert!(line(ENCRYPTED).contains("5.00 0.50 ≥ 0.45: yes"), "{table}");
        assert!(line(QUINN).contains("1.50 0.15 ≥ 0.18: no"), "{table}");
        assert!(
            line(QUINN_PROTO).contains("1.80 0.18 ≥ 0.18: yes"),
            "{table}"
        );
        assert!(line(KERNEL).contains("10.0 - -"), "{table}");
    }
}
