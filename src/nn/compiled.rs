//! A network made ready for prediction: on the CPU a plan of the kernels, elsewhere Burn's modules.

use burn::tensor::{Device, Tensor, TensorData};

use super::{Network, body::Body, head::Head, input_tensor, plan};
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
                body.forward(input_tensor(images, self.side, normalisation, &self.device))
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
}

#[cfg(test)]
mod tests;
