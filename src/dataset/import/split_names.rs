//! Names of splits in folders, arrays and tables.

use crate::domain::Split;

/// The split that the name of a folder or array denotes.
pub(super) fn split_by_name(name: &str) -> Option<Split> {
    match name.to_lowercase().as_str() {
        "train" | "training" => Some(Split::Train),
        "val" | "valid" | "validation" => Some(Split::Validation),
        "test" | "testing" => Some(Split::Test),
        _ => None,
    }
}
