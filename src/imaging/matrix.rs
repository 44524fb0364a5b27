//! Comparison of generated files with the right grey levels, as the scripts below `tests` write them: an archive of files, and a table of
//! each file's grey levels or `refused`.

use std::{collections::BTreeMap, io::Read};

use flate2::read::GzDecoder;
use serde::Deserialize;

use super::{Limits, decode};

/// Number of pixels whose grey levels the table has: pixel `i * (pixels - 1) / 63` of each file.
const PROBES: usize = 64;

/// Row of the table. Columns that one table lacks have their default.
#[derive(Deserialize)]
pub(super) struct Row {
    /// Name of the file in the archive.
    pub(super) file: String,
    #[serde(default)]
    pub(super) encoding: String,
    #[serde(default)]
    pub(super) photometric: String,
    /// Maximum difference in grey levels.
    #[serde(default)]
    tolerance: Option<u8>,
    /// Grey levels in hexadecimal, or `refused`.
    expected: String,
    /// Reason why a file is refused.
    reason: String,
}

/// Decodes the files of the matrix `name`. A file whose row `is_unsupported` may be refused for the reason that it returns.
///
/// # Panics
/// A file has other grey levels, or is accepted or refused against the table.
pub(super) fn check(name: &str, tolerance: u8, is_unsupported: impl Fn(&Row) -> Option<&'static str>) {
    let table = fixture(&format!("{name}.csv"));
    let files = files(&fixture(&format!("{name}.tar.gz")));
    let rows: Vec<Row> = csv::Reader::from_reader(table.as_slice()).deserialize().map(Result::unwrap).collect();
    assert_eq!(rows.len(), files.len());
    let mut counts = BTreeMap::<String, usize>::new();
    let mut faults = Vec::new();
    for row in &rows {
        match outcome(row, &files[&row.file], tolerance, is_unsupported(row)) {
            Ok(outcome) => *counts.entry(outcome.to_owned()).or_default() += 1,
            Err(fault) => faults.push(format!("{}: {fault}", row.file)),
        }
    }
    println!("{name}, {} files: {counts:?}", rows.len());
    assert!(faults.is_empty(), "{} of {} files are wrong:\n{}", faults.len(), rows.len(), faults.join("\n"));
}

/// The right outcome of a file, or what is wrong.
fn outcome<'a>(row: &'a Row, bytes: &[u8], tolerance: u8, unsupported: Option<&'a str>) -> Result<&'a str, String> {
    match (decode(bytes, &Limits { max_pixels: 1_000_000 }), row.expected.as_str()) {
        (Err(_), "refused") => Ok(&row.reason),
        (Err(error), _) => match unsupported {
            Some(reason) if error.to_string().contains(reason) => Ok(reason),
            _ => Err(error.to_string()),
        },
        (Ok(_), "refused") => Err(format!("accepted, but {}", row.reason)),
        (Ok((_, image)), expected) => {
            let last = image.pixels.len() - 1;
            let found = (0..PROBES).map(|probe| image.pixels[probe * last / (PROBES - 1)]);
            let difference = found.zip(hex::decode(expected).unwrap()).map(|(a, b)| a.abs_diff(b)).max().unwrap();
            let tolerance = row.tolerance.unwrap_or(tolerance);
            if difference > tolerance {
                return Err(format!("differs by {difference}, more than {tolerance}"));
            }
            Ok("right")
        }
    }
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(GzDecoder::new(archive));
    let file = |entry: std::io::Result<tar::Entry<_>>| {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (entry.path().unwrap().to_str().unwrap().to_owned(), bytes)
    };
    archive.entries().unwrap().map(file).collect()
}

/// `tests/dicom_matrix/generate.py`: encodings, bits, photometric interpretations and grey-scale transformations.
#[test]
fn every_dicom_file_is_right_or_refused() {
    check("dicom-matrix", 1, |row| {
        let is_colour_jpeg_ls = row.encoding.starts_with("jls") && !row.photometric.starts_with("MONOCHROME");
        is_colour_jpeg_ls.then_some("JPEG-LS with several components is not supported")
    });
}

/// `tests/jpeg_matrix/generate.py`: scans, sampling factors, colour spaces, orientations and damage.
#[test]
fn every_jpeg_file_is_right_or_refused() {
    check("jpeg-matrix", 2, |_| None);
}
