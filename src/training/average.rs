//! The moving average of a step's weights.

use burn::module::Module;

use crate::{domain::WeightAveraging, nn::Network};

/// Follows a network batch by batch; weights and batch-norm statistics alike.
///
/// To go on with a step in the middle of it, both fields are needed.
pub(super) struct Average {
    /// In inference mode.
    pub(super) network: Network,
    /// How many batches it has followed.
    pub(super) batches: u64,
}

impl Average {
    /// Before the first batch: the network as it is.
    pub(super) fn new(network: &Network) -> Self {
        Self { network: network.valid(), batches: 0 }
    }

    /// Takes in the network after one more batch.
    pub(super) fn follow(&mut self, network: &Network, rule: WeightAveraging) {
        self.batches += 1;
        let share = 1.0 - rule.decay_at(self.batches);
        let followed = network.valid();
        // Out of its place, not cloned: nobody else holds its tensors then, and they move where they are.
        let average = std::mem::replace(&mut self.network, followed.clone());
        self.network = average.towards(&followed, share);
    }
}
