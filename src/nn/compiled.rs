//! A network compiled for prediction: a graph of the kernels on the CPU, Burn's modules elsewhere.

use burn::tensor::{Device, Tensor, TensorData, activation::relu};
use thorax_kernels::Graph;

use super::{Input, Network, Pauses, body::Body, graph, head::Head, team};
use crate::domain::{ModelSpec, Normalisation};

/// A network in inference mode for images of one size.
///
/// It owns what it needs of the network and returns the results of [`Network::forward`], except for rounding.
#[derive(Debug)]
pub struct Compiled {
    body: CompiledBody,
    head: Head,
    side: u32,
    device: Device,
}

#[derive(Debug)]
enum CompiledBody {
    /// On the CPU: batch normalisation folded, weights packed.
    Graph(Box<Graph>),
    /// On other devices: the modules.
    Modules { body: Box<Body>, normalisation: Normalisation, pauses: Option<Pauses> },
}

impl Compiled {
    /// Compiles a network that is in inference mode (as returned by [`Network::from_bytes`] or `Module::valid`), for
    /// the image size of the spec.
    pub fn new(network: &Network, spec: &ModelSpec, device: &Device) -> Self {
        let body = if *device == Device::flex() {
            CompiledBody::Graph(Box::new(graph::compile(&network.body, network.epsilon, spec)))
        } else {
            let normalisation = spec.normalisation.clone();
            CompiledBody::Modules { body: Box::new(network.body.clone()), normalisation, pauses: None }
        };
        Self { body, head: network.head.clone(), side: spec.image_size, device: device.clone() }
    }

    /// Lets passes pause at their preemption points. Only modules have such points; the kernels pause by thread
    /// priority.
    pub fn pausing(mut self, with: Option<Pauses>) -> Self {
        if let CompiledBody::Modules { pauses, .. } = &mut self.body {
            *pauses = with;
        }
        self
    }

    /// Features `[images, features]` of square grey images, `side * side` bytes each.
    ///
    /// # Panics
    /// If an image has another size, or there is none.
    pub fn features(&self, images: &[&[u8]]) -> Tensor<2> {
        match &self.body {
            CompiledBody::Graph(graph) => {
                let rows = graph.features(team(), images);
                let shape = [rows.len(), rows[0].len()];
                Tensor::from_data(TensorData::new(rows.concat(), shape), &self.device)
            }
            CompiledBody::Modules { body, normalisation, pauses } => {
                body.forward(&self.input(images, normalisation, pauses.as_ref()))
            }
        }
    }

    /// Logits `[images, classes]` of square grey images.
    ///
    /// # Panics
    /// Panics under the conditions of [`Compiled::features`].
    pub fn logits(&self, images: &[&[u8]]) -> Tensor<2> {
        self.head.forward(self.features(images))
    }

    /// The logits, and for each image the Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391) of its highest logit on
    /// the last feature maps: `[images, side, side]`, non-negative, without a unit. One pass of the network.
    ///
    /// The weight of a map is the mean of the logit's gradient over its pixels. The features are averages of the
    /// maps, so this equals the sum of the gradients of the map's features, up to a factor that all maps share.
    ///
    /// # Panics
    /// Panics under the conditions of [`Compiled::features`].
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
            CompiledBody::Graph(graph) => {
                let (features, maps) = graph.features_and_maps(team(), images);
                let (count, side) = (images.len(), graph.map_side());
                let shape = [count, maps[0].len() / (side * side), side, side];
                let maps = TensorData::new(maps.concat(), shape);
                let features = TensorData::new(features.concat(), [count, features[0].len()]);
                (Tensor::from_data(features, &self.device), Tensor::from_data(maps, &self.device))
            }
            CompiledBody::Modules { body, normalisation, pauses } => {
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
