//! A loaded model that turns grey squares into probabilities; synchronous.

use std::sync::Arc;

use burn::tensor::{Device, activation::softmax};

use crate::{
    domain::{ModelId, ModelSpec},
    nn::{Compiled, Network, NnError},
};

/// A network, what it is, and where it runs.
#[derive(Debug)]
pub struct Classifier {
    network: Compiled,
    spec: Arc<ModelSpec>,
    id: ModelId,
}

impl Classifier {
    /// Reads a model file and runs one blank image through it, so that the first client does not pay for tuning.
    pub fn load(id: ModelId, bytes: &[u8], device: &Device) -> Result<Self, NnError> {
        let (network, spec) = Network::from_bytes(bytes, device)?;
        let network = Compiled::new(&network, &spec, device);
        let classifier = Self { network, spec: Arc::new(spec), id };
        let side = classifier.spec.image_size as usize;
        classifier.probabilities(&[&vec![0; side * side]])?;
        Ok(classifier)
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
        let output = softmax(self.network.logits(images), 1).into_data(); // [batch, classes]
        let flat = output.try_to_vec::<f32>().map_err(|e| NnError::Device(format!("read-back failed: {e:?}")))?;
        Ok(flat.chunks_exact(self.spec.classes.len()).map(<[f32]>::to_vec).collect())
    }
}
