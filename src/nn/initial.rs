//! Initial weights, drawn on the CPU from a seed: the same on every device and whatever other threads draw.

use burn::module::Module;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    NnError,
    tensors::{self, HostTensor, NamedTensors},
};

/// Keeps body and head apart, so that a head is the same on every body.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    /// The body.
    Body = 0,
    /// The head.
    Head = 1,
}

/// The module with weights drawn from `seed`.
pub(crate) fn randomise<M: Module>(module: M, seed: u64, part: Part) -> Result<M, NnError> {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(part as u64);
    let drawn: NamedTensors =
        tensors::layout(&module).into_iter().map(|(name, shape)| draw(name, shape, &mut generator)).collect();
    tensors::replace(module, drawn, "")
}

fn draw(name: String, shape: Vec<usize>, generator: &mut ChaCha8Rng) -> (String, HostTensor) {
    let count = shape.iter().product();
    let values = match (shape.as_slice(), name.rsplit('.').next()) {
        ([out, _, height, width], _) => he_normal(count, out * height * width, generator),
        ([out, input], _) => glorot_uniform(count, out + input, generator),
        (_, Some("weight" | "running_var")) => vec![1.0; count],
        _ => vec![0.0; count],
    };
    (name, HostTensor { shape, values })
}

/// He et al. 2015 (arXiv:1502.01852), by outputs as in torchvision's ResNet and VGG.
fn he_normal(count: usize, fan_out: usize, generator: &mut ChaCha8Rng) -> Vec<f32> {
    let deviation = (2.0 / fan_out as f64).sqrt();
    (0..count).map(|_| (deviation * standard_normal(generator)) as f32).collect()
}

/// Box and Muller 1958, the cosine half.
fn standard_normal(generator: &mut ChaCha8Rng) -> f64 {
    let radius = (-2.0 * (1.0 - generator.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * generator.random::<f64>()).cos()
}

/// Glorot & Bengio 2010, the default of Keras' dense layers.
fn glorot_uniform(count: usize, fan_sum: usize, generator: &mut ChaCha8Rng) -> Vec<f32> {
    let limit = (6.0 / fan_sum as f64).sqrt() as f32;
    (0..count).map(|_| generator.random_range(-limit..=limit)).collect()
}
