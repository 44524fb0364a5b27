//! Streaming reader of zip, tar and gzipped tar archives, whose format is detected from the content. Archives are untrusted: sizes and
//! counts are bounded, and no entry is ever written to a path taken from the archive.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::Path,
};

use flate2::read::MultiGzDecoder;
use tar::{EntryType, PaxExtensions};

use crate::imaging::plain_reason;

/// Maximum number of files.
const MAX_FILES: u64 = 100_000;

/// Maximum compression ratio of a gzipped tar. Images hardly compress, so that a higher ratio is a decompression bomb.
const MAX_EXPANSION: u64 = 200;

/// Maximum size of a tar extension header (long name, PAX records), in bytes.
const MAX_EXTENSION_BYTES: u64 = 64 << 10;

/// File of an archive.
#[derive(Debug)]
pub struct ArchiveFile {
    /// Path of the file in the archive.
    pub name: String,
    /// Content, or the reason why it cannot be read.
    pub content: Result<Vec<u8>, String>,
}

/// Reason why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Unknown format.
    #[error("is not a zip, tar or gzipped tar archive")]
    Unknown,
    /// No files.
    #[error("contains no files")]
    Empty,
    /// Too many files.
    #[error("contains more than {MAX_FILES} files")]
    TooMany,
    /// A ZIP64 archive.
    #[error("is a ZIP64 archive (more than 65,535 files or 4 GiB), which is not supported: use tar")]
    Zip64,
    /// A zip archive with several files of one name, of which the zip crate returns the last.
    #[error("contains several files of the same name ({files} files with {names} names): use a name for each")]
    SameName {
        /// Number of entries.
        files: usize,
        /// Number of different names.
        names: usize,
    },
    /// Corrupt, or too large when decompressed.
    #[error("cannot be read: {0}")]
    Damaged(String),
}

impl From<io::Error> for ArchiveError {
    fn from(error: io::Error) -> Self {
        Self::Damaged(reason(&error))
    }
}

impl From<zip::result::ZipError> for ArchiveError {
    fn from(error: zip::result::ZipError) -> Self {
        match error {
            zip::result::ZipError::Io(error) => error.into(),
            error => Self::Damaged(plain_reason("it", &error)),
        }
    }
}

/// Error of an archive that decompresses to too much.
#[derive(Debug, thiserror::Error)]
#[error("it decompresses to more than {MAX_EXPANSION} times its size")]
struct TooLarge;

/// Entry of a tar archive that does not contain the bytes of a file.
#[derive(Clone, Copy, Debug, thiserror::Error)]
enum Unreadable {
    #[error(
        "it is a link to another file: pack the archive with the files themselves (--dereference and --hard-dereference of GNU tar)"
    )]
    Link,
    #[error("it is stored as a sparse file: pack the archive without --sparse")]
    Sparse,
}

/// The reason in plain words. Errors that are not from a decoder have them already.
fn reason(error: &io::Error) -> String {
    match error.get_ref() {
        Some(cause) if cause.is::<TooLarge>() || cause.is::<Unreadable>() => cause.to_string(),
        _ => plain_reason("it", error),
    }
}

/// The number of files in an archive, without folders and hidden files.
///
/// # Errors
/// [`ArchiveError`].
pub fn count_archive(path: &Path) -> Result<u64, ArchiveError> {
    let mut count = 0;
    walk(path, &mut |_, _| {
        count += 1;
        Ok(count <= MAX_FILES)
    })?;
    match count {
        0 => Err(ArchiveError::Empty),
        1..=MAX_FILES => Ok(count),
        _ => Err(ArchiveError::TooMany),
    }
}

/// Passes the files of an archive in order to `take`, without the first `skip`, until `take` returns false. Files that are corrupt or
/// larger than `max_bytes` have an error as content.
///
/// # Errors
/// [`ArchiveError`], if the rest of the archive cannot be read.
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
        let content = content.map_err(|why| cannot_be_read(&why)).and_then(|content| read(content, max_bytes));
        Ok(take(ArchiveFile { name: name.to_owned(), content }))
    })
}

fn read(content: &mut dyn Read, max_bytes: u64) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    content.take(max_bytes + 1).read_to_end(&mut bytes).map_err(|why| cannot_be_read(&why))?;
    if bytes.len() as u64 > max_bytes { Err(format!("exceeds the limit of {max_bytes} bytes")) } else { Ok(bytes) }
}

fn cannot_be_read(why: &io::Error) -> String {
    format!("the file cannot be read from the archive: {}", reason(why))
}

/// Receives the name and the content of a file (or the error why it cannot be read), and returns whether to continue.
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
            let max_bytes = bytes.saturating_mul(MAX_EXPANSION).max(1 << 20);
            walk_tar(BoundedReader { inner: MultiGzDecoder::new(file), remaining: max_bytes }, visit)
        }
        start if start.get(257..262) == Some(b"ustar") => walk_tar(file, visit),
        _ => Err(ArchiveError::Unknown),
    }
}

fn walk_zip(mut from: impl Read + Seek, visit: &mut Visit<'_>) -> Result<(), ArchiveError> {
    let trailer = trailer(&mut from)?;
    // The number of files in a ZIP64 record is not bounded by the file size, and the zip crate allocates memory for all of them.
    if memchr::memmem::find(&trailer, b"PK\x06\x07").is_some() {
        return Err(ArchiveError::Zip64);
    }
    let mut archive = zip::ZipArchive::new(from)?;
    let (files, names) = (number_of_entries(&trailer).unwrap_or(archive.len()), archive.len());
    if files > names {
        return Err(ArchiveError::SameName { files, names });
    }
    for index in 0..archive.len() {
        let Some(name) = archive.name_for_index(index).map(str::to_owned) else { continue };
        if name.ends_with(['/', '\\']) || is_hidden(&name) {
            continue;
        }
        let proceed = match archive.by_index(index) {
            Ok(mut entry) => visit(&name, Ok(&mut entry))?,
            Err(zip::result::ZipError::Io(error)) => visit(&name, Err(error))?,
            Err(error) => visit(&name, Err(io::Error::other(error)))?,
        };
        if !proceed {
            return Ok(());
        }
    }
    Ok(())
}

/// The end of a zip archive, with its end-of-central-directory record and the locator of a ZIP64 record.
fn trailer(from: &mut (impl Read + Seek)) -> io::Result<Vec<u8>> {
    const MAX_TRAILER: u64 = 22 + 65_535 + 20;
    let length = from.seek(SeekFrom::End(0))?;
    from.seek(SeekFrom::Start(length.saturating_sub(MAX_TRAILER)))?;
    let mut trailer = Vec::new();
    from.take(MAX_TRAILER).read_to_end(&mut trailer)?;
    from.seek(SeekFrom::Start(0))?;
    Ok(trailer)
}

/// The number of entries in the end-of-central-directory record.
fn number_of_entries(trailer: &[u8]) -> Option<usize> {
    let at = memchr::memmem::rfind(trailer, b"PK\x05\x06")?;
    let number = trailer.get(at + 10..at + 12)?;
    Some(u16::from_le_bytes([number[0], number[1]]).into())
}

/// Extension headers (long names, PAX records) are read here with a bound, because the tar crate allocates as much memory as they declare.
fn walk_tar(from: impl Read, visit: &mut Visit<'_>) -> Result<(), ArchiveError> {
    let mut archive = tar::Archive::new(from);
    // What the extension headers before a file say of it.
    let mut extension = Extension::default();
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        let unreadable = match entry.header().entry_type() {
            EntryType::GNULongName => {
                extension.name = Some(text(&read_extension(&mut entry)?));
                continue;
            }
            EntryType::XHeader => {
                extension.add(&read_extension(&mut entry)?);
                continue;
            }
            EntryType::XGlobalHeader | EntryType::GNULongLink => continue,
            EntryType::Regular | EntryType::Continuous => extension.is_sparse.then_some(Unreadable::Sparse),
            EntryType::GNUSparse => Some(Unreadable::Sparse),
            EntryType::Link | EntryType::Symlink => Some(Unreadable::Link),
            _ => {
                extension = Extension::default();
                continue;
            }
        };
        let name = std::mem::take(&mut extension).name.unwrap_or_else(|| text(&entry.path_bytes()));
        // Old programs write folders as regular files.
        if name.ends_with('/') || is_hidden(&name) {
            continue;
        }
        let proceed = match unreadable {
            Some(why) => visit(&name, Err(io::Error::other(why)))?,
            None => visit(&name, Ok(&mut entry))?,
        };
        if !proceed {
            return Ok(());
        }
    }
    Ok(())
}

/// Extension headers of a file.
#[derive(Default)]
struct Extension {
    /// Name, if it does not fit into the header.
    name: Option<String>,
    /// True if the file is stored as a map and the parts that are not zeros.
    is_sparse: bool,
}

impl Extension {
    /// Adds PAX records. A sparse file has its name in a record of its own.
    fn add(&mut self, records: &[u8]) {
        for record in PaxExtensions::new(records).flatten() {
            let key = record.key_bytes();
            self.is_sparse |= key.starts_with(b"GNU.sparse.");
            if key == b"GNU.sparse.name" || key == b"path" && !self.is_sparse {
                self.name = Some(text(record.value_bytes()));
            }
        }
    }
}

fn read_extension(entry: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    entry.take(MAX_EXTENSION_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A name without its terminating zero.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// True for hidden files and folders, and for the metadata folders of macOS.
fn is_hidden(name: &str) -> bool {
    let mut parts = name.split(['/', '\\']);
    parts.any(|part| part == "__MACOSX" || (part.starts_with('.') && part != "." && part != ".."))
}

/// Reader that fails after a maximum number of bytes.
struct BoundedReader<R> {
    inner: R,
    remaining: u64,
}

impl<R: Read> Read for BoundedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        let remaining = self.remaining.checked_sub(read as u64);
        self.remaining = remaining.ok_or_else(|| io::Error::other(TooLarge))?;
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
    fn all_formats_return_their_files_in_order_without_hidden_files() {
        for bytes in [zip(), tar(&FILES), gzip(&tar(&FILES))] {
            let found = all(&bytes, 0);
            assert_eq!(found[0], ("a.png".into(), Ok(b"first".to_vec())));
            assert_eq!(found[1], ("folder/inner/b.png".into(), Ok(b"second".to_vec())));
            assert!(found[2].1.as_ref().is_err_and(|why| why.contains("exceeds the limit")), "{found:?}");
            assert_eq!(found.len(), 3);
            assert_eq!(all(&bytes, 2).len(), 1);
            assert_eq!(count_archive(file(&bytes).path()).unwrap(), 3);
        }
    }

    #[test]
    fn long_names_are_read_and_zip64_is_rejected() {
        let long = format!("{}/a.png", "folder/".repeat(40));
        let found = all(&tar(&[(&long, b"first"), ("b.png", b"second")]), 0);
        assert_eq!(found, [(long, Ok(b"first".to_vec())), ("b.png".into(), Ok(b"second".to_vec()))]);
        // A zip with a ZIP64 locator.
        let mut zip64 = zip();
        let end = zip64.len() - 22;
        zip64.splice(end..end, b"PK\x06\x07".iter().copied().chain([0xff; 16]));
        assert!(matches!(count_archive(file(&zip64).path()), Err(ArchiveError::Zip64)));
    }

    /// Info-ZIP and Python list both files; the zip crate keeps the last entry of a name (zip-rs/zip2#488).
    #[test]
    fn a_zip_with_two_files_of_one_name_is_rejected() {
        let mut twice = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
        for name in ["a.png", "b.png", "c.png"] {
            twice.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
            twice.write_all(name.as_bytes()).unwrap();
        }
        let mut twice = twice.finish().unwrap().into_inner();
        for at in memchr::memmem::find_iter(&twice.clone(), b"b.png") {
            twice[at] = b'a';
        }
        let error = count_archive(file(&twice).path()).unwrap_err();
        assert!(error.to_string().contains("several files of the same name (3 files with 2 names)"), "{error}");
    }

    /// GNU tar stores the second name of a file as a link, and holes with `--sparse`.
    #[test]
    fn links_and_sparse_files_of_a_tar_have_a_reason_and_are_counted() {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = |name: &str, kind: EntryType, content: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            if matches!(kind, EntryType::Link | EntryType::Symlink) {
                archive.append_link(&mut header, name, "a.png").unwrap();
            } else {
                archive.append_data(&mut header, name, content).unwrap();
            }
        };
        header("a.png", EntryType::Regular, b"first");
        header("hard.png", EntryType::Link, b"");
        header(".hidden", EntryType::Symlink, b"");
        header(&format!("{}soft.png", "folder/".repeat(20)), EntryType::Symlink, b"");
        header("sparse.png", EntryType::GNUSparse, b"");
        archive.append_pax_extensions([("GNU.sparse.major", &b"1"[..]), ("GNU.sparse.name", b"pax.png")]).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_size(4);
        header.set_mode(0o644);
        archive.append_data(&mut header, "GNUSparseFile.0/pax.png", &b"1\n0\n"[..]).unwrap();
        let mut header = tar::Header::new_gnu();
        header.set_size(4);
        header.set_mode(0o644);
        archive.append_data(&mut header, "last.png", &b"last"[..]).unwrap();
        let bytes = archive.into_inner().unwrap();
        let found = all(&bytes, 0);
        let names: Vec<&str> = found.iter().map(|(name, _)| name.rsplit('/').next().unwrap()).collect();
        assert_eq!(names, ["a.png", "hard.png", "soft.png", "sparse.png", "pax.png", "last.png"]);
        for (at, reason) in [(1, "a link"), (2, "a link"), (3, "a sparse file"), (4, "a sparse file")] {
            assert!(found[at].1.as_ref().unwrap_err().contains(reason), "{found:?}");
        }
        assert_eq!((&found[0].1, &found[5].1), (&Ok(b"first".to_vec()), &Ok(b"last".to_vec())));
        assert_eq!(count_archive(file(&bytes).path()).unwrap(), 6);
    }

    #[test]
    fn unknown_empty_and_corrupt_archives_are_rejected() {
        let error = |bytes: &[u8]| count_archive(file(bytes).path()).unwrap_err();
        assert!(matches!(error(b"no archive"), ArchiveError::Unknown));
        assert!(matches!(error(b""), ArchiveError::Unknown));
        assert!(matches!(error(&tar(&[(".hidden", b"")])), ArchiveError::Empty));
        let (zip, gzipped) = (zip(), gzip(&tar(&FILES)));
        assert!(matches!(error(&zip[..zip.len() / 2]), ArchiveError::Damaged(_)));
        assert!(matches!(error(&gzipped[..gzipped.len() / 2]), ArchiveError::Damaged(_)));
        for damaged in [&zip[..zip.len() / 2], &gzipped[..gzipped.len() / 2]] {
            assert_eq!(error(damaged).to_string(), "cannot be read: it is truncated");
        }
        let mut corrupt = gzipped.clone();
        let middle = corrupt.len() / 2;
        corrupt[middle..middle + 8].fill(0xff);
        let why = error(&corrupt).to_string();
        assert!(why.contains("it is damaged") && !why.contains("deflate stream"), "{why}");
        // Zeros compress to a thousandth.
        let bomb = gzip(&tar(&[("zeros", &vec![0; 64 << 20])]));
        assert!(error(&bomb).to_string().contains("times its size"));
    }
}
