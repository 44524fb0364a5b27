//! Bodies: the convolutional parts of the networks, which compute features of images.

use burn::{
    module::{Module, ParamGroup},
    nn::conv::Conv2d,
    tensor::{Device, Tensor},
};

use super::{
    Input,
    chain::{self, Chain},
    resnet::{self, ResNet50},
    vgg::{self, Vgg16},
};
use crate::domain::{Architecture, ModelSpec};

/// Side to which the last feature maps of the simple CNN are average-pooled, so that its head is independent of the image size.
const SIMPLE_GRID: usize = 7;

/// Channels of the simple CNN: of the input, then of each convolution.
const SIMPLE_CHANNELS: [usize; 4] = [3, 32, 32, 64];

/// The body of a network.
#[derive(Module, Debug)]
#[expect(clippy::large_enum_variant, reason = "few values exist; boxing would add an indirection to every layer")]
pub(crate) enum Body {
    /// The main architecture.
    ResNet50(ResNet50),
    /// For comparison.
    Vgg16(Vgg16),
    /// The small baseline network.
    SimpleCnn(SimpleCnn),
}

impl Body {
    /// A body with all weights zero, to load weights into. `epsilon` is that of batch normalisation.
    pub(crate) fn new(spec: &ModelSpec, epsilon: f64, device: &Device) -> Self {
        match spec.architecture {
            Architecture::ResNet50 => Self::ResNet50(ResNet50::new(spec.block_variant, epsilon, device)),
            Architecture::Vgg16 => Self::Vgg16(Vgg16::new(device)),
            Architecture::SimpleCnn => Self::SimpleCnn(SimpleCnn::new(device)),
        }
    }

    /// Features `[batch, features]`.
    pub(crate) fn forward(&self, input: &Input) -> Tensor<2> {
        match self {
            Self::ResNet50(body) => body.forward(input),
            Self::Vgg16(body) => body.forward(input),
            Self::SimpleCnn(body) => body.forward(input),
        }
    }

    /// The last feature maps `[batch, channels, side, side]`, in inference mode.
    pub(super) fn maps(&self, input: &Input) -> Tensor<4> {
        match self {
            Self::ResNet50(body) => body.maps(input),
            Self::Vgg16(body) => body.chain().maps(input),
            Self::SimpleCnn(body) => body.chain().maps(input),
        }
    }

    /// Features `[batch, features]`, pooled from the feature maps of [`Body::maps`].
    pub(super) fn average(&self, maps: Tensor<4>) -> Tensor<2> {
        match self {
            Self::ResNet50(_) => resnet::global_average_pool(maps),
            Self::Vgg16(body) => body.chain().average(maps),
            Self::SimpleCnn(body) => body.chain().average(maps),
        }
    }
}

impl Body {
    /// Parameter groups from the layers next to the head to the first layer, for layer-wise learning rates.
    pub(crate) fn parameter_groups(&self) -> Vec<ParamGroup> {
        match self {
            Self::ResNet50(body) => body.parameter_groups(),
            Self::Vgg16(body) => body.chain().parameter_groups(),
            Self::SimpleCnn(body) => body.chain().parameter_groups(),
        }
    }
}

/// Number of features per image.
pub(crate) fn features(architecture: Architecture) -> usize {
    match architecture {
        Architecture::ResNet50 => resnet::FEATURES,
        Architecture::Vgg16 => vgg::FEATURES,
        Architecture::SimpleCnn => SIMPLE_CHANNELS[3] * SIMPLE_GRID * SIMPLE_GRID,
    }
}

/// Smallest image side for which at least one pixel remains after all poolings.
pub(crate) fn smallest_side(architecture: Architecture) -> u32 {
    match architecture {
        Architecture::ResNet50 => 1,
        Architecture::Vgg16 => 1 << vgg::POOLINGS,
        Architecture::SimpleCnn => 1 << (SIMPLE_CHANNELS.len() - 1),
    }
}

/// Three 3x3 convolutions, each followed by ReLU and 2x2 max pooling.
#[derive(Module, Debug)]
pub(crate) struct SimpleCnn {
    conv: Vec<Conv2d>,
}

impl SimpleCnn {
    fn new(device: &Device) -> Self {
        let layer = |channels: &[usize]| chain::conv([channels[0], channels[1]], device);
        Self { conv: SIMPLE_CHANNELS.windows(2).map(layer).collect() }
    }

    fn forward(&self, input: &Input) -> Tensor<2> {
        self.chain().forward(input) // [batch, 64 * 7 * 7]
    }

    /// The convolutions as a chain.
    pub(super) fn chain(&self) -> Chain<'_> {
        Chain::new(self.conv.iter(), &[1, 1, 1], SIMPLE_GRID)
    }
}
