//! PNG and JPEG: decoding, the flags, and what is stored.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bounds::examine(bytes));
