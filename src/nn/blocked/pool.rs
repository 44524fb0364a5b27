//! Max pooling, global mean, and stride-2 subsampling.

use burn::{
    backend::{
        Flex,
        autodiff::{
            checkpoint::base::Checkpointer,
            grads::Gradients,
            ops::{Backward, Ops},
        },
    },
    tensor::{Bytes, Tensor},
};
use thorax_kernels::{
    BLOCK,
    pool::{self, ArgMax},
    subsample,
};

use super::{backward_unary, extents, into_primitive, record, storage};
use crate::nn::team;

/// Max pooling with stride 2: 3x3 with a padding of 1, or 2x2.
pub(in crate::nn) fn max_pool<const WINDOW: usize>(input: Tensor<5>) -> Tensor<5> {
    let input = into_primitive(input);
    let node = input.node();
    let input = input.into_primitive();
    let [_, images, side] = extents(&input);
    let (output, argmax) = pool::max_pool::<WINDOW>(team(), storage::images(&storage::blocks(&input), extents(&input)));
    drop(input);
    let output = storage::blocked(output, images, pool::pooled_side(side, WINDOW));
    record(MaxPoolBackward::<WINDOW>, [node], MaxPoolState { side, argmax }, output)
}

/// MeanBackward of each channel of each image, `[images, channels]`.
pub(in crate::nn) fn mean(input: Tensor<5>) -> Tensor<2> {
    let input = into_primitive(input);
    let node = input.node();
    let input = input.into_primitive();
    let [blocks, images, side] = extents(&input);
    let channels = blocks * BLOCK;
    let means = pool::mean(storage::images(&storage::blocks(&input), extents(&input)), channels);
    drop(input);
    let output = storage::plain(Bytes::from_elems(means), [images, channels]);
    record(MeanBackward, [node], MeanState { images, channels, side }, output)
}

/// Pixels whose row and column are even: `[blocks, images, side, side, 16]` to `[blocks, images, side / 2, side / 2,
/// 16]`, rounded up.
pub(in crate::nn) fn subsample2(input: Tensor<5>) -> Tensor<5> {
    let input = into_primitive(input);
    let node = input.node();
    let input = input.into_primitive();
    let [_, images, side] = extents(&input);
    let output = subsample::subsample2(team(), storage::images(&storage::blocks(&input), extents(&input)));
    drop(input);
    record(SubsampleBackward, [node], side, storage::blocked(output, images, subsample::subsampled_side(side)))
}

/// State for the backward pass of max pooling.
#[derive(Clone, Debug)]
struct MaxPoolState {
    /// Side of the input.
    side: usize,
    argmax: Vec<ArgMax>,
}

#[derive(Debug)]
struct MaxPoolBackward<const WINDOW: usize>;

impl<const WINDOW: usize> Backward<Flex, 1> for MaxPoolBackward<WINDOW> {
    type State = MaxPoolState;

    fn backward(self, ops: Ops<MaxPoolState, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        backward_unary(ops, gradients, |MaxPoolState { side, argmax }, gradient| {
            let [_, images, _] = extents(gradient);
            let blocks = pool::max_pool_backward::<WINDOW>(team(), side, &storage::blocks(gradient), &argmax);
            storage::blocked(blocks, images, side)
        });
    }
}

/// State for the backward pass of the mean.
#[derive(Clone, Debug)]
struct MeanState {
    images: usize,
    channels: usize,
    side: usize,
}

#[derive(Debug)]
struct MeanBackward;

impl Backward<Flex, 1> for MeanBackward {
    type State = MeanState;

    fn backward(self, ops: Ops<MeanState, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        backward_unary(ops, gradients, |MeanState { images, channels, side }, gradient| {
            let blocks = pool::mean_backward(&storage::numbers(gradient), channels, side);
            storage::blocked(blocks, images, side)
        });
    }
}

/// The state is the side of the input.
#[derive(Debug)]
struct SubsampleBackward;

impl Backward<Flex, 1> for SubsampleBackward {
    type State = usize;

    fn backward(self, ops: Ops<usize, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        backward_unary(ops, gradients, |side, gradient| {
            let [_, images, _] = extents(gradient);
            storage::blocked(subsample::subsample2_backward(team(), side, &storage::blocks(gradient)), images, side)
        });
    }
}
