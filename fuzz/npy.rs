//! Arrays of NumPy: images, which must then decode, and labels.
#![no_main]

use bounds::{LIMITS, in_file};
use thorax::{
    dataset::{ImageArray, array_labels},
    domain::ClassList,
    imaging,
};

/// Images of an array that are read.
const ROWS: u64 = 4;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    in_file("array.npy", bytes, |path| {
        let (Some(root), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else { return };
        if let Ok(array) = ImageArray::open(root, name, &LIMITS) {
            for row in 0..array.rows().min(ROWS) {
                let Ok(png) = array.png(row) else { continue };
                imaging::decode(&png, &LIMITS).expect("what was written decodes");
            }
        }
        let classes = ClassList::default();
        for label in array_labels(root, name, &classes).into_iter().flatten().flatten() {
            assert!(classes.index_of(&label).is_some(), "{label}");
        }
    });
});
