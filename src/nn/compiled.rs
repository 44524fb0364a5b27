//! A network made ready for prediction: on the CPU a plan of the kernels, elsewhere Burn's modules.

use burn::tensor::{Device, Tensor, TensorData, activation::relu};

use super::{Input, Network, body::Body, head::Head, plan};
use crate::{
    domain::{ModelSpec, Normalisation},
    kernel::{Plan, team},
};

/// A network in inference mode for images of one size.
///
/// It keeps what it needs of the network and answers what [`Network::forward`] answers, but for rounding.
#[derive(Debug)]
pub struct Compiled {
    body: Ready,
    head: Head,
    side: u32,
    device: Device,
}

#[derive(Debug)]
enum Ready {
    /// Batch normalisation folded, weights packed; on the CPU.
    Plan(Box<Plan>),
    /// As it is.
    Modules { body: Box<Body>, normalisation: Normalisation },
}

impl Compiled {
    /// Compiles a network that is in inference mode (as [`Network::from_bytes`] or `Module::valid` gives it); the image size is the
    /// spec's.
    pub fn new(network: &Network, spec: &ModelSpec, device: &Device) -> Self {
        let body = if *device == Device::flex() {
            Ready::Plan(Box::new(plan::compile(&network.body, network.epsilon, spec)))
        } else {
            Ready::Modules { body: Box::new(network.body.clone()), normalisation: spec.normalisation.clone() }
        };
        Self { body, head: network.head.clone(), side: spec.image_size, device: device.clone() }
    }

    /// Features `[images, features]` of grey squares of the model's side.
    ///
    /// # Panics
    /// If an image is not of that size, or there is none.
    pub fn features(&self, images: &[&[u8]]) -> Tensor<2> {
        match &self.body {
            Ready::Plan(plan) => {
                let rows = plan.features(team(), images);
                let shape = [rows.len(), rows[0].len()];
                Tensor::from_data(TensorData::new(rows.concat(), shape), &self.device)
            }
            Ready::Modules { body, normalisation } => {
                body.forward(&Input::new(images, self.side, normalisation, &self.device))
            }
        }
    }

    /// Logits `[images, classes]` of grey squares of the model's side.
    ///
    /// # Panics
    /// As [`Compiled::features`].
    pub fn logits(&self, images: &[&[u8]]) -> Tensor<2> {
        self.head.forward(self.features(images))
    }

    /// The logits, and for each image the Grad-CAM of its highest one (Selvaraju et al. 2017, arXiv:1610.02391) on the maps that
    /// the body ends with: `[images, side, side]`, no less than 0, in no unit. One pass of the network.
    ///
    /// A map's weight is the mean of the logit's gradient over its pixels. The features are averages of the maps, so that this is the
    /// sum of the gradients of the map's features, but for a factor that all maps share.
    ///
    /// # Panics
    /// As [`Compiled::features`].
    pub fn logits_and_activation(&self, images: &[&[u8]]) -> (Tensor<2>, Tensor<3>) {
        let (features, maps) = self.features_and_maps(images);
        let [count, channels, ..] = maps.dims();
        let (logits, gradient) = self.head.forward_with_gradient(features);
        let cells = gradient.dims()[1] / channels;
        let weights = gradient.reshape([count, channels, cells]).sum_dim(2).unsqueeze_dim(3); // [images, channels, 1, 1]
        let weighted: Tensor<3> = (maps * weights).sum_dim(1).squeeze_dim(1);
        (logits, relu(weighted))
    }

    fn features_and_maps(&self, images: &[&[u8]]) -> (Tensor<2>, Tensor<4>) {
        match &self.body {
            Ready::Plan(plan) => {
                let (features, maps) = plan.features_and_maps(team(), images);
                let (count, side) = (images.len(), plan.map_side());
                let shape = [count, maps[0].len() / (side * side), side, side];
                let maps = TensorData::new(maps.concat(), shape);
                let features = TensorData::new(features.concat(), [count, features[0].len()]);
                (Tensor::from_data(features, &self.device), Tensor::from_data(maps, &self.device))
            }
            Ready::Modules { body, normalisation } => {
                let maps = body.maps(&Input::new(images, self.side, normalisation, &self.device));
                (body.average(maps.clone()), maps)
            }
        }
    }
}

#[cfg(test)]
mod activation_tests;
#[cfg(test)]
mod tests;
