//! Heads: the fully connected parts of the networks, which compute logits of features.

use burn::{
    module::{Initializer, Module},
    nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig},
    tensor::{Device, Int, Tensor, activation::relu},
};

use super::{body, dropout::SeededDropout};
use crate::domain::{Architecture, ModelSpec};

/// Widths of the hidden layers of the head on ResNet-50 and VGG-16.
const HIDDEN: [usize; 4] = [256, 128, 64, 32];

/// Width of the hidden layer of the head on the simple CNN.
const SIMPLE_HIDDEN: [usize; 1] = [128];

/// Batch normalisation (not on the simple CNN), dropout, then linear layers with ReLU in between.
///
/// Batch normalisation comes before dropout. In the other order its running variance would be that of features with dropout, which differs
/// from that of the features in inference (Li et al. 2018, arXiv:1801.05134).
#[derive(Module, Debug)]
pub(crate) struct Head {
    norm: Option<BatchNorm>,
    dropout: SeededDropout,
    linear: Vec<Linear>,
}

impl Head {
    /// A head with all weights zero, to load weights into.
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

    /// Reseeds dropout.
    pub(crate) fn seed_dropout(&self, seed: u64) {
        self.dropout.seed(seed);
    }

    /// Logits `[batch, classes]` of features `[batch, features]`.
    pub(crate) fn forward(&self, features: Tensor<2>) -> Tensor<2> {
        self.layers(features).pop().expect("a head has layers")
    }

    /// In inference mode, the logits `[batch, classes]`, and the gradient `[batch, features]` of the largest logit of each row with respect to
    /// the features. It is computed without autodiff, because on an autodiff device batch normalisation and dropout are in training mode.
    pub(crate) fn forward_with_gradient(&self, features: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let mut outputs = self.layers(features);
        let logits = outputs.pop().expect("a head has layers");
        let highest: Tensor<1, Int> = logits.clone().argmax(1).squeeze_dim(1);
        let mut gradient: Tensor<2> = highest.one_hot(logits.dims()[1]).float();
        for (index, layer) in self.linear.iter().enumerate().rev() {
            gradient = gradient.matmul(layer.weight.val().transpose());
            if index > 0 {
                // ReLU between this layer and the previous one.
                gradient = gradient * outputs[index - 1].clone().greater_elem(0.0).float();
            }
        }
        (logits, self.through_norm(gradient))
    }

    /// Output of each linear layer; the last one is the logits.
    fn layers(&self, features: Tensor<2>) -> Vec<Tensor<2>> {
        let normed = match &self.norm {
            Some(norm) => norm.forward(features),
            None => features,
        };
        let first = self.dropout.forward(normed);
        let mut outputs: Vec<Tensor<2>> = Vec::with_capacity(self.linear.len());
        for layer in &self.linear {
            let input = outputs.last().map_or_else(|| first.clone(), |before| relu(before.clone()));
            outputs.push(layer.forward(input));
        }
        outputs
    }

    /// Gradient before batch normalisation, given the one after it. In inference mode batch normalisation is affine.
    fn through_norm(&self, gradient: Tensor<2>) -> Tensor<2> {
        let Some(norm) = &self.norm else { return gradient };
        let factors = norm.gamma.val() / norm.running_var.value().add_scalar(norm.epsilon).sqrt();
        gradient * factors.unsqueeze()
    }
}
