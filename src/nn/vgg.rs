//! VGG-16 (Simonyan & Zisserman 2015, arXiv:1409.1556, configuration D) without its classifier.
//!
//! The paper's classifier flattens 512 feature maps of 7x7 into two layers of width 4096. It has 119 million weights, eight times as many as
//! all convolutions, and needs two gigabytes with gradients and Adam's moments; and it supports a single image size, whereas the stages of a
//! plan differ in image size. The feature maps are therefore averaged, as in ResNet, and followed by the same head.

use burn::{
    module::Module,
    nn::conv::Conv2d,
    tensor::{Device, Tensor},
};

use super::{
    Input,
    chain::{self, Chain},
};

/// Number of features per image.
pub(crate) const FEATURES: usize = 512;

/// Number of max poolings; each halves the image side.
pub(crate) const POOLINGS: usize = 5;

/// Number of convolutions and channels of the group before each pooling.
const GROUPS: [(usize, usize); POOLINGS] = [(2, 64), (2, 128), (3, 256), (3, 512), (3, FEATURES)];

/// The body of VGG-16.
#[derive(Module, Debug)]
pub(crate) struct Vgg16 {
    /// The layers in the order of torchvision, where ReLUs and poolings (`None` here) are counted too, so that the weights have the same names.
    features: Vec<Option<Conv2d>>,
}

impl Vgg16 {
    /// A body with all weights zero, to load weights into.
    pub(crate) fn new(device: &Device) -> Self {
        let mut features = Vec::new();
        let mut inputs = 3;
        for (convolutions, outputs) in GROUPS {
            for _ in 0..convolutions {
                let conv = chain::conv([inputs, outputs], device);
                let relu = None;
                features.extend([Some(conv), relu]);
                inputs = outputs;
            }
            let pooling = None;
            features.push(pooling);
        }
        Self { features }
    }

    /// Features `[batch, 512]`. The image side must be at least 32.
    pub(crate) fn forward(&self, input: &Input) -> Tensor<2> {
        self.chain().forward(input)
    }

    /// The convolutions as a chain.
    pub(super) fn chain(&self) -> Chain<'_> {
        Chain::new(self.features.iter().flatten(), &GROUPS.map(|(convolutions, _)| convolutions), 1)
    }
}
