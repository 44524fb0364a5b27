//! VGG-16 (Simonyan & Zisserman 2015, arXiv:1409.1556, configuration D) without its classifier.
//!
//! The paper's classifier flattens maps of 7x7 by 512 into two layers of 4096: 119 million weights, eight times as many as all the
//! convolutions have, and two gigabytes with their gradients and Adam's moments; and it takes images of one size alone. Stages differ in
//! their image size and each starts from the one before. So the maps are averaged, as a ResNet's are, and the same head follows.

use burn::{
    module::Module,
    nn::conv::Conv2d,
    tensor::{Device, Tensor},
};

use super::{
    Input,
    chain::{self, Chain},
};

/// Features that the body gives per image.
pub(crate) const FEATURES: usize = 512;

/// Each halves the image.
pub(crate) const POOLINGS: usize = 5;

/// Convolutions and channels of the groups before each.
const GROUPS: [(usize, usize); POOLINGS] = [(2, 64), (2, 128), (3, 256), (3, 512), (3, FEATURES)];

/// The body.
#[derive(Module, Debug)]
pub(crate) struct Vgg16 {
    /// In torchvision's row, where ReLUs and poolings have places too, so that the weights are called the same.
    features: Vec<Option<Conv2d>>,
}

impl Vgg16 {
    /// A body of zeros to load weights into.
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

    /// `[batch, 512]`; sides of 32 and more.
    pub(crate) fn forward(&self, input: &Input) -> Tensor<2> {
        self.chain().forward(input)
    }

    /// Its convolutions.
    pub(super) fn chain(&self) -> Chain<'_> {
        Chain::new(self.features.iter().flatten(), &GROUPS.map(|(convolutions, _)| convolutions), 1)
    }
}
