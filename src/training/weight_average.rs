//! Exponential moving average (EMA) of the weights during a step.

use burn::module::Module;

use crate::{domain::WeightAveraging, nn::Network};

/// Exponential moving average of a network: of its weights and of its batch-norm statistics, updated after each batch.
///
/// A checkpoint within a step stores both fields.
pub(super) struct WeightAverage {
    /// The averaged network, in inference mode.
    pub(super) network: Network,
    /// Number of updates so far.
    pub(super) updates: u64,
}

impl WeightAverage {
    /// The average before the first batch: the network itself.
    pub(super) fn new(network: &Network) -> Self {
        Self { network: network.valid(), updates: 0 }
    }

    /// Updates the average with the network after one more batch.
    pub(super) fn update(&mut self, network: &Network, rule: WeightAveraging) {
        self.updates += 1;
        let weight = 1.0 - rule.decay_at(self.updates);
        let current = network.valid();
        // Moved out and not cloned, so that its tensors have one owner and are updated in place.
        let average = std::mem::replace(&mut self.network, current.clone());
        self.network = average.lerp(&current, weight);
    }
}
