//! Fixtures of the engine tests.

use burn::tensor::Device;
use safetensors::SafeTensors;

use super::Classifier;
use crate::{
    domain::{Architecture, BlockVariant, ClassList, ModelId, ModelSpec, Normalisation},
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

/// The model file with all values of a tensor replaced.
pub(super) fn with_weight(file: &[u8], name: &str, value: f32) -> Vec<u8> {
    let tensors = SafeTensors::deserialize(file).unwrap();
    let data = tensors.tensor(name).unwrap().data();
    let start = data.as_ptr() as usize - file.as_ptr() as usize;
    let mut changed = file.to_vec();
    changed[start..start + data.len()].as_chunks_mut().0.fill(value.to_le_bytes());
    changed
}

/// A classifier whose logits are finite for a black image and not for a white one, loaded without its self-test.
pub(super) fn overflowing_on_white() -> Classifier {
    // A black image is negative after normalisation, and the ReLU behind the first convolution makes it zero.
    let file = with_weight(&model(1), "body.conv.0.weight", 1e36);
    let file = with_weight(&file, "body.conv.1.weight", 1e3);
    Classifier::build(ModelId::new(), &file, &Device::flex(), 1).unwrap()
}
