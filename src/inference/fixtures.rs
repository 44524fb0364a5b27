//! Fixtures of the engine tests.

use burn::tensor::Device;

use crate::{
    domain::{Architecture, BlockVariant, ClassList, ModelSpec, Normalisation},
    nn::Network,
};

/// Model file of a small network with random weights.
pub(super) fn model(seed: u64) -> Vec<u8> {
    let spec = ModelSpec {
        architecture: Architecture::SimpleCnn,
        block_variant: BlockVariant::V1,
        classes: ClassList::default(),
        image_size: 32,
        normalisation: Normalisation { scale: 1.0 / 255.0, mean: [0.5; 3], std: [0.25; 3] },
        dropout: 0.5,
    };
    Network::random(&spec, seed, &Device::flex()).to_bytes(&spec)
}
