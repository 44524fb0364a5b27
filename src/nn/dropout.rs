//! Dropout whose draws depend on its own seed alone.

use std::sync::{Arc, Mutex};

use burn::{
    module::Module,
    tensor::{Tensor, TensorData},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Sets inputs to zero with a probability, on autodiff devices only, and scales the others by `1 / (1 - probability)`.
///
/// Burn's own dropout draws from one generator for the whole process, which any other thread may advance; a run
/// would not give the same numbers twice. Clones share the generator.
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

    /// Starts the draws again from `seed`.
    pub(crate) fn seed(&self, seed: u64) {
        *self.generator.lock().expect("drawing does not panic") = ChaCha8Rng::seed_from_u64(seed);
    }

    /// Any shape to the same shape.
    pub(crate) fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        let device = input.device();
        if self.probability == 0.0 || !device.is_autodiff() {
            return input;
        }
        let dims = input.dims();
        let mask = TensorData::new(self.draw(dims[0] * dims[1]), dims);
        input * Tensor::from_data(mask, &device)
    }

    fn draw(&self, count: usize) -> Vec<f32> {
        let kept = (1.0 / (1.0 - self.probability)) as f32;
        let mut generator = self.generator.lock().expect("drawing does not panic");
        (0..count).map(|_| if generator.random_bool(self.probability) { 0.0 } else { kept }).collect()
    }
}
