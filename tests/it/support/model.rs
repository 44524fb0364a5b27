//! Models that respond at once and know nothing.

use safetensors::SafeTensors;
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

/// The model file with all values of a tensor replaced by `value(index)`.
pub fn with_tensor(file: &[u8], name: &str, value: impl Fn(usize) -> f32) -> Vec<u8> {
    let tensors = SafeTensors::deserialize(file).unwrap();
    let data = tensors.tensor(name).unwrap().data();
    let start = data.as_ptr() as usize - file.as_ptr() as usize;
    let mut changed = file.to_vec();
    let values = changed[start..start + data.len()].as_chunks_mut::<4>().0;
    values.iter_mut().enumerate().for_each(|(index, bytes)| *bytes = value(index).to_le_bytes());
    changed
}

/// A model whose weights overflow for a chequered image of 32 x 32 pixels, and for hardly any other.
pub fn overflowing_on_chequers() -> Vec<u8> {
    // The first channel of the first convolution [32, 3, 3, 3] responds to one pattern of nine pixels, which adds 54 after
    // normalisation; the second [_, 32, 3, 3] reads nothing else.
    let sign = |index: usize| if (index % 9).is_multiple_of(2) { 1.0 } else { -1.0 };
    let file = with_tensor(&small(32, 1), "body.conv.0.weight", |index| if index < 27 { sign(index) } else { 0.0 });
    let file = with_tensor(&file, "body.conv.0.bias", |index| if index == 0 { -52.0 } else { 0.0 });
    let file = with_tensor(&file, "body.conv.1.weight", |index| if index / 9 % 32 == 0 { 1e30 } else { 0.0 });
    let file = with_tensor(&file, "body.conv.1.bias", |_| 0.0);
    let file = with_tensor(&file, "body.conv.2.weight", |_| 1e30);
    with_tensor(&file, "body.conv.2.bias", |_| 0.0)
}

/// The image for which it overflows.
pub fn chequers() -> Vec<u8> {
    (0..32 * 32_u32).map(|at| if (at / 32 + at % 32).is_multiple_of(2) { 255 } else { 0 }).collect()
}
