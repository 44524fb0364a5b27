//! Output for people: tables as aligned text and as Markdown, and p-values. Uses no other module.

/// A table of text cells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
}

/// Heading and alignment of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    heading: String,
    align_right: bool,
}

impl Column {
    /// A left-aligned column, for words.
    pub fn text(heading: impl Into<String>) -> Self {
        Self { heading: heading.into(), align_right: false }
    }

    /// A right-aligned column, for numbers.
    pub fn number(heading: impl Into<String>) -> Self {
        Self { heading: heading.into(), align_right: true }
    }

    fn pad(&self, cell: &str, width: usize) -> String {
        if self.align_right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
    }
}

impl Table {
    /// A table of `rows`, each with one cell per column.
    pub fn new<R: IntoIterator<Item = String>>(
        columns: impl IntoIterator<Item = Column>,
        rows: impl IntoIterator<Item = R>,
    ) -> Self {
        let columns = columns.into_iter().collect();
        Self { columns, rows: rows.into_iter().map(|row| row.into_iter().collect()).collect() }
    }

    /// Aligned columns for a terminal, one line per row. Control characters are replaced, see [`printable`].
    pub fn to_text(&self) -> String {
        let lines = self.lines(printable);
        let widths = self.widths(&lines, 0);
        let line = |cells: &Vec<String>| format!("{}\n", self.padded(cells, &widths).join("  ").trim_end());
        lines.iter().map(line).collect()
    }

    /// A table in GitHub-flavoured Markdown, padded so that it can be read without rendering.
    pub fn to_markdown(&self) -> String {
        let lines = self.lines(|cell| printable(&escape_markdown(cell)));
        // The shortest rule of a right-aligned column is `--:`.
        let widths = self.widths(&lines, 3);
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let rule: Vec<String> = self.columns.iter().zip(&widths).map(rule).collect();
        let mut text = lines.iter().map(|cells| line(&self.padded(cells, &widths)));
        let head = text.next().unwrap_or_default();
        head + &line(&rule) + &text.collect::<String>()
    }

    /// The headings, then the rows.
    fn lines(&self, cell: impl Fn(&str) -> String) -> Vec<Vec<String>> {
        let headings = self.columns.iter().map(|column| cell(&column.heading)).collect();
        let rows = self.rows.iter().map(|row| row.iter().map(|text| cell(text)).collect());
        std::iter::once(headings).chain(rows).collect()
    }

    fn widths(&self, lines: &[Vec<String>], min: usize) -> Vec<usize> {
        let width = |column: usize| lines.iter().map(|cells| cells[column].chars().count()).max().unwrap_or(0).max(min);
        (0..self.columns.len()).map(width).collect()
    }

    fn padded(&self, cells: &[String], widths: &[usize]) -> Vec<String> {
        let columns = self.columns.iter().zip(widths);
        cells.iter().zip(columns).map(|(cell, (column, &width))| column.pad(cell, width)).collect()
    }
}

fn rule((column, &width): (&Column, &usize)) -> String {
    if column.align_right { format!("{}:", "-".repeat(width - 1)) } else { "-".repeat(width) }
}

/// Escapes what would end a cell of a Markdown table.
fn escape_markdown(cell: &str) -> String {
    cell.replace('\\', "\\\\").replace('|', "\\|").replace(['\r', '\n'], " ")
}

/// Replaces control characters, so that text from users and files cannot send commands to a terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// A p-value with three decimals; "< 0.001" below 0.001.
pub fn p_value(p: f64) -> String {
    if p < 0.001 { "< 0.001".into() } else { format!("{p:.3}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(rows: &[[&str; 2]]) -> Table {
        let rows = rows.iter().map(|row| row.map(String::from));
        Table::new([Column::text("name"), Column::number("n")], rows)
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let table = table(&[["a", "1"], ["grün", "100"]]);
        assert_eq!(table.to_text(), "name    n\na       1\ngrün  100\n");
        assert_eq!(table.to_markdown(), "| name |   n |\n| ---- | --: |\n| a    |   1 |\n| grün | 100 |\n");
    }

    #[test]
    fn replaces_control_characters() {
        assert_eq!(table(&[["a\x1b[2J\nb", ""]]).to_text(), "name     n\na\u{FFFD}[2J\u{FFFD}b\n");
    }

    #[test]
    fn escapes_cells_in_markdown() {
        let text = table(&[["a|b\\c\nd", "1"]]).to_markdown();
        assert_eq!(text.lines().nth(2), Some("| a\\|b\\\\c d |   1 |"));
    }

    #[test]
    fn formats_p_values_with_three_decimals() {
        assert_eq!([0.25, 0.001, 0.000_999, 0.0].map(p_value), ["0.250", "0.001", "< 0.001", "< 0.001"]);
    }
}
