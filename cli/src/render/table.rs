//! Tables for people: a heading, one line per row, columns three spaces apart.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table as Grid, presets};

/// Spaces between columns.
const GAP: u16 = 3;

/// A table that grows row by row.
#[derive(Debug)]
pub(super) struct Table {
    grid: Grid,
}

impl Table {
    /// A table with these headings; one that starts with `>` stands over a right-aligned column of numbers.
    pub(super) fn new(headings: &[&str]) -> Self {
        let mut grid = Grid::new();
        grid.load_style(presets::NOTHING);
        grid.set_content_arrangement(ContentArrangement::Disabled);
        grid.set_header(
            headings
                .iter()
                .map(|heading| heading.trim_start_matches('>')),
        );
        for (column, heading) in grid.column_iter_mut().zip(headings) {
            column.set_padding((0, GAP));
            if heading.starts_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        Self { grid }
    }

    /// Adds a row. Control characters cannot reach the terminal; an empty cell becomes `-`, so that columns can be counted.
    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.grid
            .add_row(cells.into_iter().map(|cell| match cell.as_str() {
                "" => Cell::new("-"),
                text => Cell::new(text.replace(char::is_control, "\u{fffd}")),
            }));
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.grid
            .lines()
            .try_for_each(|line| writeln!(f, "{}", line.trim_end()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_rows_never_break() {
        let mut table = Table::new(&["NAME", ">FRAMES", "DROPS"]);
        table.row(["web".into(), "7".into(), String::new()]);
        table.row(["x".repeat(200), "1234567".into(), "a\nb\u{1b}[m".into()]);
        let text = table.to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        let column = lines[0].find("DROPS").unwrap();
        assert_eq!(
            lines[0].find("FRAMES").unwrap() + "FRAMES".len() + 3,
            column
        );
        assert!(lines[1][..column].trim_end().ends_with('7'));
        assert_eq!(&lines[1][column..], "-");
        assert!(lines[2].ends_with("a\u{fffd}b\u{fffd}[m"));
    }
}
