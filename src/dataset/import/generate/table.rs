//! Metadata tables of the sources: CSV in UTF-8, UTF-16 or Latin-1, and the first worksheet of an Excel file.

use std::{io::Cursor, path::Path};

use calamine::{Reader, Xlsx};

use crate::dataset::{folder::read_bounded, text::decode_table};

/// Maximum size of a file in bytes; the largest metadata file has 3 MB.
const MAX_BYTES: u64 = 64 << 20;
/// Maximum decompressed size of an Excel file, in bytes.
const MAX_DECOMPRESSED: u64 = 256 << 20;

/// Table with a header line.
#[derive(Debug)]
pub(super) struct Table {
    /// Column names in lower case.
    headers: Vec<String>,
    rows: Vec<Vec<String>>,
    lines: Vec<u32>,
}

/// Row of a table.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    headers: &'a [String],
    cells: &'a [String],
    /// Line number, from 1 (the header line).
    pub(super) line: u32,
}

impl Table {
    /// Reads a CSV file (RFC 4180) below `folder` that must have the `required` columns.
    pub(super) fn csv(folder: &Path, name: &str, required: &[&str]) -> Result<Self, String> {
        let text =
            decode_table(&read_bounded(folder, name, MAX_BYTES)?).map_err(|reason| format!("{name}: {reason}"))?;
        let mut reader = csv::ReaderBuilder::new().flexible(true).has_headers(false).from_reader(text.as_bytes());
        let mut table = Self { headers: Vec::new(), rows: Vec::new(), lines: Vec::new() };
        let mut lines = LineCounter { text: text.as_bytes(), counted: 0, line: 1 };
        for record in reader.records() {
            let record = record.map_err(|error| format!("{name}: {error}"))?;
            let line = lines.line_at(record.position().map_or(0, csv::Position::byte));
            table.add(line, record.iter().map(str::to_owned).collect());
        }
        table.check_columns(name, required)
    }

    /// Reads the first worksheet of an Excel file (ECMA-376) below `folder` that must have the `required` columns.
    pub(super) fn xlsx(folder: &Path, name: &str, required: &[&str]) -> Result<Self, String> {
        let bytes = read_bounded(folder, name, MAX_BYTES)?;
        let failed = |error: &dyn std::fmt::Display| format!("{name}: {error}");
        check_decompressed_size(&bytes).map_err(|error| failed(&error))?;
        let mut book: Xlsx<_> = Xlsx::new(Cursor::new(bytes)).map_err(|error| failed(&error))?;
        let range = book.worksheet_range_at(0).ok_or_else(|| failed(&"the file has no worksheet"))?;
        let range = range.map_err(|error| failed(&error))?;
        let mut table = Self { headers: Vec::new(), rows: Vec::new(), lines: Vec::new() };
        let first = range.start().map_or(1, |(row, _)| row + 1);
        for (line, row) in (first..).zip(range.rows()) {
            table.add(line, row.iter().map(ToString::to_string).collect());
        }
        table.check_columns(name, required)
    }

    /// The non-empty rows.
    pub(super) fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        let rows = self.rows.iter().zip(&self.lines);
        rows.map(|(cells, line)| Row { headers: &self.headers, cells, line: *line })
    }

    /// Adds a line: the header line or a row.
    fn add(&mut self, line: u32, cells: Vec<String>) {
        let cells: Vec<String> = cells.into_iter().map(|cell| cell.trim().to_owned()).collect();
        if self.headers.is_empty() {
            self.headers = cells.iter().map(|cell| cell.to_lowercase()).collect();
        } else if cells.iter().any(|cell| !cell.is_empty()) {
            self.rows.push(cells);
            self.lines.push(line);
        }
    }

    /// Checks that the required columns exist.
    fn check_columns(self, name: &str, required: &[&str]) -> Result<Self, String> {
        match required.iter().find(|column| !self.headers.iter().any(|header| header == *column)) {
            Some(missing) => Err(format!("{name}: column {missing:?} is missing")),
            None => Ok(self),
        }
    }
}

impl<'a> Row<'a> {
    /// The text of a column; empty if the row has none.
    pub(super) fn text(&self, column: &str) -> &'a str {
        let at = self.headers.iter().position(|header| header == column);
        at.and_then(|at| self.cells.get(at)).map_or("", String::as_str)
    }
}

/// Line counter. The line number of the CSV reader is that of the end of the previous record, before empty lines and the rest of `\r\n`.
struct LineCounter<'a> {
    text: &'a [u8],
    /// Number of bytes counted so far.
    counted: usize,
    line: u32,
}

impl LineCounter<'_> {
    /// The line number of the record that begins at a byte offset. Offsets must be ascending.
    fn line_at(&mut self, byte: u64) -> u32 {
        let offset = usize::try_from(byte).unwrap_or(usize::MAX).min(self.text.len());
        let line_breaks = self.text[offset..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let start = offset + line_breaks;
        let breaks = self.text[self.counted.min(start)..start].iter().filter(|byte| **byte == b'\n').count();
        self.counted = start;
        self.line = self.line.saturating_add(u32::try_from(breaks).unwrap_or(u32::MAX));
        self.line
    }
}

/// Checks the decompressed size of an Excel file, which is a zip archive and may be a decompression bomb.
fn check_decompressed_size(bytes: &[u8]) -> Result<(), String> {
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(|error| error.to_string())?;
    let mut decompressed = 0_u64;
    for at in 0..archive.len() {
        let file = archive.by_index_raw(at).map_err(|error| error.to_string())?;
        decompressed = decompressed.saturating_add(file.size());
    }
    if decompressed > MAX_DECOMPRESSED {
        return Err(format!("the file decompresses to {decompressed} bytes, over the limit of {MAX_DECOMPRESSED}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(table: &Table, name: &str) -> Vec<(u32, String)> {
        table.rows().map(|row| (row.line, row.text(name).to_owned())).collect()
    }

    #[test]
    fn csv_in_both_encodings_with_irregular_lines_is_read() {
        let folder = tempfile::tempdir().unwrap();
        // Column names with spaces and capitals, a trailing comma, a line break within quotes, a short row.
        let text = "Patientid, url,notes,\r\n1,http://a,\"no\r\nfever, \"\"quoted\"\"\",\r\n\r\n2,http://b\r\n";
        std::fs::write(folder.path().join("a.csv"), text).unwrap();
        let table = Table::csv(folder.path(), "a.csv", &["patientid", "url"]).unwrap();
        assert_eq!(column(&table, "patientid"), [(2, "1".into()), (5, "2".into())]);
        assert_eq!(column(&table, "notes")[0].1, "no\r\nfever, \"quoted\"");
        assert_eq!(column(&table, "nothing")[0].1, "");
        std::fs::write(folder.path().join("b.csv"), b"patientid,notes\n1,39\xb0C\n").unwrap();
        assert_eq!(column(&Table::csv(folder.path(), "b.csv", &[]).unwrap(), "notes")[0].1, "39°C");
        std::fs::write(folder.path().join("c.csv"), b"\xef\xbb\xbfpatientid\n\xc3\xa4\n").unwrap();
        assert_eq!(column(&Table::csv(folder.path(), "c.csv", &["patientid"]).unwrap(), "patientid")[0].1, "ä");
        assert!(Table::csv(folder.path(), "b.csv", &["finding"]).unwrap_err().contains("finding"));
        assert!(Table::csv(folder.path(), "d.csv", &[]).unwrap_err().contains("d.csv"));
    }

    #[test]
    fn invalid_and_oversized_excel_files_are_rejected() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.xlsx"), b"PK no archive").unwrap();
        assert!(Table::xlsx(folder.path(), "a.xlsx", &[]).is_err());
        let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
        archive.start_file("xl/worksheets/sheet1.xml", zip::write::SimpleFileOptions::default()).unwrap();
        let zeros = vec![0; 1 << 20];
        for _ in 0..257 {
            std::io::Write::write_all(&mut archive, &zeros).unwrap();
        }
        std::fs::write(folder.path().join("b.xlsx"), archive.finish().unwrap().into_inner()).unwrap();
        assert!(Table::xlsx(folder.path(), "b.xlsx", &[]).unwrap_err().contains("decompresses to"));
    }
}
