//! Candidate images of an import, and how their bytes are read.

use std::{path::Path, sync::Arc};

use crate::{
    dataset::folder::read_bounded,
    domain::Split,
    imaging::{self, Limits},
    store::{Attributes, RejectionKind},
};

use super::{Rejection, image_array::ImageArray};

/// Image to import, with its metadata from label files and folders.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    /// Path relative to the folder, as reported in rejections. Its last component becomes the file name.
    pub(super) path: String,
    pub(super) label: String,
    pub(super) split: Option<Split>,
    pub(super) patient_id: Option<String>,
    pub(super) source: Option<String>,
    /// Further attributes.
    pub(super) attributes: Option<Attributes>,
    pub(super) content: Content,
}

/// Location of the image data.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// An image file below `root`.
    File { root: Arc<Path>, path: String },
    /// An image file below `root` that is converted to a grey PNG.
    FileAsPng { root: Arc<Path>, path: String },
    /// A row of an array, from 0.
    Row { array: Arc<ImageArray>, row: u64 },
}

impl Candidate {
    /// True for an image file as it is, whose path names the file.
    pub(super) fn is_file(&self) -> bool {
        matches!(self.content, Content::File { .. })
    }
}

impl Content {
    /// Reads the image as file bytes, at most `max_bytes`.
    pub(super) fn read(&self, max_bytes: u64, limits: &Limits) -> Result<Vec<u8>, Rejection> {
        match self {
            Self::File { root, path } => read_file(root, path, max_bytes),
            Self::FileAsPng { root, path } => {
                let decoded = imaging::decode(&read_file(root, path, max_bytes)?, limits);
                Ok(imaging::encode_png(&decoded.map_err(|error| format!("{path}: {error}"))?.1))
            }
            Self::Row { array, row } => Ok(array.png(*row)?),
        }
    }
}

fn read_file(root: &Path, path: &str, max_bytes: u64) -> Result<Vec<u8>, Rejection> {
    read_bounded(root, path, max_bytes).map_err(|reason| {
        let exists = root.join(path).symlink_metadata().is_ok();
        let kind = if exists { RejectionKind::Unusable } else { RejectionKind::RowWithoutFile };
        Rejection { kind, reason }
    })
}
