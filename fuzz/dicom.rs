//! DICOM: the header alone, then all of it.
#![no_main]

use thorax::imaging;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = imaging::sop_instance(bytes, &bounds::LIMITS);
    bounds::examine(bytes);
});
