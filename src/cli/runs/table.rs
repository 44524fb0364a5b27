//! Tables for a terminal.

use jiff::Timestamp;

/// A column's heading, and on which side its cells stand.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    heading: &'static str,
    right: bool,
}

impl Column {
    /// Cells on the left.
    pub(super) fn text(heading: &'static str) -> Self {
        Self { heading, right: false }
    }

    /// Cells on the right.
    pub(super) fn number(heading: &'static str) -> Self {
        Self { heading, right: true }
    }
}

/// A line of headings and one for each row, each column as wide as its widest cell.
pub(super) fn table<const N: usize>(columns: [Column; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let headings = columns.map(|column| column.heading.to_owned());
    let lines: Vec<[String; N]> =
        std::iter::once(headings).chain(rows).map(|cells| cells.map(|cell| printable(&cell))).collect();
    let widths: [usize; N] =
        std::array::from_fn(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0));
    let padded = |(column, cell): (usize, &String)| {
        let width = widths[column];
        if columns[column].right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
    };
    let line = |cells: &[String; N]| {
        let cells: Vec<String> = cells.iter().enumerate().map(padded).collect();
        cells.join("  ").trim_end().to_owned()
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// The text with everything that a terminal would obey taken out: names come from whoever made the run.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// A time to the second, in UTC.
pub(super) fn time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a", "1"], ["grün", "100"]].map(|row| row.map(String::from));
        let table = table([Column::text("name"), Column::number("n")], rows.into_iter());
        assert_eq!(table, "name    n\na       1\ngrün  100");
    }

    #[test]
    fn a_cell_moves_no_cursor_and_begins_no_line() {
        let rows = [["a\x1b[2J\nb".to_owned()]];
        assert_eq!(table([Column::text("name")], rows.into_iter()), "name\na\u{FFFD}[2J\u{FFFD}b");
    }
}
