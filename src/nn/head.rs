//! Heads: what turns features into logits.

use burn::{
    module::{Initializer, Module},
    nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig},
    tensor::{Device, Tensor, activation::relu},
};

use super::{body, dropout::SeededDropout};
use crate::domain::{Architecture, ModelSpec};

/// Widths between the features and the classes of the head on a ResNet or a VGG.
const HIDDEN: [usize; 4] = [256, 128, 64, 32];

/// Width between the features and the classes of the simple network's head.
const SIMPLE_HIDDEN: [usize; 1] = [128];

/// Dropout and linear layers with ReLU between, batch-normalised at the entrance but on the simple network.
///
/// The norm comes before the dropout: the other way round its running variance is that of thinned features, which
/// the features in inference are not (Li et al. 2018, arXiv:1801.05134).
#[derive(Module, Debug)]
pub(crate) struct Head {
    norm: Option<BatchNorm>,
    dropout: SeededDropout,
    linear: Vec<Linear>,
}

impl Head {
    /// A head of zeros to load weights into.
    pub(crate) fn new(spec: &ModelSpec, dropout_seed: u64, device: &Device) -> Self {
        let input = body::features(spec.architecture);
        let (norm, hidden) = match spec.architecture {
            Architecture::ResNet50 | Architecture::Vgg16 => {
                (Some(BatchNormConfig::new(input).init(device)), HIDDEN.as_slice())
            }
            Architecture::SimpleCnn => (None, SIMPLE_HIDDEN.as_slice()),
        };
        let widths: Vec<usize> = [&[input], hidden, &[spec.classes.len()]].concat();
        let layer =
            |pair: &[usize]| LinearConfig::new(pair[0], pair[1]).with_initializer(Initializer::Zeros).init(device);
        let dropout = SeededDropout::new(spec.dropout, dropout_seed);
        Self { norm, dropout, linear: widths.windows(2).map(layer).collect() }
    }

    /// Starts the dropout's draws again from `seed`.
    pub(crate) fn seed_dropout(&self, seed: u64) {
        self.dropout.seed(seed);
    }

    /// `[batch, features]` to logits `[batch, classes]`.
    pub(crate) fn forward(&self, features: Tensor<2>) -> Tensor<2> {
        let normed = match &self.norm {
            Some(norm) => norm.forward(features),
            None => features,
        };
        let mut x = self.dropout.forward(normed);
        for (index, layer) in self.linear.iter().enumerate() {
            x = layer.forward(if index == 0 { x } else { relu(x) });
        }
        x
    }
}
