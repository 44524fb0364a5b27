//! Dropout with a random number generator of its own.

use std::sync::{Arc, Mutex};

use burn::{
    module::Module,
    tensor::{Tensor, TensorData},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Dropout: on autodiff devices only, sets inputs to zero with `probability` and scales the others by `1 / (1 - probability)`.
///
/// Burn's dropout uses one generator for the whole process, which other threads advance; runs would not be reproducible. Clones share the
/// generator.
#[derive(Module, Debug)]
pub(crate) struct SeededDropout {
    probability: f64,
    #[module(skip)]
    generator: Arc<Mutex<ChaCha8Rng>>,
}

impl SeededDropout {
    /// `probability` is at least 0 and below 1.
    pub(crate) fn new(probability: f64, seed: u64) -> Self {
        Self { probability, generator: Arc::new(Mutex::new(ChaCha8Rng::seed_from_u64(seed))) }
    }

    /// Reseeds the generator.
    pub(crate) fn seed(&self, seed: u64) {
        *self.generator.lock().expect("sampling does not panic") = ChaCha8Rng::seed_from_u64(seed);
    }

    /// Output of the same shape as the input.
    pub(crate) fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        let device = input.device();
        if self.probability == 0.0 || !device.is_autodiff() {
            return input;
        }
        let dims = input.dims();
        let mask = TensorData::new(self.sample_mask(dims[0] * dims[1]), dims);
        input * Tensor::from_data(mask, &device)
    }

    fn sample_mask(&self, count: usize) -> Vec<f32> {
        let scale = (1.0 / (1.0 - self.probability)) as f32;
        let mut generator = self.generator.lock().expect("sampling does not panic");
        (0..count).map(|_| if generator.random_bool(self.probability) { 0.0 } else { scale }).collect()
    }
}
