//! A loaded model that computes class probabilities of greyscale images. Synchronous.

use std::sync::Arc;

use burn::tensor::{Device, Tensor, activation::softmax};

use super::test_images::test_images;
use crate::{
    domain::{ActivationMap, ModelId, ModelSpec},
    nn::{self, Compiled, Network, NnError},
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

/// Output of the network for an image.
#[derive(Debug)]
pub(super) struct ImageOutput {
    /// Probability of each class; none if a logit is not finite.
    pub(super) probabilities: Option<Vec<f32>>,
    /// Class activation map of the most probable class; none if it was not requested or is not finite.
    pub(super) activation: Option<ActivationMap>,
}

impl Classifier {
    /// Reads a model file and tests it on generated images. On a GPU, compares its results in every batch size that will be used with those
    /// of the CPU, which also tunes the kernels, so that no client waits for it.
    ///
    /// # Errors
    /// [`NnError::NotFinite`] if a weight or a result of the self-test is not finite, [`NnError::Device`] if the device computes the
    /// network wrongly.
    pub fn load(id: ModelId, bytes: &[u8], device: &Device, max_batch_size: usize) -> Result<Self, NnError> {
        // All finite weights are within this maximum.
        if let Some(weight) = nn::excessive_weight(bytes, f32::MAX)? {
            return Err(NnError::NotFinite(weight));
        }
        let classifier = Self::build(id, bytes, device, max_batch_size)?;
        classifier.self_test()?;
        if !classifier.tuned_batch_sizes.is_empty() {
            let reference = Self::build(id, bytes, &Device::flex(), 1)?;
            let side = classifier.spec.image_size;
            nn::check_inference(&classifier.network, &reference.network, side, &classifier.tuned_batch_sizes)?;
        }
        Ok(classifier)
    }

    /// Reads a model file, without any test.
    pub(super) fn build(id: ModelId, bytes: &[u8], device: &Device, max_batch_size: usize) -> Result<Self, NnError> {
        let (network, spec) = Network::from_bytes(bytes, device)?;
        let network = Compiled::new(&network, &spec, device);
        // GPU kernels are autotuned for each shape, which takes seconds to minutes. CPU kernels are not.
        let tuned_batch_sizes = if *device == Device::flex() { Vec::new() } else { batch_sizes_up_to(max_batch_size) };
        Ok(Self { network, spec: Arc::new(spec), id, tuned_batch_sizes })
    }

    /// Classifies generated images, one at a time.
    ///
    /// # Errors
    /// [`NnError::NotFinite`] at the first image with a logit that is not finite.
    fn self_test(&self) -> Result<(), NnError> {
        for (name, pixels) in test_images(self.spec.image_size) {
            if self.outputs(&[&pixels], false)?.iter().any(|output| output.probabilities.is_none()) {
                return Err(NnError::NotFinite(format!(
                    "the network computes a logit that is not finite for a generated image ({name}): its weights are finite, but \
                     their products overflow"
                )));
            }
        }
        Ok(())
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
    ///
    /// # Errors
    /// [`NnError::NotFinite`] if a logit of any image is not finite, and errors of the device.
    pub fn probabilities(&self, images: &[&[u8]]) -> Result<Vec<Vec<f32>>, NnError> {
        let not_finite = || NnError::NotFinite("a logit is not finite".into());
        self.outputs(images, false)?.into_iter().map(|output| output.probabilities.ok_or_else(not_finite)).collect()
    }

    /// The results for each image, with class activation maps if `explain` is true. One forward pass. Every image has `image_size *
    /// image_size` grey levels.
    pub(super) fn outputs(&self, images: &[&[u8]], explain: bool) -> Result<Vec<ImageOutput>, NnError> {
        let blank = self.blank();
        let batch = self.padded(images, &blank);
        if !explain {
            let probabilities = self.softmax(self.network.logits(&batch), images.len())?;
            let output = |probabilities| ImageOutput { probabilities, activation: None };
            return Ok(probabilities.into_iter().map(output).collect());
        }
        let (logits, activation) = self.network.logits_and_activation(&batch);
        let [_, rows, columns] = activation.dims();
        let values = read_back(activation)?;
        let map = |values: &[f32]| is_finite(values).then(|| ActivationMap::normalised(rows, columns, values));
        let maps = values.chunks_exact(rows * columns).map(map);
        let output = |(probabilities, activation)| ImageOutput { probabilities, activation };
        Ok(self.softmax(logits, images.len())?.into_iter().zip(maps).map(output).collect())
    }

    /// The batch, padded with blank images to a size for which the kernels are tuned.
    fn padded<'a>(&self, images: &[&'a [u8]], blank: &'a [u8]) -> Vec<&'a [u8]> {
        let mut batch = images.to_vec();
        let size = self.tuned_batch_sizes.iter().copied().find(|&size| size >= images.len()).unwrap_or(images.len());
        batch.resize(size, blank);
        batch
    }

    /// Probabilities of the first `count` images, from logits `[batch, classes]`; none for an image with a logit that is not finite.
    fn softmax(&self, logits: Tensor<2>, count: usize) -> Result<Vec<Option<Vec<f32>>>, NnError> {
        let classes = self.spec.classes.len();
        // Both in one read-back. Minus infinity among the logits would not show in the probabilities.
        let rows = read_back(Tensor::cat(vec![logits.clone(), softmax(logits, 1)], 1))?;
        let row = |row: &[f32]| is_finite(row).then(|| row[classes..].to_vec());
        Ok(rows.chunks_exact(2 * classes).take(count).map(row).collect())
    }
}

fn is_finite(values: &[f32]) -> bool {
    values.iter().all(|value| value.is_finite())
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
    use crate::{
        domain::{Architecture, BlockVariant, ClassList, Normalisation},
        inference::fixtures,
    };

    #[test]
    fn batch_sizes_double_and_end_with_the_maximum() {
        assert_eq!(batch_sizes_up_to(1), [1]);
        assert_eq!(batch_sizes_up_to(8), [1, 2, 4, 8]);
        assert_eq!(batch_sizes_up_to(12), [1, 2, 4, 8, 12]);
    }

    #[test]
    fn a_model_with_a_weight_that_is_not_finite_is_refused_by_name() {
        let device = Device::flex();
        let load = |file: &[u8]| Classifier::load(ModelId::new(), file, &device, 1);
        let file = fixtures::model(1);
        assert!(load(&file).is_ok());
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let error = load(&fixtures::with_weight(&file, "head.linear.1.bias", value)).unwrap_err().to_string();
            assert!(error.contains("tensor head.linear.1.bias") && error.contains("not finite"), "{error}");
        }
    }

    #[test]
    fn a_model_whose_weights_are_finite_and_overflow_is_refused_by_the_self_test() {
        let file = fixtures::with_weight(&fixtures::model(1), "head.linear.1.weight", f32::MAX);
        let error = Classifier::load(ModelId::new(), &file, &Device::flex(), 1).unwrap_err();
        assert!(matches!(error, NnError::NotFinite(_)), "{error}");
        assert!(error.to_string().contains("generated image"), "{error}");
    }

    #[test]
    fn a_result_that_is_not_finite_is_no_probability_and_spares_the_rest_of_the_batch() {
        let classifier = fixtures::overflowing_on_white();
        let (black, white) = (vec![0; 32 * 32], vec![255; 32 * 32]);
        let images: [&[u8]; 3] = [&black, &white, &black];
        for explain in [false, true] {
            let outputs = classifier.outputs(&images, explain).unwrap();
            let finite = outputs.iter().map(|output| output.probabilities.is_some());
            assert_eq!(finite.collect::<Vec<_>>(), [true, false, true], "explain: {explain}");
        }
        assert!(matches!(classifier.probabilities(&images), Err(NnError::NotFinite(_))));
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
