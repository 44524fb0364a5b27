//! Networks, weights and devices.

use std::{path::Path, str::FromStr};

use crate::domain::{BlockVariant, DeviceInfo, ModelSpec, Normalisation, Scope};
use burn::tensor::{Device, Tensor};

/// What can go wrong with weights, models and devices.
#[derive(Debug, thiserror::Error)]
pub enum NnError {
    /// Unknown container or names.
    #[error("not a weight file we read: {0}")]
    UnknownFormat(String),
    /// A tensor is missing, surplus or of the wrong shape.
    #[error("tensor {name}: {problem}")]
    Tensor {
        /// Its name in the file.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// Reading failed.
    #[error("cannot read the weights: {0}")]
    Io(#[from] std::io::Error),
    /// The device is not to be had.
    #[error("device {0}")]
    Device(String),
}

/// `THORAX_DEVICE`: `auto`, `vulkan[:N]` or `cpu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A real GPU if there is one (a software rasteriser is not), else the CPU.
    Auto,
    /// Burn's Vulkan backend; error without the `gpu` feature or an adapter.
    Vulkan(usize),
    /// Burn's flex backend.
    Cpu,
}

impl FromStr for DeviceChoice {
    type Err = NnError;

    fn from_str(_text: &str) -> Result<Self, NnError> {
        unimplemented!()
    }
}

impl DeviceChoice {
    /// Picks the device and says which it is.
    pub fn open(self) -> Result<(Device, DeviceInfo), NnError> {
        unimplemented!()
    }
}

/// All devices this build can use, `in_use` false.
pub fn devices() -> Vec<DeviceInfo> {
    unimplemented!()
}

/// Converted ImageNet weights of the body, as safetensors bytes with canonical names, and what they are.
pub struct BodyWeights {
    /// Canonical safetensors (torchvision-like names), with [`Normalisation`] and variant in its metadata.
    pub bytes: Vec<u8>,
    /// Where the stride stands.
    pub variant: BlockVariant,
    /// `keras-tfjs`, `torchvision-pth` or `torchvision-safetensors`.
    pub origin: &'static str,
}

/// Reads a TensorFlow.js package tarball, a torchvision `.pth` or `.safetensors`, told by content.
pub fn import_weights(_path: &Path) -> Result<BodyWeights, NnError> {
    unimplemented!()
}

/// The network: body and head.
#[derive(Clone, Debug)]
pub struct Network {
    // private fields: body, head
}

impl Network {
    /// A network with random weights, drawn from `seed` alone.
    pub fn random(_spec: &ModelSpec, _seed: u64, _device: &Device) -> Self {
        unimplemented!()
    }

    /// A random head on the canonical body weights (bytes as in [`BodyWeights`]); the spec's variant and
    /// normalisation must be theirs: see [`body_spec`].
    pub fn pretrained(_spec: &ModelSpec, _body: &[u8], _seed: u64, _device: &Device) -> Result<Self, NnError> {
        unimplemented!()
    }

    /// Reads a model file written by [`Network::to_bytes`].
    pub fn from_bytes(_bytes: &[u8], _device: &Device) -> Result<(Self, ModelSpec), NnError> {
        unimplemented!()
    }

    /// The model file: safetensors with the spec in its metadata. Deterministic.
    pub fn to_bytes(&self, _spec: &ModelSpec) -> Vec<u8> {
        unimplemented!()
    }

    /// Body features; `[batch, 3, side, side]` to `[batch, 2048]` (simple-cnn: all up to the dense layer).
    pub fn features(&self, _input: Tensor<4>) -> Tensor<2> {
        unimplemented!()
    }

    /// Head: `[batch, features]` to logits `[batch, classes]`.
    pub fn classify(&self, _features: Tensor<2>) -> Tensor<2> {
        unimplemented!()
    }

    /// Logits `[batch, classes]`.
    pub fn forward(&self, input: Tensor<4>) -> Tensor<2> {
        self.classify(self.features(input))
    }

    /// All parameters, for reporting.
    pub fn parameter_count(&self) -> usize {
        unimplemented!()
    }
}

/// Variant and normalisation stored with canonical body weights.
pub fn body_spec(_body: &[u8]) -> Result<(BlockVariant, Normalisation), NnError> {
    unimplemented!()
}

/// Grey images (each side*side bytes) to network input `[batch, 3, side, side]`, normalised.
pub fn input_tensor(_images: &[&[u8]], _side: u32, _normalisation: &Normalisation, _device: &Device) -> Tensor<4> {
    unimplemented!()
}

/// Which parameters a step trains; used by the trainer.
pub fn trains_body(scope: Scope) -> bool {
    scope == Scope::All
}
