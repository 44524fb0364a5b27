//! Random initialisation of weights. It runs on the CPU with a seeded generator, so that the weights are the same on every device.

use burn::module::Module;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    NnError,
    tensors::{self, HostTensor, NamedTensors},
};

/// Stream of the random number generator. Body and head have separate streams, so that a head is the same on every body.
#[derive(Clone, Copy, Debug)]
pub(crate) enum RandomStream {
    /// The body.
    Body = 0,
    /// The head.
    Head = 1,
}

/// Initialises the weights of a module from `seed`.
pub(crate) fn randomise<M: Module>(module: M, seed: u64, stream: RandomStream) -> Result<M, NnError> {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(stream as u64);
    let initial: NamedTensors =
        tensors::layout(&module).into_iter().map(|(name, shape)| initialise(name, shape, &mut generator)).collect();
    tensors::replace(module, initial, "")
}

fn initialise(name: String, shape: Vec<usize>, generator: &mut ChaCha8Rng) -> (String, HostTensor) {
    let count = shape.iter().product();
    let values = match (shape.as_slice(), name.rsplit('.').next()) {
        ([out, _, height, width], _) => he_normal(count, out * height * width, generator),
        ([out, input], _) => glorot_uniform(count, out + input, generator),
        (_, Some("weight" | "running_var")) => vec![1.0; count],
        _ => vec![0.0; count],
    };
    (name, HostTensor { shape, values })
}

/// He initialisation (He et al. 2015, arXiv:1502.01852), normal distribution with fan-out as in torchvision's ResNet and VGG.
fn he_normal(count: usize, fan_out: usize, generator: &mut ChaCha8Rng) -> Vec<f32> {
    let deviation = (2.0 / fan_out as f64).sqrt();
    (0..count).map(|_| (deviation * standard_normal(generator)) as f32).collect()
}

/// Box-Muller transform (1958), the cosine branch.
fn standard_normal(generator: &mut ChaCha8Rng) -> f64 {
    let radius = (-2.0 * (1.0 - generator.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * generator.random::<f64>()).cos()
}

/// Glorot initialisation (Glorot & Bengio 2010), uniform distribution: the default of Keras' dense layers.
fn glorot_uniform(count: usize, fan_sum: usize, generator: &mut ChaCha8Rng) -> Vec<f32> {
    let limit = (6.0 / fan_sum as f64).sqrt() as f32;
    (0..count).map(|_| generator.random_range(-limit..=limit)).collect()
}
