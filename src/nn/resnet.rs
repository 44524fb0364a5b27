//! ResNet-50 (He et al. 2015, arXiv:1512.03385) without its classifier, in the block variants v1 and v1.5.

use burn::{
    module::{Initializer, Module, ParamGroup},
    nn::{
        BatchNorm, BatchNormConfig, PaddingConfig2d,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{
        Device, Tensor,
        activation::relu,
        module::{adaptive_avg_pool2d, max_pool2d},
        ops::MaxPoolOptions,
    },
};

use super::{Input, blocked};
use crate::domain::BlockVariant;

/// Number of features per image.
pub(crate) const FEATURES: usize = 2048;

/// Number of blocks, bottleneck width and stride of each of the four stages.
pub(super) const STAGES: [(usize, usize, usize); 4] = [(3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2)];

/// Ratio of the output width of a block to its bottleneck width.
const EXPANSION: usize = 4;

/// Momentum of the running statistics: PyTorch's default. Keras' 0.01 would need hundreds of batches to reach the statistics of the data set,
/// while an epoch has about forty.
const MOMENTUM: f64 = 0.1;

/// The body of ResNet-50. Convolutions have biases, as Keras' weights do; with torchvision's weights they are zero.
#[derive(Module, Debug)]
pub(crate) struct ResNet50 {
    conv1: Conv2d,
    bn1: BatchNorm,
    layer1: Vec<Bottleneck>,
    layer2: Vec<Bottleneck>,
    layer3: Vec<Bottleneck>,
    layer4: Vec<Bottleneck>,
}

impl ResNet50 {
    /// A body with all weights zero, to load weights into. `epsilon` is that of batch normalisation.
    pub(crate) fn new(variant: BlockVariant, epsilon: f64, device: &Device) -> Self {
        let build = Builder { variant, epsilon, device };
        let mut channels = 64;
        let [layer1, layer2, layer3, layer4] = STAGES.map(|stage| build.stage(&mut channels, stage));
        Self { conv1: build.conv([3, 64], 7, 2), bn1: build.norm(64), layer1, layer2, layer3, layer4 }
    }

    /// Parameter groups: the stages from the last to the first, then the stem.
    pub(crate) fn parameter_groups(&self) -> Vec<ParamGroup> {
        let stages = [&self.layer4, &self.layer3, &self.layer2, &self.layer1];
        let stem = ParamGroup::ids_from_module(self.conv1.clone()).fuse(&ParamGroup::ids_from_module(self.bn1.clone()));
        stages.into_iter().cloned().map(ParamGroup::ids_from_module).chain([stem]).collect()
    }

    /// Features `[batch, 2048]`.
    pub(crate) fn forward(&self, input: &Input) -> Tensor<2> {
        if blocked::trains_on(&input.device()) { self.forward_blocked(input) } else { self.forward_plain(input) }
    }

    /// Forward pass with Burn's modules: on GPUs, and in inference.
    pub(super) fn forward_plain(&self, input: &Input) -> Tensor<2> {
        global_average_pool(self.maps(input))
    }

    /// The last feature maps `[batch, 2048, side / 32, side / 32]`, computed with Burn's modules.
    pub(super) fn maps(&self, input: &Input) -> Tensor<4> {
        let stem = relu(self.bn1.forward(self.conv1.forward(input.channels()))); // [batch, 64, side / 2, side / 2]
        let mut x = input.pause(max_pool2d(stem, stem_pool())); // [batch, 64, side / 4, side / 4]
        for block in [&self.layer1, &self.layer2, &self.layer3, &self.layer4].into_iter().flatten() {
            x = input.pause(block.forward(x));
        }
        x
    }

    /// Forward pass in training on the CPU, with the CPU kernels. Layout is NCHW16c.
    fn forward_blocked(&self, input: &Input) -> Tensor<2> {
        let stem = blocked::norm(&self.bn1, blocked::stem(&self.conv1, input), true); // [4, batch, side / 2, side / 2, 16]
        let mut x = blocked::max_pool::<3>(stem); // [4, batch, side / 4, side / 4, 16]
        for block in [&self.layer1, &self.layer2, &self.layer3, &self.layer4].into_iter().flatten() {
            x = block.forward_blocked(x);
        }
        blocked::mean(x) // [batch, 2048]
    }
}

/// Mean of each feature map: `[batch, 2048]`.
pub(super) fn global_average_pool(maps: Tensor<4>) -> Tensor<2> {
    adaptive_avg_pool2d(maps, [1, 1]).flatten(1, 3)
}

/// Max pooling of the stem. Keras pads with zeros, torchvision with minus infinity; after a ReLU the maximum is the same.
fn stem_pool() -> MaxPoolOptions<2> {
    MaxPoolOptions::new([3, 3]).with_stride([2, 2]).with_padding([1, 1])
}

/// Bottleneck block: 1x1, 3x3 and 1x1 convolutions with a shortcut around them.
#[derive(Module, Debug)]
struct Bottleneck {
    conv1: Conv2d,
    bn1: BatchNorm,
    conv2: Conv2d,
    bn2: BatchNorm,
    conv3: Conv2d,
    bn3: BatchNorm,
    downsample: Option<Downsample>,
}

impl Bottleneck {
    fn forward(&self, input: Tensor<4>) -> Tensor<4> {
        let shortcut = match &self.downsample {
            Some(downsample) => downsample.norm.forward(downsample.conv.forward(input.clone())),
            None => input.clone(),
        };
        let x = relu(self.bn1.forward(self.conv1.forward(input)));
        let x = relu(self.bn2.forward(self.conv2.forward(x)));
        relu(self.bn3.forward(self.conv3.forward(x)) + shortcut)
    }

    fn forward_blocked(&self, input: Tensor<5>) -> Tensor<5> {
        let (x, shortcut) = match &self.downsample {
            // In v1 both convolutions read every second pixel. In v1.5 the second convolution of the block has the stride.
            Some(Downsample { conv, norm }) if conv.stride == [2, 2] && self.conv1.stride == [2, 2] => {
                let input = blocked::subsample2(input);
                let shortcut = blocked::norm(norm, blocked::conv_subsampled(conv, input.clone()), false);
                (blocked::conv_subsampled(&self.conv1, input), shortcut)
            }
            Some(Downsample { conv, norm }) => {
                let shortcut = blocked::norm(norm, blocked::conv(conv, input.clone()), false);
                (blocked::conv(&self.conv1, input), shortcut)
            }
            None => (blocked::conv_with_shortcut(&self.conv1, input.clone()), input),
        };
        let x = blocked::norm(&self.bn1, x, true);
        let x = blocked::norm(&self.bn2, blocked::conv(&self.conv2, x), true);
        blocked::norm_add(&self.bn3, blocked::conv(&self.conv3, x), shortcut)
    }
}

/// Shortcut of the first block of a stage: adapts width and size of the input. Named `downsample.0` and `downsample.1` in torchvision.
#[derive(Module, Debug)]
pub(super) struct Downsample {
    conv: Conv2d,
    norm: BatchNorm,
}

struct Builder<'a> {
    variant: BlockVariant,
    epsilon: f64,
    device: &'a Device,
}

impl Builder<'_> {
    fn stage(&self, channels: &mut usize, (blocks, middle, stride): (usize, usize, usize)) -> Vec<Bottleneck> {
        let mut block = |stride| self.block(std::mem::replace(channels, middle * EXPANSION), middle, stride);
        (0..blocks).map(|index| block(if index == 0 { stride } else { 1 })).collect()
    }

    fn block(&self, input: usize, middle: usize, stride: usize) -> Bottleneck {
        let (first, second) = match self.variant {
            BlockVariant::V1 => (stride, 1),
            BlockVariant::V1_5 => (1, stride),
        };
        let output = middle * EXPANSION;
        let downsample = (input != output)
            .then(|| Downsample { conv: self.conv([input, output], 1, stride), norm: self.norm(output) });
        Bottleneck {
            conv1: self.conv([input, middle], 1, first),
            bn1: self.norm(middle),
            conv2: self.conv([middle, middle], 3, second),
            bn2: self.norm(middle),
            conv3: self.conv([middle, output], 1, 1),
            bn3: self.norm(output),
            downsample,
        }
    }

    /// A convolution padded by half the kernel on every side, independent of the stride (unlike `same` of TensorFlow).
    fn conv(&self, channels: [usize; 2], kernel: usize, stride: usize) -> Conv2d {
        let pad = kernel / 2;
        Conv2dConfig::new(channels, [kernel, kernel])
            .with_stride([stride, stride])
            .with_padding(PaddingConfig2d::Explicit(pad, pad, pad, pad))
            .with_initializer(Initializer::Zeros)
            .init(self.device)
    }

    fn norm(&self, channels: usize) -> BatchNorm {
        BatchNormConfig::new(channels).with_epsilon(self.epsilon).with_momentum(MOMENTUM).init(self.device)
    }
}
