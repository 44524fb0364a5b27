//! Bounded file access below a root folder; paths that leave the folder are rejected.

use std::{
    fs::File,
    io::{self, Read},
    path::{Component, Path, PathBuf},
};

/// A path that is not readable below the root folder.
#[derive(Debug, thiserror::Error)]
pub enum PathError {
    /// The path is absolute, contains `..`, or follows a symbolic link out of the folder.
    #[error("{0}: the path is outside of the folder")]
    Outside(String),
    /// The path does not exist or cannot be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// The requested path.
        path: String,
        /// Error of the operating system.
        source: io::Error,
    },
}

/// The canonical path of `relative` below `root`. Symbolic links are followed, but must not leave `root`.
pub fn resolve_below(root: &Path, relative: &str) -> Result<PathBuf, PathError> {
    let outside = || PathError::Outside(relative.to_owned());
    let unreadable = |source| PathError::Unreadable { path: relative.to_owned(), source };
    let is_safe = |part| matches!(part, Component::Normal(_) | Component::CurDir);
    if !Path::new(relative).components().all(is_safe) {
        return Err(outside());
    }
    let root = root.canonicalize().map_err(unreadable)?;
    let resolved = root.join(relative).canonicalize().map_err(unreadable)?;
    if resolved.starts_with(&root) { Ok(resolved) } else { Err(outside()) }
}

/// Reads a regular file below `root` of at most `max_bytes` bytes.
pub(super) fn read_bounded(root: &Path, relative: &str, max_bytes: u64) -> Result<Vec<u8>, String> {
    let path = resolve_below(root, relative).map_err(|error| error.to_string())?;
    let failed = |error: io::Error| format!("{relative}: {error}");
    // Checked before opening, because opening a named pipe blocks until it has a writer.
    if !path.metadata().map_err(failed)?.is_file() {
        return Err(format!("{relative}: not a regular file"));
    }
    let mut bytes = Vec::new();
    let file = File::open(&path).map_err(failed)?;
    file.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > max_bytes {
        return Err(format!("{relative}: exceeds the limit of {max_bytes} bytes"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_below_the_root_are_resolved() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("a")).unwrap();
        std::fs::write(root.path().join("a/b.png"), b"x").unwrap();
        let found = resolve_below(root.path(), "a/./b.png").unwrap();
        assert_eq!(found, root.path().canonicalize().unwrap().join("a/b.png"));
        assert!(resolve_below(root.path(), "").is_ok(), "the root itself");
    }

    #[test]
    fn parent_absolute_and_missing_paths_are_rejected() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("a")).unwrap();
        for path in ["..", "a/../..", "/", "/etc/passwd"] {
            assert!(matches!(resolve_below(root.path(), path), Err(PathError::Outside(_))), "{path}");
        }
        assert!(matches!(resolve_below(root.path(), "none.png"), Err(PathError::Unreadable { .. })));
    }

    #[cfg(unix)]
    #[test]
    fn symbolic_links_must_not_leave_the_root() {
        let (root, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(other.path().join("secret"), b"x").unwrap();
        std::fs::write(root.path().join("own"), b"x").unwrap();
        std::os::unix::fs::symlink(other.path(), root.path().join("out")).unwrap();
        std::os::unix::fs::symlink(root.path().join("own"), root.path().join("in")).unwrap();
        assert!(matches!(resolve_below(root.path(), "out/secret"), Err(PathError::Outside(_))));
        assert!(resolve_below(root.path(), "in").is_ok());
    }

    #[test]
    fn only_regular_files_within_the_limit_are_read() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("five"), b"12345").unwrap();
        assert_eq!(read_bounded(root.path(), "five", 5).unwrap(), b"12345");
        assert!(read_bounded(root.path(), "five", 4).unwrap_err().contains("limit of 4 bytes"));
        assert!(read_bounded(root.path(), ".", 4).unwrap_err().contains("not a regular file"));
    }
}
