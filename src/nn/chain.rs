//! Convolution chains, as in VGG-16 and the simple CNN: groups of 3x3 convolutions with bias and ReLU, and a 2x2 max pooling after each group.

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

/// The convolutions of a body, in groups.
pub(super) struct Chain<'a> {
    /// The convolution that reads the image.
    pub(super) first: &'a Conv2d,
    /// The other convolutions, by group.
    pub(super) groups: Vec<Vec<&'a Conv2d>>,
    /// Side to which the last feature maps are average-pooled, so that the head is independent of the image size.
    pub(super) grid: usize,
}

impl<'a> Chain<'a> {
    /// A chain of `convs`; `groups` holds the number of convolutions of each group.
    ///
    /// # Panics
    /// If there are fewer convolutions than the groups need.
    pub(super) fn new(mut convs: impl Iterator<Item = &'a Conv2d>, groups: &[usize], grid: usize) -> Self {
        let first = convs.next().expect("a chain has a convolution");
        let group = |(index, &length): (usize, &usize)| {
            let group: Vec<_> = convs.by_ref().take(length - usize::from(index == 0)).collect();
            assert_eq!(
                group.len() + usize::from(index == 0),
                length,
                "there are as many convolutions as the groups need"
            );
            group
        };
        Self { first, groups: groups.iter().enumerate().map(group).collect(), grid }
    }

    /// Parameter groups, from the last group of convolutions to the first.
    pub(super) fn parameter_groups(&self) -> Vec<ParamGroup> {
        let first = std::iter::once(self.first);
        let groups = self.groups.iter().enumerate().map(|(index, group)| {
            let convs = first.clone().filter(|_| index == 0).chain(group.iter().copied());
            ParamGroup::ids_from_module(convs.cloned().collect::<Vec<_>>())
        });
        groups.rev().collect()
    }

    /// Features `[batch, channels * grid * grid]`.
    pub(super) fn forward(&self, input: &Input) -> Tensor<2> {
        if blocked::trains_on(&input.device()) { self.forward_blocked(input) } else { self.forward_plain(input) }
    }

    /// Forward pass with Burn's modules: on GPUs, and in inference if the network is not compiled.
    pub(super) fn forward_plain(&self, input: &Input) -> Tensor<2> {
        self.average(self.maps(input))
    }

    /// The last feature maps `[batch, channels, side, side]`. Each group halves the side.
    pub(super) fn maps(&self, input: &Input) -> Tensor<4> {
        let layer = |x: Tensor<4>, conv: &Conv2d| input.pause(relu(conv.forward(x)));
        // An odd last row or column is dropped, as in PyTorch: 229 pixels become 114.
        let half = || MaxPoolOptions::new([2, 2]).with_stride([2, 2]);
        let group = |x, group: &Vec<&Conv2d>| max_pool2d(group.iter().fold(x, |x, conv| layer(x, conv)), half());
        self.groups.iter().fold(layer(input.channels(), self.first), group)
    }

    /// Forward pass in training on the CPU, with the CPU kernels.
    fn forward_blocked(&self, input: &Input) -> Tensor<2> {
        let group = |x, group: &Vec<&Conv2d>| {
            blocked::max_pool::<2>(group.iter().fold(x, |x, conv| blocked::conv_relu(conv, x)))
        };
        let x = self.groups.iter().fold(blocked::stem_relu(self.first, input), group);
        self.average(blocked::to_nchw(x))
    }

    /// Features, pooled from the last feature maps.
    pub(super) fn average(&self, x: Tensor<4>) -> Tensor<2> {
        adaptive_avg_pool2d(x, [self.grid; 2]).flatten(1, 3)
    }
}

/// A 3x3 convolution of a chain, with all weights zero.
pub(super) fn conv(channels: [usize; 2], device: &Device) -> Conv2d {
    Conv2dConfig::new(channels, [3, 3])
        .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
        .with_initializer(Initializer::Zeros)
        .init(device)
}
