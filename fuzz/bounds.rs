//! Shared by all targets: a limit on memory, and the check that every image must pass.

use std::alloc::System;

use cap::Cap;
use thorax::imaging::{self, Limits};

/// Maximum allocated memory of a target, in bytes. An image at [`LIMITS`] takes a hundredth of it.
const MEMORY: usize = 512 << 20;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, MEMORY);

/// Limits of images; small, so that a run covers many images.
pub const LIMITS: Limits = Limits { max_pixels: 1 << 18 };

/// Asserts that an image that can be examined can be stored, and that the stored file has the same pixels and no more data to remove.
pub fn examine(bytes: &[u8]) {
    let Ok(examined) = imaging::examine(bytes, &LIMITS) else { return };
    let (format, stored) = examined.deidentified(bytes).expect("what decodes can be stored");
    let again = imaging::examine(&stored, &LIMITS).expect("what is stored decodes");
    assert_eq!((again.format, &again.image), (format, &examined.image));
    assert_eq!(again.deidentified(&stored).expect("it was stored once"), (format, stored));
}

/// A file in memory under a name, for readers that take a path.
pub fn in_file(name: &str, bytes: &[u8], read: impl FnOnce(&std::path::Path)) {
    let path = std::path::Path::new("/dev/shm").join(format!("thorax-fuzz-{}-{name}", std::process::id()));
    std::fs::write(&path, bytes).expect("memory holds files");
    read(&path);
    std::fs::remove_file(&path).expect("the file exists");
}
