//! Paths of files in rejections. Those of DICOM files may name the patient, in the file or in a folder, and are replaced.

use std::{fs::File, io::Read, path::Path};

use crate::{
    dataset::{is_private, match_class},
    domain::{ClassList, Sha256},
};

use super::split_names::split_by_name;

/// Number of bytes from which the format of a file is detected.
const HEAD_BYTES: u64 = 512;

/// The path of a file below `root` as rejections show it. If its name must not be stored, that is the folder of its split and class, its
/// position in the import, and its SHA-256, by which the user can find it. `content` is what could be read of it.
pub(super) fn shown_path(
    root: &Path,
    path: &str,
    classes: &ClassList,
    position: usize,
    content: Option<&[u8]>,
) -> String {
    let file = root.join(path);
    if file.is_dir() {
        return path.to_owned();
    }
    let head = if content.is_some() { Vec::new() } else { head(&file) };
    if !is_private(path, content.unwrap_or(&head)) {
        return path.to_owned();
    }
    let is_layout = |part: &&str| split_by_name(part).is_some() || match_class(classes, part).is_some();
    let folder: String = path.split('/').take_while(is_layout).map(|part| format!("{part}/")).collect();
    match content {
        Some(bytes) => format!("{folder}[file {position}, SHA-256 {}]", Sha256::of(bytes)),
        None => format!("{folder}[file {position}]"),
    }
}

/// The first bytes of a regular file; empty if it cannot be read.
fn head(file: &Path) -> Vec<u8> {
    let mut head = Vec::new();
    // Checked before opening, because opening a named pipe blocks until it has a writer.
    if file.metadata().is_ok_and(|metadata| metadata.is_file())
        && let Ok(file) = File::open(file)
    {
        // An error leaves what was read so far.
        drop(file.take(HEAD_BYTES).read_to_end(&mut head));
    }
    head
}
