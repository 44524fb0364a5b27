//! The files of an archive, one after the other: zip, tar and gzipped tar, told by their content. Nothing in an archive is trusted, and
//! nothing of it is ever written to a path of its own.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::Path,
};

use flate2::read::MultiGzDecoder;
use tar::{EntryType, PaxExtensions};

/// Most files.
const MOST_FILES: u64 = 100_000;

/// How much larger than its archive the content of a gzipped tar may be: images hardly shrink.
const MOST_EXPANSION: u64 = 200;

/// What is read of an entry of a tar that says more about the next one.
const MOST_SAID: u64 = 64 << 10;

/// A file of an archive.
#[derive(Debug)]
pub struct ArchiveFile {
    /// Its name with its folders, as the archive has it.
    pub name: String,
    /// Its bytes, or why there are none.
    pub content: Result<Vec<u8>, String>,
}

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It is none of those that are read.
    #[error("is no zip, tar or gzipped tar")]
    Unknown,
    /// It holds no file.
    #[error("has no files in it")]
    Empty,
    /// It holds too many.
    #[error("has more than {MOST_FILES} files in it")]
    TooMany,
    /// It is a zip of the large kind.
    #[error("is a zip with the extension for more than 65,535 files or 4 GiB: send a tar")]
    Large,
    /// It is damaged, or larger inside than may be.
    #[error("cannot be read: {0}")]
    Damaged(String),
}

impl From<io::Error> for ArchiveError {
    fn from(error: io::Error) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl From<zip::result::ZipError> for ArchiveError {
    fn from(error: zip::result::ZipError) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// How many files an archive has; folders and what is hidden do not count.
///
/// # Errors
/// [`ArchiveError`].
pub fn count_archive(path: &Path) -> Result<u64, ArchiveError> {
    let mut count = 0;
    walk(path, &mut |_, _| {
        count += 1;
        Ok(count <= MOST_FILES)
    })?;
    match count {
        0 => Err(ArchiveError::Empty),
        1..=MOST_FILES => Ok(count),
        _ => Err(ArchiveError::TooMany),
    }
}

/// Gives the files of an archive in their order, but for the first `skip`, until `take` answers that it wants no more. One that is larger
/// than `max_bytes` or damaged comes without content.
///
/// # Errors
/// [`ArchiveError`], when what follows cannot be found any more.
pub fn read_archive(
    path: &Path,
    skip: u64,
    max_bytes: u64,
    take: &mut dyn FnMut(ArchiveFile) -> bool,
) -> Result<(), ArchiveError> {
    let mut number = 0;
    walk(path, &mut |name, content| {
        number += 1;
        if number <= skip {
            return Ok(true);
        }
        let content = content.map_err(|why| why.to_string()).and_then(|content| read(content, max_bytes));
        Ok(take(ArchiveFile { name: name.to_owned(), content }))
    })
}

fn read(content: &mut dyn Read, max_bytes: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    content.take(max_bytes + 1).read_to_end(&mut bytes).map_err(|error| format!("cannot be unpacked: {error}"))?;
    if bytes.len() as u64 > max_bytes { Err(format!("is over the limit of {max_bytes} bytes")) } else { Ok(bytes) }
}

/// Sees a file's name and content, or why it has none, and answers whether to go on.
type Visit<'a> = dyn FnMut(&str, io::Result<&mut dyn Read>) -> Result<bool, ArchiveError> + 'a;

fn walk(path: &Path, visit: &mut Visit<'_>) -> Result<(), ArchiveError> {
    let mut file = File::open(path)?;
    let mut start = Vec::new();
    (&mut file).take(265).read_to_end(&mut start)?;
    file.seek(SeekFrom::Start(0))?;
    let bytes = file.metadata()?.len();
    let file = BufReader::new(file);
    match start.as_slice() {
        [b'P', b'K', 3 | 5, 4 | 6, ..] => walk_zip(file, visit),
        [0x1f, 0x8b, ..] => {
            let most = bytes.saturating_mul(MOST_EXPANSION).max(1 << 20);
            walk_tar(Bounded { from: MultiGzDecoder::new(file), left: most }, visit)
        }
        start if start.get(257..262) == Some(b"ustar") => walk_tar(file, visit),
        _ => Err(ArchiveError::Unknown),
    }
}

fn walk_zip(mut from: impl Read + Seek, visit: &mut Visit<'_>) -> Result<(), ArchiveError> {
    if is_large_zip(&mut from)? {
        return Err(ArchiveError::Large);
    }
    let mut archive = zip::ZipArchive::new(from)?;
    for index in 0..archive.len() {
        let Some(name) = archive.name_for_index(index).map(str::to_owned) else { continue };
        if name.ends_with(['/', '\\']) || is_hidden(&name) {
            continue;
        }
        let goes_on = match archive.by_index(index) {
            Ok(mut entry) => visit(&name, Ok(&mut entry))?,
            Err(error) => visit(&name, Err(io::Error::other(error)))?,
        };
        if !goes_on {
            return Ok(());
        }
    }
    Ok(())
}

/// Whether there is an extension for more than 65,535 files or 4 GiB before the record at the end. There a zip may claim any number of
/// files, and who lists them takes memory for as many.
fn is_large_zip(from: &mut (impl Read + Seek)) -> io::Result<bool> {
    const END: u64 = 22 + 65_535 + 20;
    let length = from.seek(SeekFrom::End(0))?;
    from.seek(SeekFrom::Start(length.saturating_sub(END)))?;
    let mut tail = Vec::new();
    from.take(END).read_to_end(&mut tail)?;
    from.seek(SeekFrom::Start(0))?;
    Ok(memchr::memmem::find(&tail, b"PK\x06\x07").is_some())
}

/// Names that stand in entries of their own are read here, within a bound: the crate takes as much memory for one as the archive says.
fn walk_tar(from: impl Read, visit: &mut Visit<'_>) -> Result<(), ArchiveError> {
    let mut archive = tar::Archive::new(from);
    // Of the file that follows, where it does not fit its header.
    let mut long_name = None;
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        match entry.header().entry_type() {
            EntryType::GNULongName => long_name = Some(text(&said(&mut entry)?)),
            EntryType::XHeader => long_name = path_of(&said(&mut entry)?).or(long_name),
            EntryType::XGlobalHeader | EntryType::GNULongLink => {}
            EntryType::Regular | EntryType::Continuous => {
                let name = long_name.take().unwrap_or_else(|| text(&entry.path_bytes()));
                // Old programs write folders as files.
                if !name.ends_with('/') && !is_hidden(&name) && !visit(&name, Ok(&mut entry))? {
                    return Ok(());
                }
            }
            _ => long_name = None,
        }
    }
    Ok(())
}

fn said(entry: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    entry.take(MOST_SAID).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn path_of(records: &[u8]) -> Option<String> {
    let mut records = PaxExtensions::new(records).flatten();
    records.find(|record| record.key_bytes() == b"path").map(|record| text(record.value_bytes()))
}

/// A name; some end with a zero.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// What a Mac or a file manager leaves beside the files, and folders that are hidden.
fn is_hidden(name: &str) -> bool {
    let mut parts = name.split(['/', '\\']);
    parts.any(|part| part == "__MACOSX" || (part.starts_with('.') && part != "." && part != ".."))
}

/// An error where there is more than may be.
struct Bounded<R> {
    from: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        let left = self.left.checked_sub(read as u64);
        self.left = left.ok_or_else(|| io::Error::other(format!("it is {MOST_EXPANSION} times as large inside")))?;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};
    use tempfile::NamedTempFile;

    use super::*;

    const FILES: [(&str, &[u8]); 5] = [
        ("a.png", b"first"),
        ("folder/inner/b.png", b"second"),
        ("__MACOSX/a.png", b"beside"),
        (".hidden/c.png", b"hidden"),
        ("folder/large.png", &[7; 100]),
    ];

    fn file(bytes: &[u8]) -> NamedTempFile {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, name, *content).unwrap();
        }
        archive.into_inner().unwrap()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zip() -> Vec<u8> {
        let mut archive = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
        archive.add_directory("folder", zip::write::SimpleFileOptions::default()).unwrap();
        for (name, content) in FILES {
            archive.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
            archive.write_all(content).unwrap();
        }
        archive.finish().unwrap().into_inner()
    }

    fn all(bytes: &[u8], skip: u64) -> Vec<(String, Result<Vec<u8>, String>)> {
        let (file, mut found) = (file(bytes), Vec::new());
        read_archive(file.path(), skip, 50, &mut |file| {
            found.push((file.name, file.content));
            true
        })
        .unwrap();
        found
    }

    #[test]
    fn all_kinds_give_their_files_in_order_and_nothing_that_is_hidden() {
        for bytes in [zip(), tar(&FILES), gzip(&tar(&FILES))] {
            let found = all(&bytes, 0);
            assert_eq!(found[0], ("a.png".into(), Ok(b"first".to_vec())));
            assert_eq!(found[1], ("folder/inner/b.png".into(), Ok(b"second".to_vec())));
            assert!(found[2].1.as_ref().is_err_and(|why| why.contains("over the limit")), "{found:?}");
            assert_eq!(found.len(), 3);
            assert_eq!(all(&bytes, 2).len(), 1);
            assert_eq!(count_archive(file(&bytes).path()).unwrap(), 3);
        }
    }

    #[test]
    fn long_names_are_read_and_no_more_memory_is_taken_than_there_are_bytes() {
        let long = format!("{}/a.png", "folder/".repeat(40));
        let found = all(&tar(&[(&long, b"first"), ("b.png", b"second")]), 0);
        assert_eq!(found, [(long, Ok(b"first".to_vec())), ("b.png".into(), Ok(b"second".to_vec()))]);
        // A zip that says it has the extension for large ones.
        let mut large = zip();
        let end = large.len() - 22;
        large.splice(end..end, b"PK\x06\x07".iter().copied().chain([0xff; 16]));
        assert!(matches!(count_archive(file(&large).path()), Err(ArchiveError::Large)));
    }

    #[test]
    fn what_is_no_archive_or_an_empty_or_damaged_one_is_told() {
        let error = |bytes: &[u8]| count_archive(file(bytes).path()).unwrap_err();
        assert!(matches!(error(b"no archive"), ArchiveError::Unknown));
        assert!(matches!(error(b""), ArchiveError::Unknown));
        assert!(matches!(error(&tar(&[(".hidden", b"")])), ArchiveError::Empty));
        let (zip, gzipped) = (zip(), gzip(&tar(&FILES)));
        assert!(matches!(error(&zip[..zip.len() / 2]), ArchiveError::Damaged(_)));
        assert!(matches!(error(&gzipped[..gzipped.len() / 2]), ArchiveError::Damaged(_)));
        // Zeros shrink to a thousandth.
        let bomb = gzip(&tar(&[("zeros", &vec![0; 64 << 20])]));
        assert!(error(&bomb).to_string().contains("times as large inside"));
    }
}
