//! A network made ready for prediction: on the CPU a plan of the kernels, elsewhere Burn's modules.

use burn::tensor::{Device, Tensor, TensorData, activation::relu};
use thorax_kernels::{Plan, team};

use super::{Input, Network, Pauses, body::Body, head::Head, plan};
use crate::domain::{ModelSpec, Normalisation};

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
    Modules { body: Box<Body>, normalisation: Normalisation, pauses: Option<Pauses> },
}

impl Compiled {
    /// Compiles a network that is in inference mode (as [`Network::from_bytes`] or `Module::valid` gives it); the image size is the
    /// spec's.
    pub fn new(network: &Network, spec: &ModelSpec, device: &Device) -> Self {
        let body = if *device == Device::flex() {
            Ready::Plan(Box::new(plan::compile(&network.body, network.epsilon, spec)))
        } else {
            let normalisation = spec.normalisation.clone();
            Ready::Modules { body: Box::new(network.body.clone()), normalisation, pauses: None }
        };
        Self { body, head: network.head.clone(), side: spec.image_size, device: device.clone() }
    }

    /// The same with passes that may pause, where there are points for it: not on the CPU.
    pub fn pausing(mut self, with: Option<Pauses>) -> Self {
        if let Ready::Modules { pauses, .. } = &mut self.body {
            *pauses = with;
        }
        self
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
            Ready::Modules { body, normalisation, pauses } => {
                body.forward(&self.input(images, normalisation, pauses.as_ref()))
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

    fn input(&self, images: &[&[u8]], normalisation: &Normalisation, pauses: Option<&Pauses>) -> Input {
        Input::new(images, self.side, normalisation, &self.device).pausing(pauses)
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
            Ready::Modules { body, normalisation, pauses } => {
                let maps = body.maps(&self.input(images, normalisation, pauses.as_ref()));
                (body.average(maps.clone()), maps)
            }
        }
    }
}

#[cfg(test)]
mod activation_tests;
#[cfg(test)]
mod tests;
