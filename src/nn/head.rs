//! Heads: what turns features into logits.

use burn::{
    module::{Initializer, Module},
    nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig},
    tensor::{Device, Int, Tensor, activation::relu},
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
        self.layers(features).pop().expect("a head has layers")
    }

    /// In inference, the logits `[batch, classes]` and the gradient of each row's highest one with respect to its features:
    /// `[batch, features]`. Not by autodiff, on whose device norm and dropout would do what they do in training.
    pub(crate) fn forward_with_gradient(&self, features: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        let mut outputs = self.layers(features);
        let logits = outputs.pop().expect("a head has layers");
        let highest: Tensor<1, Int> = logits.clone().argmax(1).squeeze_dim(1);
        let mut gradient: Tensor<2> = highest.one_hot(logits.dims()[1]).float();
        for (index, layer) in self.linear.iter().enumerate().rev() {
            gradient = gradient.matmul(layer.weight.val().transpose());
            if index > 0 {
                // A ReLU stands between this layer and the one before it.
                gradient = gradient * outputs[index - 1].clone().greater_elem(0.0).float();
            }
        }
        (logits, self.through_norm(gradient))
    }

    /// What each linear layer gives, the last one the logits.
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

    /// From a gradient behind the norm to the one before it: in inference the norm multiplies and shifts.
    fn through_norm(&self, gradient: Tensor<2>) -> Tensor<2> {
        let Some(norm) = &self.norm else { return gradient };
        let factors = norm.gamma.val() / norm.running_var.value().add_scalar(norm.epsilon).sqrt();
        gradient * factors.unsqueeze()
    }
}
