//! Chains: groups of 3x3 convolutions, each with bias and ReLU, and max-pooling of 2 after each group. VGG-16 and the simple network.

use burn::{
    module::{Initializer, ParamGroup},
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

use super::{Input, blocked};

/// A network's convolutions, seen as a chain.
pub(super) struct Chain<'a> {
    /// The one that reads the image.
    pub(super) first: &'a Conv2d,
    /// Those after it, by group.
    pub(super) groups: Vec<Vec<&'a Conv2d>>,
    /// The last feature maps are averaged to this side, so that one head serves every image size.
    pub(super) grid: usize,
}

impl<'a> Chain<'a> {
    /// `groups` are their lengths, the first convolution counted.
    ///
    /// # Panics
    /// If there are fewer convolutions than that.
    pub(super) fn new(mut convs: impl Iterator<Item = &'a Conv2d>, groups: &[usize], grid: usize) -> Self {
        let first = convs.next().expect("a chain begins with a convolution");
        let group = |(index, &length): (usize, &usize)| {
            let group: Vec<_> = convs.by_ref().take(length - usize::from(index == 0)).collect();
            assert_eq!(group.len() + usize::from(index == 0), length, "as many convolutions as the groups have");
            group
        };
        Self { first, groups: groups.iter().enumerate().map(group).collect(), grid }
    }

    /// The parameters of its groups, from the last to the first.
    pub(super) fn depths(&self) -> Vec<ParamGroup> {
        let first = std::iter::once(self.first);
        let groups = self.groups.iter().enumerate().map(|(index, group)| {
            let convs = first.clone().filter(|_| index == 0).chain(group.iter().copied());
            ParamGroup::ids_from_module(convs.cloned().collect::<Vec<_>>())
        });
        groups.rev().collect()
    }

    /// `[batch, channels * grid * grid]`.
    pub(super) fn forward(&self, input: &Input) -> Tensor<2> {
        if blocked::trains_on(&input.device()) { self.forward_blocked(input) } else { self.forward_plain(input) }
    }

    /// Through Burn's modules: on a GPU, and in inference where nothing is compiled.
    pub(super) fn forward_plain(&self, input: &Input) -> Tensor<2> {
        self.average(self.maps(input))
    }

    /// What is averaged in the end: `[batch, channels, side, side]`, the side halved by each group.
    pub(super) fn maps(&self, input: &Input) -> Tensor<4> {
        let layer = |x: Tensor<4>, conv: &Conv2d| input.pause(relu(conv.forward(x)));
        // A last row or column that has no neighbour is left out, as PyTorch does: 229 pixels become 114.
        let half = || MaxPoolOptions::new([2, 2]).with_stride([2, 2]);
        let group = |x, group: &Vec<&Conv2d>| max_pool2d(group.iter().fold(x, |x, conv| layer(x, conv)), half());
        self.groups.iter().fold(layer(input.channels(), self.first), group)
    }

    /// The same in training on the CPU, through the kernels.
    fn forward_blocked(&self, input: &Input) -> Tensor<2> {
        let group = |x, group: &Vec<&Conv2d>| {
            blocked::max_pool::<2>(group.iter().fold(x, |x, conv| blocked::conv_relu(conv, x)))
        };
        let x = self.groups.iter().fold(blocked::stem_relu(self.first, input), group);
        self.average(blocked::to_nchw(x))
    }

    /// The last maps to features.
    pub(super) fn average(&self, x: Tensor<4>) -> Tensor<2> {
        adaptive_avg_pool2d(x, [self.grid; 2]).flatten(1, 3)
    }
}

/// A convolution of a chain, of zeros.
pub(super) fn conv(channels: [usize; 2], device: &Device) -> Conv2d {
    Conv2dConfig::new(channels, [3, 3])
        .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
        .with_initializer(Initializer::Zeros)
        .init(device)
}
