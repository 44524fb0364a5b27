//! A loaded model that computes class probabilities of greyscale images. Synchronous.

use std::sync::Arc;

use burn::tensor::{Device, Tensor, activation::softmax};

use crate::{
    domain::{ActivationMap, ModelId, ModelSpec},
    nn::{Compiled, Network, NnError},
};

/// A compiled network with its specification and the batch sizes it was warmed up for.
#[derive(Debug)]
pub struct Classifier {
    network: Compiled,
    spec: Arc<ModelSpec>,
    id: ModelId,
    /// Batch sizes for which the GPU kernels are tuned, ascending; batches are padded to the next one. Empty on the CPU, where every
    /// size is fine.
    tuned_batch_sizes: Vec<usize>,
}

impl Classifier {
    /// Reads a model file and warms it up: runs blank images in every batch size that will be used, so that no client waits for
    /// autotuning.
    pub fn load(id: ModelId, bytes: &[u8], device: &Device, max_batch_size: usize) -> Result<Self, NnError> {
        let (network, spec) = Network::from_bytes(bytes, device)?;
        let network = Compiled::new(&network, &spec, device);
        // GPU kernels are autotuned for each shape, which takes seconds to minutes. CPU kernels are not.
        let tuned_batch_sizes = if *device == Device::flex() { Vec::new() } else { batch_sizes_up_to(max_batch_size) };
        let classifier = Self { network, spec: Arc::new(spec), id, tuned_batch_sizes };
        let blank = classifier.blank();
        let sizes =
            if classifier.tuned_batch_sizes.is_empty() { &[1] } else { classifier.tuned_batch_sizes.as_slice() };
        for &size in sizes {
            classifier.probabilities(&vec![blank.as_slice(); size])?;
        }
        Ok(classifier)
    }

    fn blank(&self) -> Vec<u8> {
        vec![0; (self.spec.image_size as usize).pow(2)]
    }

    /// Identifier of the model.
    pub fn id(&self) -> ModelId {
        self.id
    }

    /// Specification of the model: input size, normalisation and classes.
    pub fn spec(&self) -> &Arc<ModelSpec> {
        &self.spec
    }

    /// Class probabilities of each image. Every image has `image_size * image_size` grey levels.
    pub fn probabilities(&self, images: &[&[u8]]) -> Result<Vec<Vec<f32>>, NnError> {
        let blank = self.blank();
        let logits = self.network.logits(&self.padded(images, &blank));
        self.softmax(logits, images.len())
    }

    /// Class probabilities of each image, and the class activation map of its most probable class. One forward pass.
    pub fn explained(&self, images: &[&[u8]]) -> Result<(Vec<Vec<f32>>, Vec<ActivationMap>), NnError> {
        let blank = self.blank();
        let (logits, activation) = self.network.logits_and_activation(&self.padded(images, &blank));
        let [_, rows, columns] = activation.dims();
        let values = read_back(activation)?;
        let maps = values.chunks_exact(rows * columns).take(images.len());
        let maps = maps.map(|values| ActivationMap::normalised(rows, columns, values)).collect();
        Ok((self.softmax(logits, images.len())?, maps))
    }

    /// The batch, padded with blank images to a size for which the kernels are tuned.
    fn padded<'a>(&self, images: &[&'a [u8]], blank: &'a [u8]) -> Vec<&'a [u8]> {
        let mut batch = images.to_vec();
        let size = self.tuned_batch_sizes.iter().copied().find(|&size| size >= images.len()).unwrap_or(images.len());
        batch.resize(size, blank);
        batch
    }

    /// Probabilities of the first `count` images, from logits `[batch, classes]`.
    fn softmax(&self, logits: Tensor<2>, count: usize) -> Result<Vec<Vec<f32>>, NnError> {
        let flat = read_back(softmax(logits, 1))?;
        Ok(flat.chunks_exact(self.spec.classes.len()).take(count).map(<[f32]>::to_vec).collect())
    }
}

fn read_back<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, NnError> {
    tensor.into_data().try_into_vec().map_err(|e| NnError::Device(format!("read-back failed: {e:?}")))
}

/// The powers of two below `max`, and `max`.
fn batch_sizes_up_to(max: usize) -> Vec<usize> {
    let powers = std::iter::successors(Some(1), |size| Some(2 * size)).take_while(|&size| size < max);
    powers.chain([max]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Architecture, BlockVariant, ClassList, Normalisation};

    #[test]
    fn batch_sizes_double_and_end_with_the_maximum() {
        assert_eq!(batch_sizes_up_to(1), [1]);
        assert_eq!(batch_sizes_up_to(8), [1, 2, 4, 8]);
        assert_eq!(batch_sizes_up_to(12), [1, 2, 4, 8, 12]);
    }

    #[test]
    fn padding_a_batch_neither_changes_nor_adds_predictions() {
        let spec = ModelSpec {
            architecture: Architecture::ResNet50,
            block_variant: BlockVariant::V1,
            classes: ClassList::default(),
            image_size: 32,
            normalisation: Normalisation { scale: 1.0 / 255.0, mean: [0.0; 3], std: [1.0; 3] },
            dropout: 0.5,
        };
        let device = Device::flex();
        let file = Network::random(&spec, 1, &device).to_bytes(&spec);
        let plain = Classifier::load(ModelId::new(), &file, &device, 4).unwrap();
        let network = Compiled::new(&Network::from_bytes(&file, &device).unwrap().0, &spec, &device);
        let padding =
            Classifier { network, spec: Arc::new(spec), id: ModelId::new(), tuned_batch_sizes: batch_sizes_up_to(4) };
        let images: Vec<Vec<u8>> = (1..=5).map(|step| (0..32 * 32).map(|i| (i * step % 251) as u8).collect()).collect();
        for count in [1, 3, 4, 5] {
            let images: Vec<&[u8]> = images[..count].iter().map(Vec::as_slice).collect();
            let (expected, found) = (plain.probabilities(&images).unwrap(), padding.probabilities(&images).unwrap());
            assert_eq!(found.len(), count);
            for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
                assert!((found - expected).abs() < 1e-5, "{found} and {expected}");
            }
        }
    }
}
