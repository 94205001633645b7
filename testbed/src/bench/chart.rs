//! The table as a picture: one bar per row and contender, as long as it is fast in multiples of the kernel. Times are
//! turned over, so that longer is better everywhere; a tick stands where issue 3 wants the bar to end.

use std::fmt::Write as _;

use svg::Document;
use svg::node::element::{Line, Rectangle, Text, Title};

use crate::result::{KERNEL, Report, Row, Series, WEFT};

/// Left of the bars, for titles, in pixels like everything here.
const LEFT: f64 = 210.0;
/// Length of a bar that is as fast as the kernel.
const UNIT: f64 = 260.0;
/// Longest bar, in multiples of the kernel; what is longer is cut, its figure tells.
const LONGEST: f64 = 2.0;
/// Right of the longest bar, for figures.
const RIGHT: f64 = 210.0;
/// Height of a bar.
const BAR: f64 = 14.0;
/// Between rows.
const GAP: f64 = 12.0;
/// Above the first row.
const TOP: f64 = 64.0;
/// Under the last row.
const BOTTOM: f64 = 34.0;

const INK: &str = "#1f2328";
const FAINT: &str = "#8c959f";
const REACHED: &str = "#1a7f37";
const MISSED: &str = "#d4731c";
const OTHER: &str = "#b6bec7";

/// Draws it.
pub(crate) fn draw(report: &Report) -> String {
    let bars: Vec<&String> = report
        .contenders
        .iter()
        .filter(|name| *name != KERNEL)
        .collect();
    let width = LEFT + UNIT * LONGEST + RIGHT;
    let (mut document, mut y) = (Document::new(), TOP);
    for row in report.rows.iter().filter(|row| row.rival == KERNEL) {
        let drawn: Vec<(&str, &Series)> = bars
            .iter()
            .filter_map(|name| Some((name.as_str(), row.series.get(*name)?)))
            .collect();
        document = draw_row(document, row, &drawn, y);
        y += BAR * count(drawn.len().max(1)) + GAP;
    }
    let mut whole = Document::new()
        .set("viewBox", (0, 0, width, y + BOTTOM))
        .set("width", width)
        .set("height", y + BOTTOM)
        .set("font-family", "system-ui, sans-serif")
        .set("font-size", 12)
        .add(Title::new("weft measured against the kernel"))
        .add(
            Rectangle::new()
                .set("width", "100%")
                .set("height", "100%")
                .set("fill", "#ffffff"),
        );
    whole = draw_axis(whole, y);
    let under = report.about.to_string();
    whole
        .add(
            text(
                "Speed in multiples of the kernel (times turned over: longer is better)",
                12.0,
                22.0,
                INK,
            )
            .set("font-size", 15),
        )
        .add(text(
            "green: target reached, orange: not yet; the tick is the target",
            12.0,
            40.0,
            FAINT,
        ))
        .add(document)
        .add(text(&under, 12.0, y + BOTTOM - 10.0, FAINT))
        .to_string()
}

fn draw_axis(document: Document, bottom: f64) -> Document {
    [0.0, 0.5, 1.0, 1.5, 2.0]
        .into_iter()
        .fold(document, |document, at| {
            let x = LEFT + UNIT * at;
            let line = Line::new()
                .set("x1", x)
                .set("x2", x)
                .set("y1", TOP - 8.0)
                .set("y2", bottom)
                .set("stroke", if at == 1.0 { FAINT } else { "#e3e7eb" });
            let label = text(&format!("{at}"), x, TOP - 12.0, FAINT).set("text-anchor", "middle");
            document.add(line).add(label)
        })
}

fn draw_row(mut document: Document, row: &Row, bars: &[(&str, &Series)], y: f64) -> Document {
    let kernel = row.series.get(KERNEL).map(|series| series.median);
    let underlay = row.underlay.as_deref().unwrap_or_default();
    let percentile = row
        .unit
        .split_once(' ')
        .map_or("", |(_, percentile)| percentile);
    let title = [row.work.as_str(), underlay, percentile].join(" ");
    document = document
        .add(text(title.trim_end(), LEFT - 10.0, y + BAR - 3.0, INK).set("text-anchor", "end"));
    for (at, (name, series)) in bars.iter().enumerate() {
        let y = y + BAR * count(at);
        let Some(speed) = kernel.and_then(|kernel| speed(row.is_time, series.median, kernel))
        else {
            continue;
        };
        let length = UNIT * speed.min(LONGEST);
        let colour = match (*name == WEFT, row.reached) {
            (true, Some(true)) => REACHED,
            (true, _) => MISSED,
            (false, _) => OTHER,
        };
        let bar = Rectangle::new()
            .set("x", LEFT)
            .set("y", y + 1.0)
            .set("width", length)
            .set("height", BAR - 2.0)
            .set("fill", colour);
        let unit = row.unit.split(' ').next().unwrap_or_default();
        let mut words = format!("{name} {} {unit}", figure(series.median));
        if *name == WEFT {
            let _ = write!(words, ", kernel {}", figure(kernel.unwrap_or_default()));
        }
        document = document.add(bar).add(text(
            &words,
            LEFT + UNIT * LONGEST + 12.0,
            y + BAR - 3.0,
            INK,
        ));
        if *name == WEFT {
            let wanted = if row.is_time {
                1.0 / row.target
            } else {
                row.target
            };
            let x = LEFT + UNIT * wanted.min(LONGEST);
            let tick = Line::new()
                .set("x1", x)
                .set("x2", x)
                .set("y1", y - 2.0)
                .set("y2", y + BAR + 2.0)
                .set("stroke", INK)
                .set("stroke-width", 2);
            document = document.add(tick);
        }
    }
    document
}

/// In multiples of the kernel; none when there is nothing to compare.
fn speed(is_time: bool, value: f64, kernel: f64) -> Option<f64> {
    let (part, whole) = if is_time {
        (kernel, value)
    } else {
        (value, kernel)
    };
    (whole > 0.0).then(|| part / whole)
}

fn text(words: &str, x: f64, y: f64, colour: &str) -> Text {
    Text::new(words).set("x", x).set("y", y).set("fill", colour)
}

fn figure(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

fn count(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shorter_time_is_a_longer_bar() {
        assert_eq!(speed(false, 5.0, 10.0), Some(0.5));
        assert_eq!(speed(true, 5.0, 10.0), Some(2.0));
        assert_eq!(speed(false, 5.0, 0.0), None);
    }
}
