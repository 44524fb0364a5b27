//! A TensorFlow.js package: a byte that is not text parts model.json from the one shard.
#![no_main]

use flate2::{Compression, write::GzEncoder};
use thorax::nn;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let end = bytes.iter().position(|byte| *byte == 0xff).unwrap_or(bytes.len());
    let shard = bytes.get(end + 1..).unwrap_or_default();
    let mut package = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::none()));
    for (name, content) in [("model.json", &bytes[..end]), ("group1-shard1of1.bin", shard)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        package.append_data(&mut header, format!("package/ResNet50/{name}"), content).expect("memory takes it");
    }
    let package = package.into_inner().and_then(GzEncoder::finish).expect("memory takes it");
    bounds::in_file("package.tgz", &package, |path| drop(nn::import_weights(path)));
});
