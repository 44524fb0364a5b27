//! Model metadata and compute devices.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Architecture, ClassList};

/// Variant of ResNet's bottleneck block: the convolution that has the stride of 2. Determined by the initial weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum BlockVariant {
    /// Stride on the first 1x1 convolution, as in the original Caffe network and Keras (`resnet50`).
    #[serde(rename = "resnet50")]
    V1,
    /// Stride on the 3x3 convolution, as in torchvision (`resnet50-v1.5`).
    #[serde(rename = "resnet50-v1.5")]
    V1_5,
}

/// Input normalisation, which maps a grey level 0..255 to the three input channels: `channel[c] = (grey * scale - mean[c]) / std[c]`.
/// Stored with the weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Normalisation {
    /// Scale: 1 for Keras weights (inputs 0..255), 1/255 for torchvision and random weights.
    pub scale: f32,
    /// Mean of each network channel (BGR order for Keras weights).
    pub mean: [f32; 3],
    /// Standard deviation of each network channel.
    pub std: [f32; 3],
}

/// Maximum side of a network input, in pixels. It protects against model files whose input size would exhaust memory.
pub const MAX_IMAGE_SIZE: u32 = 1024;

/// Specification of a model: everything it needs besides its tensors. Stored in the safetensors metadata under `thorax`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ModelSpec {
    /// Network architecture.
    pub architecture: Architecture,
    /// Bottleneck variant of ResNet-50; ignored by other architectures.
    pub block_variant: BlockVariant,
    /// Classes in the order of the network outputs.
    pub classes: ClassList,
    /// Side of the square input in pixels, at most [`MAX_IMAGE_SIZE`].
    pub image_size: u32,
    /// Input normalisation.
    pub normalisation: Normalisation,
    /// Dropout probability of the classification head during training.
    pub dropout: f64,
}

/// Compute device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeviceInfo {
    /// Device name: `cpu` or `vulkan:N`.
    pub name: String,
    /// Compute backend: `flex` (CPU) or `vulkan`.
    pub backend: String,
    /// Name of the processor or graphics adapter.
    pub description: String,
    /// Name and version of the GPU driver; null for a CPU and if unknown.
    pub driver: Option<String>,
    /// Memory in bytes that a training run can use: on the CPU the main memory or the limit of the control group; null where it is unknown.
    #[serde(default)]
    pub memory_bytes: Option<u64>,
    /// True if this server trains and serves on the device.
    pub in_use: bool,
}
