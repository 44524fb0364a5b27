//! Models that answer at once and know nothing.

use thorax::{
    domain::{Architecture, BlockVariant, ClassList, ModelSpec, Normalisation},
    nn::{DeviceChoice, Network},
};

/// The file of a small network with random weights.
pub fn small(image_size: u32, seed: u64) -> Vec<u8> {
    random(Architecture::SimpleCnn, image_size, seed)
}

/// The file of a ResNet-50 with random weights.
pub fn resnet(image_size: u32, seed: u64) -> Vec<u8> {
    random(Architecture::ResNet50, image_size, seed)
}

fn random(architecture: Architecture, image_size: u32, seed: u64) -> Vec<u8> {
    let spec = ModelSpec {
        architecture,
        block_variant: BlockVariant::V1,
        classes: ClassList::default(),
        image_size,
        normalisation: Normalisation { scale: 1.0 / 255.0, mean: [0.5; 3], std: [0.25; 3] },
        dropout: 0.5,
    };
    Network::random(&spec, seed, &DeviceChoice::Cpu.open(None).unwrap().0).to_bytes(&spec)
}
