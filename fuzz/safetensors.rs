//! Model files, and weights of torchvision as safetensors.
#![no_main]

use std::sync::LazyLock;

use thorax::nn::{self, DeviceChoice, Network};

static CPU: LazyLock<burn::tensor::Device> = LazyLock::new(|| DeviceChoice::Cpu.open(None).expect("a processor").0);

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok((network, spec)) = Network::from_bytes(bytes, &CPU) {
        // Numbers that no network has, such as NaN, are kept as they are; what is written can be read.
        Network::from_bytes(&network.to_bytes(&spec), &CPU).expect("it was written just now");
    }
    bounds::in_file("weights.safetensors", bytes, |path| drop(nn::import_weights(path)));
});
