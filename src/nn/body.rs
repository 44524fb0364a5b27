//! Bodies: what turns an image into features.

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

/// The simple network's feature map is averaged to this side, so that one dense layer serves every image size.
const SIMPLE_GRID: usize = 7;

/// Channels of the simple network's convolutions, input first.
const SIMPLE_CHANNELS: [usize; 4] = [3, 32, 32, 64];

/// A body of any architecture.
#[derive(Module, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one value a process holds; boxing would put an indirection before every layer"
)]
pub(crate) enum Body {
    /// The main model's.
    ResNet50(ResNet50),
    /// What is compared with it.
    Vgg16(Vgg16),
    /// The yardstick's.
    SimpleCnn(SimpleCnn),
}

impl Body {
    /// A body of zeros to load weights into; `epsilon` is the batch norms'.
    pub(crate) fn new(spec: &ModelSpec, epsilon: f64, device: &Device) -> Self {
        match spec.architecture {
            Architecture::ResNet50 => Self::ResNet50(ResNet50::new(spec.block_variant, epsilon, device)),
            Architecture::Vgg16 => Self::Vgg16(Vgg16::new(device)),
            Architecture::SimpleCnn => Self::SimpleCnn(SimpleCnn::new(device)),
        }
    }

    /// Features, `[batch, features]`.
    pub(crate) fn forward(&self, input: &Input) -> Tensor<2> {
        match self {
            Self::ResNet50(body) => body.forward(input),
            Self::Vgg16(body) => body.forward(input),
            Self::SimpleCnn(body) => body.forward(input),
        }
    }

    /// What the features are averages of, in inference: `[batch, channels, side, side]`.
    pub(super) fn maps(&self, input: &Input) -> Tensor<4> {
        match self {
            Self::ResNet50(body) => body.maps(input),
            Self::Vgg16(body) => body.chain().maps(input),
            Self::SimpleCnn(body) => body.chain().maps(input),
        }
    }

    /// [`Body::maps`] to features.
    pub(super) fn average(&self, maps: Tensor<4>) -> Tensor<2> {
        match self {
            Self::ResNet50(_) => resnet::pooled(maps),
            Self::Vgg16(body) => body.chain().average(maps),
            Self::SimpleCnn(body) => body.chain().average(maps),
        }
    }
}

impl Body {
    /// Its parameters from the layers next to the head down to the first, for rates by depth.
    pub(crate) fn groups(&self) -> Vec<ParamGroup> {
        match self {
            Self::ResNet50(body) => body.groups(),
            Self::Vgg16(body) => body.chain().depths(),
            Self::SimpleCnn(body) => body.chain().depths(),
        }
    }
}

/// Features per image.
pub(crate) fn features(architecture: Architecture) -> usize {
    match architecture {
        Architecture::ResNet50 => resnet::FEATURES,
        Architecture::Vgg16 => vgg::FEATURES,
        Architecture::SimpleCnn => SIMPLE_CHANNELS[3] * SIMPLE_GRID * SIMPLE_GRID,
    }
}

/// The smallest image of which a pixel is left after all poolings.
pub(crate) fn smallest_side(architecture: Architecture) -> u32 {
    match architecture {
        Architecture::ResNet50 => 1,
        Architecture::Vgg16 => 1 << vgg::POOLINGS,
        Architecture::SimpleCnn => 1 << (SIMPLE_CHANNELS.len() - 1),
    }
}

/// Three convolutions of 3x3, each with ReLU and max-pooling of 2.
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

    /// Its convolutions.
    pub(super) fn chain(&self) -> Chain<'_> {
        Chain::new(self.conv.iter(), &[1, 1, 1], SIMPLE_GRID)
    }
}
