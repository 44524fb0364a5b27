//! The file of a set of images at one side: 8-bit grey squares behind a header that says which, each with its checksum.
//!
//! It is read by position and not mapped into memory. The page cache keeps what there is room for either way; but a file that is cut
//! short or a disk that fails is an error here, and would be the end of the process there (SIGBUS).

use std::{
    fs::File,
    io::{self, ErrorKind},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

/// Bytes before the first square: four lines of text for whoever looks into the file, and blanks.
const HEADER: usize = 256;

/// Bytes of a checksum, which follows its square.
const CHECKSUM: usize = 4;

/// How a name ends.
const FINISHED: &str = ".grey";

/// How the name of an unfinished one ends; what a killed process left is removed when the server starts.
const UNFINISHED: &str = ".partial";

/// What a file is of; all of it is in the header, so that a file of anything else is told by its first bytes.
#[derive(Clone, Debug)]
pub(super) struct Contents {
    /// Side of each square in pixels.
    pub(super) side: u32,
    /// How many squares.
    pub(super) images: usize,
    /// Of the images and of how they were made, in hexadecimal.
    pub(super) fingerprint: String,
}

/// Why a file does not give its squares.
#[derive(Debug, thiserror::Error)]
pub(super) enum GreyError {
    /// The system's reason.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It does not hold what was written.
    #[error("{0}")]
    Damaged(String),
}

/// A whole file, open for reading from any thread.
#[derive(Debug)]
pub(super) struct GreyFile {
    file: File,
    path: PathBuf,
    contents: Contents,
}

/// A file that is being made under a temporary name; dropped before it is finished, it leaves nothing behind.
pub(super) struct Draft {
    file: NamedTempFile,
    path: PathBuf,
    contents: Contents,
}

impl Contents {
    /// Where the file is in its folder.
    pub(super) fn path(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}-{}{FINISHED}", self.side, self.fingerprint))
    }

    /// Bytes of the whole file.
    pub(super) fn bytes(&self) -> u64 {
        self.place(self.images)
    }

    fn square(&self) -> usize {
        self.side as usize * self.side as usize
    }

    /// Where a square begins.
    fn place(&self, slot: usize) -> u64 {
        (HEADER + slot * (self.square() + CHECKSUM)) as u64
    }

    fn header(&self) -> Vec<u8> {
        let Self { side, images, fingerprint } = self;
        let text = format!("thorax grey images, format 1\nside {side}\nimages {images}\nfingerprint {fingerprint}\n");
        format!("{text:<width$}\n", width = HEADER - 1).into_bytes()
    }
}

impl GreyFile {
    /// Opens the file of `contents` in `folder` and looks at its header and length; the squares are checked as they are read.
    pub(super) fn open(folder: &Path, contents: Contents) -> Result<Self, GreyError> {
        let path = contents.path(folder);
        let file = File::open(&path)?;
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0).map_err(ends_early)?;
        if header[..] != contents.header() {
            return Err(GreyError::Damaged("its header is that of another file".into()));
        }
        let (found, expected) = (file.metadata()?.len(), contents.bytes());
        if found != expected {
            return Err(GreyError::Damaged(format!("it has {found} bytes and not {expected}")));
        }
        Ok(Self { file, path, contents })
    }

    /// Where it was opened.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What it is of.
    pub(super) fn contents(&self) -> &Contents {
        &self.contents
    }

    /// The `side * side` grey levels at `slot`.
    pub(super) fn read(&self, slot: usize) -> Result<Vec<u8>, GreyError> {
        let mut bytes = vec![0; self.contents.square() + CHECKSUM];
        self.file.read_exact_at(&mut bytes, self.contents.place(slot)).map_err(ends_early)?;
        let found = bytes.split_off(self.contents.square());
        if found != checksum(slot, &bytes) {
            return Err(GreyError::Damaged(format!("image {slot} does not agree with its checksum")));
        }
        Ok(bytes)
    }

    /// Reads the squares at `slots` for their checksums alone.
    pub(super) fn check(&self, mut slots: Range<usize>) -> Result<(), GreyError> {
        slots.try_for_each(|slot| self.read(slot).map(drop))
    }
}

impl Draft {
    /// Begins a file in `folder`, which is made when missing. Files there that are of other images go first, to make room.
    pub(super) fn begin(folder: &Path, contents: Contents) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        remove_stale(folder, &contents.fingerprint)?;
        let file = tempfile::Builder::new().suffix(UNFINISHED).tempfile_in(folder)?;
        Ok(Self { file, path: contents.path(folder), contents })
    }

    /// Writes a square; in any order, each once.
    pub(super) fn put(&self, slot: usize, square: &[u8]) -> io::Result<()> {
        assert_eq!(square.len(), self.contents.square(), "an image of {0}x{0} pixels", self.contents.side);
        let record = [square, &checksum(slot, square)].concat();
        self.file.as_file().write_all_at(&record, self.contents.place(slot))
    }

    /// Puts everything on the disk and gives the file its name. The folder is not synced: a name that a power failure takes back
    /// costs the making of the file, and nothing else.
    pub(super) fn finish(self) -> io::Result<GreyFile> {
        self.file.as_file().write_all_at(&self.contents.header(), 0)?;
        self.file.as_file().sync_all()?;
        let Self { file, path, contents } = self;
        let file = file.persist(&path).map_err(|error| error.error)?;
        Ok(GreyFile { file, path, contents })
    }
}

/// Removes files of other images, at any side, and unfinished ones: one run trains at a time, so nobody is at work on them.
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

/// CRC-32 over place and grey levels: neither a changed bit nor a square in another's place goes unseen.
fn checksum(slot: usize, square: &[u8]) -> [u8; CHECKSUM] {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&(slot as u64).to_le_bytes());
    hasher.update(square);
    hasher.finalize().to_le_bytes()
}

fn ends_early(error: io::Error) -> GreyError {
    match error.kind() {
        ErrorKind::UnexpectedEof => GreyError::Damaged("it ends early".into()),
        _ => error.into(),
    }
}
