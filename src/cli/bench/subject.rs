//! Network and inputs of a benchmark.

use std::{
    fs,
    path::{Path, PathBuf},
};

use burn::tensor::Device;

use super::BenchError;
use crate::{
    domain::{Architecture, BlockVariant, ClassList, ModelSpec, Normalisation, TrainingPlan, recipe},
    nn::Network,
};

/// Random seed of weights and dropout.
pub(super) const SEED: u64 = 1;

/// Network to measure: a model file, or an architecture with random weights.
pub(super) struct Subject {
    pub(super) architecture: Architecture,
    file: Option<PathBuf>,
}

impl Subject {
    /// Reads the architecture from the file, if there is one. `architecture` must then match it.
    pub(super) fn new(architecture: Option<Architecture>, file: Option<&Path>) -> Result<Self, BenchError> {
        let Some(path) = file else {
            return Ok(Self { architecture: architecture.unwrap_or(Architecture::ResNet50), file: None });
        };
        let (_, spec) = load(path, &Device::flex())?;
        let path = path.to_path_buf();
        match architecture {
            Some(wanted) if wanted != spec.architecture => {
                Err(BenchError::Architecture { path, found: spec.architecture.to_string(), wanted: wanted.to_string() })
            }
            _ => Ok(Self { architecture: spec.architecture, file: Some(path) }),
        }
    }

    /// The network for images of `image_size`, in inference mode.
    pub(super) fn network(&self, image_size: u32, device: &Device) -> Result<(Network, ModelSpec), BenchError> {
        match &self.file {
            None => {
                let spec = self.random_spec(image_size);
                Ok((Network::random(&spec, SEED, device), spec))
            }
            Some(path) => {
                let (network, spec) = load(path, device)?;
                Ok((network, ModelSpec { image_size, ..spec }))
            }
        }
    }

    /// The network as a model file.
    pub(super) fn model_file(&self, image_size: u32) -> Result<Vec<u8>, BenchError> {
        let (network, spec) = self.network(image_size, &Device::flex())?;
        Ok(network.to_bytes(&spec))
    }

    /// Plan of the recipe for the architecture, with optimiser, learning rate and dropout.
    pub(super) fn plan(&self) -> TrainingPlan {
        let name = match self.architecture {
            Architecture::ResNet50 => "covid-resnet",
            Architecture::Vgg16 => "vgg16-scratch",
            Architecture::SimpleCnn => "simple-cnn",
        };
        recipe(name).expect("a built-in recipe").plan
    }

    /// The spec that a training run from random weights has.
    fn random_spec(&self, image_size: u32) -> ModelSpec {
        ModelSpec {
            architecture: self.architecture,
            block_variant: BlockVariant::V1,
            classes: ClassList::default(),
            image_size,
            normalisation: Normalisation { scale: 1.0 / 255.0, mean: [0.0; 3], std: [1.0; 3] },
            dropout: self.plan().dropout,
        }
    }
}

fn load(path: &Path, device: &Device) -> Result<(Network, ModelSpec), BenchError> {
    let bytes = fs::read(path).map_err(|source| BenchError::File { path: path.into(), source })?;
    Network::from_bytes(&bytes, device).map_err(|source| BenchError::Model { path: path.into(), source })
}

/// Image `number` of a batch: `side * side` grey levels, `((number + 1) * x * y / side + 3 * x + 5 * y) mod 256` in row `y` and
/// column `x`, with integer division. The scripts in `benches/` generate the same images for other frameworks.
pub(super) fn synthetic_image(number: u32, side: u32) -> Vec<u8> {
    let grey = |y, x| ((number + 1) * x * y / side + 3 * x + 5 * y) % 256;
    (0..side).flat_map(|y| (0..side).map(move |x| grey(y, x) as u8)).collect()
}

/// Class index of image `number`.
pub(super) fn label(number: u32, classes: usize) -> usize {
    number as usize % classes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn synthetic_images_follow_the_formula_and_differ() {
        assert_eq!(synthetic_image(0, 32)[..4], [0, 3, 6, 9]);
        assert_eq!(synthetic_image(2, 32)[33], 8); // 3 * 1 * 1 / 32 + 3 + 5
        assert_eq!(synthetic_image(511, 1024).last(), Some(&0xf8)); // 512 * 1023 * 1023 / 1024 + 8 * 1023, mod 256
        assert_ne!(synthetic_image(0, 32), synthetic_image(1, 32));
    }
}
