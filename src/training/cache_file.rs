//! Cache file of a set of decoded images at one image size: a header that identifies the set, then 8-bit greyscale images, each followed by
//! its checksum.
//!
//! The file is read with `pread` and not memory-mapped. The page cache holds as much of it as fits either way; but a truncated file or a
//! failing disk is an error with `pread`, whereas it would kill the process with a memory map (SIGBUS).

use std::{
    fs::File,
    io::{self, ErrorKind},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

/// Bytes before the first image: four lines of readable text, padded with blanks.
const HEADER: usize = 256;

/// Size of the checksum after each image, in bytes.
const CHECKSUM: usize = 4;

/// File extension.
const FINISHED: &str = ".grey";

/// File extension of an unfinished file. Files that a killed process left behind are removed when the server starts.
const UNFINISHED: &str = ".partial";

/// Identifies the contents of a cache file. All of it is in the header, so that a file with other contents is recognised by its first bytes.
#[derive(Clone, Debug)]
pub(super) struct Contents {
    /// Side of each image in pixels.
    pub(super) side: u32,
    /// Number of images.
    pub(super) images: usize,
    /// Hash of the images' keys and of the preprocessing version, in hexadecimal.
    pub(super) fingerprint: String,
}

/// Error of reading a cache file.
#[derive(Debug, thiserror::Error)]
pub(super) enum CacheFileError {
    /// I/O error.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file does not contain what was written.
    #[error("{0}")]
    Damaged(String),
}

/// A finished cache file, open for reading from any thread.
#[derive(Debug)]
pub(super) struct CacheFile {
    file: File,
    path: PathBuf,
    contents: Contents,
}

/// Writes a cache file under a temporary name. If it is dropped before it is finished, the file is removed.
pub(super) struct CacheFileWriter {
    file: NamedTempFile,
    path: PathBuf,
    contents: Contents,
}

impl Contents {
    /// Path of the file in `folder`.
    pub(super) fn path(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}-{}{FINISHED}", self.side, self.fingerprint))
    }

    /// Size of the file in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.offset(self.images)
    }

    fn image_bytes(&self) -> usize {
        self.side as usize * self.side as usize
    }

    /// Offset of an image in the file.
    fn offset(&self, slot: usize) -> u64 {
        (HEADER + slot * (self.image_bytes() + CHECKSUM)) as u64
    }

    fn header(&self) -> Vec<u8> {
        let Self { side, images, fingerprint } = self;
        let text = format!("thorax grey images, format 1\nside {side}\nimages {images}\nfingerprint {fingerprint}\n");
        format!("{text:<width$}\n", width = HEADER - 1).into_bytes()
    }
}

impl CacheFile {
    /// Opens the file of `contents` in `folder` and checks its header and length. Images are checked when they are read.
    pub(super) fn open(folder: &Path, contents: Contents) -> Result<Self, CacheFileError> {
        let path = contents.path(folder);
        let file = File::open(&path)?;
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0).map_err(ends_early)?;
        if header[..] != contents.header() {
            return Err(CacheFileError::Damaged("its header belongs to another file".into()));
        }
        let (found, expected) = (file.metadata()?.len(), contents.bytes());
        if found != expected {
            return Err(CacheFileError::Damaged(format!("it has {found} bytes instead of {expected}")));
        }
        Ok(Self { file, path, contents })
    }

    /// Path of the file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The contents it was opened with.
    pub(super) fn contents(&self) -> &Contents {
        &self.contents
    }

    /// Reads the `side * side` grey levels at `slot`.
    pub(super) fn read(&self, slot: usize) -> Result<Vec<u8>, CacheFileError> {
        let mut bytes = vec![0; self.contents.image_bytes() + CHECKSUM];
        self.file.read_exact_at(&mut bytes, self.contents.offset(slot)).map_err(ends_early)?;
        let found = bytes.split_off(self.contents.image_bytes());
        if found != checksum(slot, &bytes) {
            return Err(CacheFileError::Damaged(format!("image {slot} does not match its checksum")));
        }
        Ok(bytes)
    }

    /// Verifies the checksums of the images at `slots`.
    pub(super) fn check(&self, mut slots: Range<usize>) -> Result<(), CacheFileError> {
        slots.try_for_each(|slot| self.read(slot).map(drop))
    }
}

impl CacheFileWriter {
    /// Creates the file in `folder`, which is created if missing. Files of other image sets are removed first, to free disk space.
    pub(super) fn create(folder: &Path, contents: Contents) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        remove_stale(folder, &contents.fingerprint)?;
        let file = tempfile::Builder::new().suffix(UNFINISHED).tempfile_in(folder)?;
        Ok(Self { file, path: contents.path(folder), contents })
    }

    /// Writes an image. The order does not matter; each slot is written once.
    pub(super) fn write(&self, slot: usize, image: &[u8]) -> io::Result<()> {
        assert_eq!(image.len(), self.contents.image_bytes(), "the image has {0}x{0} pixels", self.contents.side);
        let record = [image, &checksum(slot, image)].concat();
        self.file.as_file().write_all_at(&record, self.contents.offset(slot))
    }

    /// Syncs the file and renames it to its final name. The folder is not synced: if a power failure loses the name, the file is created
    /// again.
    pub(super) fn finish(self) -> io::Result<CacheFile> {
        self.file.as_file().write_all_at(&self.contents.header(), 0)?;
        self.file.as_file().sync_all()?;
        let Self { file, path, contents } = self;
        let file = file.persist(&path).map_err(|error| error.error)?;
        Ok(CacheFile { file, path, contents })
    }
}

/// Removes files of other image sets, at any image size, and unfinished files. Only one run trains at a time, so none of them is in use.
fn remove_stale(folder: &Path, fingerprint: &str) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let stale = name.ends_with(FINISHED) && !name.ends_with(&format!("-{fingerprint}{FINISHED}"));
        if stale || name.ends_with(UNFINISHED) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// CRC-32 of the slot and the grey levels. It detects changed bits and swapped images.
fn checksum(slot: usize, image: &[u8]) -> [u8; CHECKSUM] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&(slot as u64).to_le_bytes());
    hasher.update(image);
    hasher.finalize().to_le_bytes()
}

fn ends_early(error: io::Error) -> CacheFileError {
    match error.kind() {
        ErrorKind::UnexpectedEof => CacheFileError::Damaged("it ends early".into()),
        _ => error.into(),
    }
}
