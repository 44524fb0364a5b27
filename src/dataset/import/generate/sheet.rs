//! Tables as the sources publish them: CSV in UTF-8 or Latin-1, and the first sheet of an Excel file.

use std::{io::Cursor, path::Path};

use calamine::{Reader, Xlsx};

use crate::dataset::folder::read_bounded;

/// Largest file that is read; the metadata of the largest source have 3 MB.
const MAX_BYTES: u64 = 64 << 20;
/// Most that an Excel file may become when it is unpacked.
const MAX_UNPACKED: u64 = 256 << 20;

/// A table with a line of names.
#[derive(Debug)]
pub(super) struct Sheet {
    /// In lower case.
    heads: Vec<String>,
    rows: Vec<Vec<String>>,
    lines: Vec<u32>,
}

/// A line of it.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    heads: &'a [String],
    cells: &'a [String],
    /// From 1; the names are on the first.
    pub(super) line: u32,
}

impl Sheet {
    /// Reads a CSV file (RFC 4180) below `folder` that has these columns.
    pub(super) fn csv(folder: &Path, name: &str, wanted: &[&str]) -> Result<Self, String> {
        let text = text(read_bounded(folder, name, MAX_BYTES)?);
        let mut reader = csv::ReaderBuilder::new().flexible(true).has_headers(false).from_reader(text.as_bytes());
        let mut sheet = Self { heads: Vec::new(), rows: Vec::new(), lines: Vec::new() };
        let mut lines = Lines { text: text.as_bytes(), counted: 0, line: 1 };
        for record in reader.records() {
            let record = record.map_err(|error| format!("{name}: {error}"))?;
            let line = lines.of(record.position().map_or(0, csv::Position::byte));
            sheet.take(line, record.iter().map(str::to_owned).collect());
        }
        sheet.checked(name, wanted)
    }

    /// Reads the first sheet of an Excel file (ECMA-376) below `folder` that has these columns.
    pub(super) fn xlsx(folder: &Path, name: &str, wanted: &[&str]) -> Result<Self, String> {
        let bytes = read_bounded(folder, name, MAX_BYTES)?;
        let failed = |error: &dyn std::fmt::Display| format!("{name}: {error}");
        check_unpacked(&bytes).map_err(|why| failed(&why))?;
        let mut book: Xlsx<_> = Xlsx::new(Cursor::new(bytes)).map_err(|error| failed(&error))?;
        let range = book.worksheet_range_at(0).ok_or_else(|| failed(&"it has no sheet"))?;
        let range = range.map_err(|error| failed(&error))?;
        let mut sheet = Self { heads: Vec::new(), rows: Vec::new(), lines: Vec::new() };
        let first = range.start().map_or(1, |(row, _)| row + 1);
        for (line, row) in (first..).zip(range.rows()) {
            sheet.take(line, row.iter().map(ToString::to_string).collect());
        }
        sheet.checked(name, wanted)
    }

    /// Its lines that hold anything.
    pub(super) fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        let rows = self.rows.iter().zip(&self.lines);
        rows.map(|(cells, line)| Row { heads: &self.heads, cells, line: *line })
    }

    fn take(&mut self, line: u32, cells: Vec<String>) {
        let cells: Vec<String> = cells.into_iter().map(|cell| cell.trim().to_owned()).collect();
        if self.heads.is_empty() {
            self.heads = cells.iter().map(|cell| cell.to_lowercase()).collect();
        } else if cells.iter().any(|cell| !cell.is_empty()) {
            self.rows.push(cells);
            self.lines.push(line);
        }
    }

    fn checked(self, name: &str, wanted: &[&str]) -> Result<Self, String> {
        match wanted.iter().find(|head| !self.heads.iter().any(|there| there == *head)) {
            Some(missing) => Err(format!("{name}: has no column {missing:?}")),
            None => Ok(self),
        }
    }
}

impl<'a> Row<'a> {
    /// What stands below that name; empty where nothing does.
    pub(super) fn text(&self, head: &str) -> &'a str {
        let at = self.heads.iter().position(|name| name == head);
        at.and_then(|at| self.cells.get(at)).map_or("", String::as_str)
    }
}

/// Counts the lines of a text. A CSV reader's own count stands before the empty lines and the half of `\r\n` that are left of the record
/// before.
struct Lines<'a> {
    text: &'a [u8],
    counted: usize,
    line: u32,
}

impl Lines<'_> {
    /// The line of the record that the reader found at a byte; asked for in order.
    fn of(&mut self, byte: u64) -> u32 {
        let found = usize::try_from(byte).unwrap_or(usize::MAX).min(self.text.len());
        let left_over = self.text[found..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let start = found + left_over;
        let breaks = self.text[self.counted.min(start)..start].iter().filter(|byte| **byte == b'\n').count();
        self.counted = start;
        self.line = self.line.saturating_add(u32::try_from(breaks).unwrap_or(u32::MAX));
        self.line
    }
}

/// UTF-8 with or without a mark, and Latin-1 (ISO 8859-1) where it is not that.
fn text(bytes: Vec<u8>) -> String {
    let text =
        String::from_utf8(bytes).unwrap_or_else(|error| error.into_bytes().into_iter().map(char::from).collect());
    text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text)
}

/// An Excel file is a ZIP archive, and a small one can unpack to more than there is memory.
fn check_unpacked(bytes: &[u8]) -> Result<(), String> {
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(|error| error.to_string())?;
    let mut unpacked = 0_u64;
    for at in 0..archive.len() {
        let file = archive.by_index_raw(at).map_err(|error| error.to_string())?;
        unpacked = unpacked.saturating_add(file.size());
    }
    if unpacked > MAX_UNPACKED {
        return Err(format!("unpacks to {unpacked} bytes, over the limit of {MAX_UNPACKED}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(sheet: &Sheet, head: &str) -> Vec<(u32, String)> {
        sheet.rows().map(|row| (row.line, row.text(head).to_owned())).collect()
    }

    #[test]
    fn csv_of_either_encoding_with_the_quirks_of_the_sources() {
        let folder = tempfile::tempdir().unwrap();
        // Names with spaces and capitals, a comma at the end of the names, a line break within quotes, a short row.
        let text = "Patientid, url,notes,\r\n1,http://a,\"no\r\nfever, \"\"quoted\"\"\",\r\n\r\n2,http://b\r\n";
        std::fs::write(folder.path().join("a.csv"), text).unwrap();
        let sheet = Sheet::csv(folder.path(), "a.csv", &["patientid", "url"]).unwrap();
        assert_eq!(lines(&sheet, "patientid"), [(2, "1".into()), (5, "2".into())]);
        assert_eq!(lines(&sheet, "notes")[0].1, "no\r\nfever, \"quoted\"");
        assert_eq!(lines(&sheet, "nothing")[0].1, "");
        std::fs::write(folder.path().join("b.csv"), b"patientid,notes\n1,39\xb0C\n").unwrap();
        assert_eq!(lines(&Sheet::csv(folder.path(), "b.csv", &[]).unwrap(), "notes")[0].1, "39°C");
        std::fs::write(folder.path().join("c.csv"), b"\xef\xbb\xbfpatientid\n\xc3\xa4\n").unwrap();
        assert_eq!(lines(&Sheet::csv(folder.path(), "c.csv", &["patientid"]).unwrap(), "patientid")[0].1, "ä");
        assert!(Sheet::csv(folder.path(), "b.csv", &["finding"]).unwrap_err().contains("finding"));
        assert!(Sheet::csv(folder.path(), "d.csv", &[]).unwrap_err().contains("d.csv"));
    }

    #[test]
    fn an_excel_file_that_is_none_or_unpacks_to_too_much_is_told() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.xlsx"), b"PK no archive").unwrap();
        assert!(Sheet::xlsx(folder.path(), "a.xlsx", &[]).is_err());
        let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
        archive.start_file("xl/worksheets/sheet1.xml", zip::write::SimpleFileOptions::default()).unwrap();
        let zeros = vec![0; 1 << 20];
        for _ in 0..257 {
            std::io::Write::write_all(&mut archive, &zeros).unwrap();
        }
        std::fs::write(folder.path().join("b.xlsx"), archive.finish().unwrap().into_inner()).unwrap();
        assert!(Sheet::xlsx(folder.path(), "b.xlsx", &[]).unwrap_err().contains("unpacks to"));
    }
}
