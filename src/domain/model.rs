//! What a model is beside its tensors, and the device it runs on.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Architecture, ClassList};

/// Where a bottleneck's stride of 2 stands; decided by the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum BlockVariant {
    /// On the first 1x1 convolution: the original Caffe network and Keras (`resnet50`).
    #[serde(rename = "resnet50")]
    V1,
    /// On the 3x3 convolution: torchvision (`resnet50-v1.5`).
    #[serde(rename = "resnet50-v1.5")]
    V1_5,
}

/// How a grey level 0..255 becomes the network's three input channels; travels with the weights.
/// `channel[c] = (grey * scale - mean[c]) / std[c]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Normalisation {
    /// 1 for Keras (0..255 inputs), 1/255 for torchvision and random weights.
    pub scale: f32,
    /// By network channel (Keras: BGR order).
    pub mean: [f32; 3],
    /// By network channel.
    pub std: [f32; 3],
}

/// Largest side of a network's input, in pixels. A model file that asks for more would take all memory with its first image.
pub const MAX_IMAGE_SIZE: u32 = 1024;

/// Everything a model needs beside its tensors. Travels in the safetensors metadata under `thorax`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ModelSpec {
    /// The network.
    pub architecture: Architecture,
    /// For ResNet-50; ignored by the others.
    pub block_variant: BlockVariant,
    /// Outputs in order.
    pub classes: ClassList,
    /// Input side in pixels, at most [`MAX_IMAGE_SIZE`].
    pub image_size: u32,
    /// Input normalisation.
    pub normalisation: Normalisation,
    /// Dropout of the head.
    pub dropout: f64,
}

/// A device as `/v1/admin/devices` reports it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeviceInfo {
    /// `cpu` or `vulkan:N`.
    pub name: String,
    /// `flex` or `vulkan`.
    pub backend: String,
    /// The processor's or adapter's own name.
    pub description: String,
    /// The GPU's driver with its version, as it names itself; null for a processor and where the system does not tell.
    pub driver: Option<String>,
    /// Whether this server trains and serves on it.
    pub in_use: bool,
}
