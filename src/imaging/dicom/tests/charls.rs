//! The JPEG-LS decoder against CharLS, the reference implementation: `charls.py` writes the streams and what CharLS decodes from them.

use crate::{domain::Sha256, imaging::dicom::jpeg_ls};

const STREAMS: &[u8] = include_bytes!("charls.bin");

#[test]
fn decodes_each_stream_like_charls() {
    let (mut rest, mut count) = (STREAMS, 0);
    while !rest.is_empty() {
        let [width, height, length] = [0, 4, 8].map(|at| {
            let bytes = rest[at..at + 4].try_into().unwrap();
            u32::from_le_bytes(bytes) as usize
        });
        let (stream, after) = rest[12..].split_at(length);
        let (expected, after) = after.split_at(32);
        let (samples, _) = jpeg_ls::decode(stream, width, height).unwrap();
        let bytes: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        let expected: String = expected.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(Sha256::of(&bytes).as_str(), expected, "stream {count}: {width} x {height}");
        (rest, count) = (after, count + 1);
    }
    assert_eq!(count, 36);
}
