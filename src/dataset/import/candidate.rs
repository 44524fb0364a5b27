//! An image that was found, and how its bytes are come by.

use std::{path::Path, sync::Arc};

use crate::{
    dataset::folder::read_bounded,
    domain::Split,
    imaging::{self, Limits},
    store::{Attributes, RejectionKind},
};

use super::{Refused, image_array::ImageArray};

/// An image that was found, and what its place says about it.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    /// As it is told in rejections, relative to the folder; its last part becomes the file's name.
    pub(super) path: String,
    pub(super) label: String,
    pub(super) split: Option<Split>,
    pub(super) patient_id: Option<String>,
    pub(super) source: Option<String>,
    /// What else its place says about it.
    pub(super) attributes: Option<Attributes>,
    pub(super) content: Content,
}

/// Where the bytes of an image are.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// In a file below a folder.
    File { root: Arc<Path>, path: String },
    /// In such a file, which is decoded and becomes a grey PNG.
    AsPng { root: Arc<Path>, path: String },
    /// In a row of an array, from 0.
    Row { array: Arc<ImageArray>, row: u64 },
}

impl Content {
    /// Reads the image as a file; no file of more than `max_bytes` is read.
    pub(super) fn read(&self, max_bytes: u64, limits: &Limits) -> Result<Vec<u8>, Refused> {
        match self {
            Self::File { root, path } => read_file(root, path, max_bytes),
            Self::AsPng { root, path } => {
                let decoded = imaging::decode(&read_file(root, path, max_bytes)?, limits);
                Ok(imaging::encode_png(&decoded.map_err(|error| format!("{path}: {error}"))?.1))
            }
            Self::Row { array, row } => Ok(array.png(*row)?),
        }
    }
}

fn read_file(root: &Path, path: &str, max_bytes: u64) -> Result<Vec<u8>, Refused> {
    read_bounded(root, path, max_bytes).map_err(|reason| {
        let there = root.join(path).symlink_metadata().is_ok();
        let kind = if there { RejectionKind::Unusable } else { RejectionKind::RowWithoutFile };
        Refused { kind, reason }
    })
}
