//! Entry of an import: a row or file with the image that it describes.

use super::{Candidate, Rejection};

/// Location of an entry, as reported in rejections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EntryOrigin {
    /// Label file or image, relative to the folder.
    pub(super) file: String,
    /// Line of the label file, from 1.
    pub(super) line: Option<u32>,
}

/// Row of a label file, or an image file: an image to import, or the reason why there is none.
#[derive(Clone, Debug)]
pub(super) struct ImportEntry {
    pub(super) origin: EntryOrigin,
    pub(super) candidate: Result<Candidate, Rejection>,
}
