//! Bodies: what turns an image into features.

use burn::{
    module::{Initializer, Module, ParamGroup},
    nn::{
        PaddingConfig2d,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{
        Device, Tensor,
        activation::relu,
        module::{adaptive_avg_pool2d, max_pool2d},
        ops::MaxPoolOptions,
    },
};

use super::resnet::{self, ResNet50};
use crate::domain::{Architecture, ModelSpec};

/// The simple network's feature map is averaged to this side, so that one dense layer serves every image size.
const SIMPLE_GRID: usize = 7;

/// Channels of the simple network's convolutions, input first.
const SIMPLE_CHANNELS: [usize; 4] = [3, 32, 32, 64];

/// A body of either architecture.
#[derive(Module, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one value a process holds; boxing would put an indirection before every layer"
)]
pub(crate) enum Body {
    /// The main model's.
    ResNet50(ResNet50),
    /// The yardstick's.
    SimpleCnn(SimpleCnn),
}

impl Body {
    /// A body of zeros to load weights into; `epsilon` is the batch norms'.
    pub(crate) fn new(spec: &ModelSpec, epsilon: f64, device: &Device) -> Self {
        match spec.architecture {
            Architecture::ResNet50 => Self::ResNet50(ResNet50::new(spec.block_variant, epsilon, device)),
            Architecture::SimpleCnn => Self::SimpleCnn(SimpleCnn::new(device)),
        }
    }

    /// `[batch, 3, side, side]` to `[batch, features]`.
    pub(crate) fn forward(&self, input: Tensor<4>) -> Tensor<2> {
        match self {
            Self::ResNet50(body) => body.forward(input),
            Self::SimpleCnn(body) => body.forward(input),
        }
    }
}

impl Body {
    /// Its parameters from the layers next to the head down to the first, for rates by depth.
    pub(crate) fn groups(&self) -> Vec<ParamGroup> {
        match self {
            Self::ResNet50(body) => body.groups(),
            Self::SimpleCnn(body) => body.conv.iter().rev().cloned().map(ParamGroup::ids_from_module).collect(),
        }
    }
}

/// Features per image.
pub(crate) fn features(architecture: Architecture) -> usize {
    match architecture {
        Architecture::ResNet50 => resnet::FEATURES,
        Architecture::SimpleCnn => SIMPLE_CHANNELS[3] * SIMPLE_GRID * SIMPLE_GRID,
    }
}

/// Three convolutions of 3x3, each with ReLU and max-pooling of 2.
#[derive(Module, Debug)]
pub(crate) struct SimpleCnn {
    conv: Vec<Conv2d>,
}

impl SimpleCnn {
    fn new(device: &Device) -> Self {
        let layer = |channels: &[usize]| {
            Conv2dConfig::new([channels[0], channels[1]], [3, 3])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .with_initializer(Initializer::Zeros)
                .init(device)
        };
        Self { conv: SIMPLE_CHANNELS.windows(2).map(layer).collect() }
    }

    fn forward(&self, input: Tensor<4>) -> Tensor<2> {
        let half = || MaxPoolOptions::new([2, 2]).with_stride([2, 2]);
        let x = self.conv.iter().fold(input, |x, conv| max_pool2d(relu(conv.forward(x)), half()));
        adaptive_avg_pool2d(x, [SIMPLE_GRID, SIMPLE_GRID]).flatten(1, 3) // [batch, 64 * 7 * 7]
    }
}
