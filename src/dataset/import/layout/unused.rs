//! Files of an import folder that no entry refers to, counted by folder and reason.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::Path,
};

use crate::store::ExcludedRows;

use super::{DANGLING, Listing, all_names, is_dangling, is_hidden, is_mask};

/// Maximum number of reported folders and reasons; beyond it, subfolders are counted with their parents.
const MAX_GROUPS: usize = 100;

/// Maximum depth of folders, against loops of mounts.
const MAX_DEPTH: usize = 32;

/// Extensions of files that can be radiographs.
const IMAGE_EXTENSIONS: [&str; 5] = ["png", "jpg", "jpeg", "dcm", "dicom"];

/// Counts the files below `root` that the listing neither imports nor rejects nor reads.
pub(super) fn count(root: &Path, listing: &Listing) -> Result<Vec<ExcludedRows>, String> {
    let mut used: HashSet<&str> = listing.read.iter().map(String::as_str).collect();
    for entry in &listing.entries {
        used.insert(&entry.origin.file);
        used.extend(entry.candidate.as_ref().ok().map(|candidate| candidate.path.as_str()));
    }
    let mut unused = Vec::new();
    walk(root, "", None, listing, &used, MAX_DEPTH, &mut unused)?;
    Ok(grouped(&unused))
}

/// File that is not used.
struct UnusedFile {
    folder: String,
    reason: String,
}

fn walk(
    root: &Path,
    folder: &str,
    reason: Option<&str>,
    listing: &Listing,
    used: &HashSet<&str>,
    depth: usize,
    unused: &mut Vec<UnusedFile>,
) -> Result<(), String> {
    for name in all_names(&root.join(folder))? {
        let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
        let Ok(kind) = fs::symlink_metadata(root.join(&path)).map(|metadata| metadata.file_type()) else { continue };
        let own = listing.left_out.get(&path).map(String::as_str).or(reason);
        if kind.is_dir() {
            let reason = own.or_else(|| {
                let rejected = used.contains(path.as_str()).then_some("the folder is not imported");
                reason_by_name(&name).or(rejected)
            });
            if depth > 0 {
                walk(root, &path, reason, listing, used, depth - 1, unused)?;
            } else {
                unused.push(UnusedFile { folder: path, reason: "folders are nested too deep".into() });
            }
        } else if !used.contains(path.as_str()) {
            let is_dangling = kind.is_symlink() && is_dangling(&root.join(&path));
            let by_type = || if is_dangling { DANGLING } else { reason_by_type(&name) };
            let reason = own.or_else(|| reason_by_name(&name)).unwrap_or_else(by_type);
            unused.push(UnusedFile { folder: folder.to_owned(), reason: reason.to_owned() });
        }
    }
    Ok(())
}

fn reason_by_name(name: &str) -> Option<&'static str> {
    if is_hidden(name) {
        Some("hidden file")
    } else if is_mask(name) {
        Some("segmentation mask")
    } else {
        None
    }
}

fn reason_by_type(name: &str) -> &'static str {
    let extension = name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    if extension.is_some_and(|extension| IMAGE_EXTENSIONS.contains(&extension.as_str())) {
        "image without a label: neither in a label file nor in a class folder"
    } else {
        "not an image"
    }
}

/// Counts files by folder and reason, with as many levels of folders as the limit allows.
fn grouped(unused: &[UnusedFile]) -> Vec<ExcludedRows> {
    let groups = |levels: usize| {
        let mut groups: BTreeMap<(String, &str), u64> = BTreeMap::new();
        for file in unused {
            let folder = file.folder.split('/').take(levels).collect::<Vec<_>>().join("/");
            *groups.entry((folder, &file.reason)).or_default() += 1;
        }
        groups
    };
    let levels = [4, 3, 2, 1].into_iter().find(|levels| groups(*levels).len() <= MAX_GROUPS).unwrap_or(0);
    let excluded = |((folder, reason), rows): ((String, &str), u64)| ExcludedRows {
        source: if folder.is_empty() { ".".to_owned() } else { folder },
        reason: reason.to_owned(),
        rows,
    };
    groups(levels).into_iter().map(excluded).collect()
}
