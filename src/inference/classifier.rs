//! A loaded model that turns grey squares into probabilities; synchronous.

use std::sync::Arc;

use burn::tensor::{Device, Tensor, activation::softmax};

use crate::{
    domain::{ActivationMap, ModelId, ModelSpec},
    nn::{Compiled, Network, NnError},
};

/// A network, what it is, and where it runs.
#[derive(Debug)]
pub struct Classifier {
    network: Compiled,
    spec: Arc<ModelSpec>,
    id: ModelId,
    /// Batch sizes that the device's kernels are tuned for, rising; batches are filled up to them. None: any size is as good.
    sizes: Vec<usize>,
}

impl Classifier {
    /// Reads a model file and runs blank images through it in every batch size that will be used, so that no client pays for tuning.
    pub fn load(id: ModelId, bytes: &[u8], device: &Device, max_batch_size: usize) -> Result<Self, NnError> {
        let (network, spec) = Network::from_bytes(bytes, device)?;
        let network = Compiled::new(&network, &spec, device);
        // A GPU tunes its kernels for each shape anew, which takes seconds to minutes; the CPU's kernels know nothing of the kind.
        let sizes = if *device == Device::flex() { Vec::new() } else { sizes_up_to(max_batch_size) };
        let classifier = Self { network, spec: Arc::new(spec), id, sizes };
        let blank = classifier.blank();
        for &size in if classifier.sizes.is_empty() { &[1] } else { classifier.sizes.as_slice() } {
            classifier.probabilities(&vec![blank.as_slice(); size])?;
        }
        Ok(classifier)
    }

    fn blank(&self) -> Vec<u8> {
        vec![0; (self.spec.image_size as usize).pow(2)]
    }

    /// Which model it is.
    pub fn id(&self) -> ModelId {
        self.id
    }

    /// What it expects and answers.
    pub fn spec(&self) -> &Arc<ModelSpec> {
        &self.spec
    }

    /// Class probabilities of each image; every image is `image_size * image_size` grey levels.
    pub fn probabilities(&self, images: &[&[u8]]) -> Result<Vec<Vec<f32>>, NnError> {
        let blank = self.blank();
        let logits = self.network.logits(&self.filled(images, &blank));
        self.shares(logits, images.len())
    }

    /// The same, and for each image what moved the score of its most probable class. One pass of the network.
    pub fn explained(&self, images: &[&[u8]]) -> Result<(Vec<Vec<f32>>, Vec<ActivationMap>), NnError> {
        let blank = self.blank();
        let (logits, activation) = self.network.logits_and_activation(&self.filled(images, &blank));
        let [_, rows, columns] = activation.dims();
        let values = read_back(activation)?;
        let maps = values.chunks_exact(rows * columns).take(images.len());
        let maps = maps.map(|values| ActivationMap::normalised(rows, columns, values)).collect();
        Ok((self.shares(logits, images.len())?, maps))
    }

    /// A batch of a size that the device is tuned for.
    fn filled<'a>(&self, images: &[&'a [u8]], blank: &'a [u8]) -> Vec<&'a [u8]> {
        let mut batch = images.to_vec();
        let size = self.sizes.iter().copied().find(|&size| size >= images.len()).unwrap_or(images.len());
        batch.resize(size, blank);
        batch
    }

    /// Logits `[size, classes]` to the probabilities of the first `count` images.
    fn shares(&self, logits: Tensor<2>, count: usize) -> Result<Vec<Vec<f32>>, NnError> {
        let flat = read_back(softmax(logits, 1))?;
        Ok(flat.chunks_exact(self.spec.classes.len()).take(count).map(<[f32]>::to_vec).collect())
    }
}

fn read_back<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, NnError> {
    tensor.into_data().try_into_vec().map_err(|e| NnError::Device(format!("read-back failed: {e:?}")))
}

/// The powers of two below `most`, and `most`.
fn sizes_up_to(most: usize) -> Vec<usize> {
    let powers = std::iter::successors(Some(1), |size| Some(2 * size)).take_while(|&size| size < most);
    powers.chain([most]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Architecture, BlockVariant, ClassList, Normalisation};

    #[test]
    fn sizes_double_and_end_with_the_largest() {
        assert_eq!(sizes_up_to(1), [1]);
        assert_eq!(sizes_up_to(8), [1, 2, 4, 8]);
        assert_eq!(sizes_up_to(12), [1, 2, 4, 8, 12]);
    }

    #[test]
    fn what_fills_a_batch_up_changes_no_answer_and_gives_none() {
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
        let filling = Classifier { network, spec: Arc::new(spec), id: ModelId::new(), sizes: sizes_up_to(4) };
        let images: Vec<Vec<u8>> = (1..=5).map(|step| (0..32 * 32).map(|i| (i * step % 251) as u8).collect()).collect();
        for count in [1, 3, 4, 5] {
            let images: Vec<&[u8]> = images[..count].iter().map(Vec::as_slice).collect();
            let (expected, found) = (plain.probabilities(&images).unwrap(), filling.probabilities(&images).unwrap());
            assert_eq!(found.len(), count);
            for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
                assert!((found - expected).abs() < 1e-5, "{found} and {expected}");
            }
        }
    }
}
