//! The table, for terminals and for Markdown.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

use crate::result::{KERNEL, Report, Row, Series, WEFT};

/// Nothing to show.
const NONE: &str = "-";

impl Report {
    /// As text.
    pub(crate) fn table(&self, markdown: bool) -> String {
        let mut table = Table::new();
        let preset = if markdown {
            presets::ASCII_MARKDOWN
        } else {
            presets::NOTHING
        };
        table
            .load_style(preset)
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(self.header());
        for row in &self.rows {
            table.add_row(self.cells(row));
        }
        for column in table.column_iter_mut().skip(3) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.trim_fmt()
    }

    fn header(&self) -> Vec<String> {
        let fixed = ["work", "underlay", "unit"].map(str::to_owned);
        let costs = [
            "ratio",
            "to",
            "target",
            "reached",
            "loss kernel/weft",
            "agents s/GB",
            "agents ns/frame",
            "machine s/GB kernel/weft",
        ];
        let costs = costs.map(str::to_owned);
        fixed
            .into_iter()
            .chain(self.contenders.clone())
            .chain(costs)
            .collect()
    }

    fn cells(&self, row: &Row) -> Vec<Cell> {
        let of = |name: &str| row.series.get(name);
        let weft = of(WEFT);
        let mut cells = vec![
            row.work.clone(),
            row.underlay.clone().unwrap_or_else(|| NONE.to_owned()),
            row.unit.clone(),
        ];
        cells.extend(
            self.contenders
                .iter()
                .map(|name| of(name).map_or_else(|| NONE.to_owned(), value)),
        );
        let both = |read: &dyn Fn(&Series) -> Option<String>| {
            let [kernel, weft] = [of(KERNEL), of(WEFT)]
                .map(|series| series.and_then(read).unwrap_or_else(|| NONE.to_owned()));
            if kernel == NONE && weft == NONE {
                NONE.to_owned()
            } else {
                format!("{kernel} / {weft}")
            }
        };
        cells.extend([
            row.ratio
                .map_or_else(|| NONE.to_owned(), |ratio| format!("{ratio:.2}")),
            row.rival.clone(),
            format!("{} {}", if row.is_time { "≤" } else { "≥" }, row.target),
            match row.reached {
                Some(true) => "yes",
                Some(false) => "no",
                None => NONE,
            }
            .to_owned(),
            both(&|series| series.loss.map(|loss| format!("{:.1} %", loss * 100.0))),
            number(weft.and_then(|series| series.switch_seconds_per_gb)),
            number(weft.and_then(|series| series.switch_ns_per_frame)),
            both(&|series| series.machine_seconds_per_gb.map(|time| number(Some(time)))),
        ]);
        cells.into_iter().map(Cell::new).collect()
    }
}

/// A median, and how far the rounds were from it.
pub(crate) fn value(series: &Series) -> String {
    let median = number(Some(series.median));
    if series.samples.len() < 2 {
        return median;
    }
    format!("{median} ±{:.0}%", series.spread * 100.0)
}

/// Three digits that count.
pub(crate) fn number(value: Option<f64>) -> String {
    match value {
        None => NONE.to_owned(),
        Some(value) if value >= 100.0 => format!("{value:.0}"),
        Some(value) if value >= 10.0 => format!("{value:.1}"),
        Some(value) if value >= 1.0 => format!("{value:.2}"),
        Some(value) => format!("{value:.3}"),
    }
}
