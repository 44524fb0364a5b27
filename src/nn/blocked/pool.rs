//! Maxima over windows, the mean at the end, and every second pixel for convolutions with a stride of 2.

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
    WIDTH,
    pool::{self, Origin},
    team, thin,
};

use super::{extents, into_primitive, record, storage, way_back};

/// Maximum over windows with a stride of 2: of 3x3, padded by one pixel, or of 2x2.
pub(in crate::nn) fn max_pool<const WINDOW: usize>(input: Tensor<5>) -> Tensor<5> {
    let input = into_primitive(input);
    let node = input.node();
    let input = input.into_primitive();
    let [_, images, side] = extents(&input);
    let (output, origins) = pool::max_pool::<WINDOW>(team(), storage::images(&storage::lanes(&input), extents(&input)));
    drop(input);
    let output = storage::blocked(output, images, pool::pooled(side, WINDOW));
    record(MaxPool::<WINDOW>, [node], MaxPooled { side, origins }, output)
}

/// Mean of each channel of each image, `[images, channels]`.
pub(in crate::nn) fn mean(input: Tensor<5>) -> Tensor<2> {
    let input = into_primitive(input);
    let node = input.node();
    let input = input.into_primitive();
    let [lanes, images, side] = extents(&input);
    let channels = lanes * WIDTH;
    let means = pool::mean(storage::images(&storage::lanes(&input), extents(&input)), channels);
    drop(input);
    let output = storage::plain(Bytes::from_elems(means), [images, channels]);
    record(Mean, [node], Averaged { images, channels, side }, output)
}

/// The pixels whose row and column are even: `[lanes, images, side, side, 16]` to `[lanes, images, side / 2, side / 2, 16]`, rounded up.
pub(in crate::nn) fn thin(input: Tensor<5>) -> Tensor<5> {
    let input = into_primitive(input);
    let node = input.node();
    let input = input.into_primitive();
    let [_, images, side] = extents(&input);
    let output = thin::thin(team(), storage::images(&storage::lanes(&input), extents(&input)));
    drop(input);
    record(Thin, [node], side, storage::blocked(output, images, thin::thinned(side)))
}

/// What the backward pass of the maximum needs.
#[derive(Clone, Debug)]
struct MaxPooled {
    /// The input's.
    side: usize,
    origins: Vec<Origin>,
}

#[derive(Debug)]
struct MaxPool<const WINDOW: usize>;

impl<const WINDOW: usize> Backward<Flex, 1> for MaxPool<WINDOW> {
    type State = MaxPooled;

    fn backward(self, ops: Ops<MaxPooled, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        way_back(ops, gradients, |MaxPooled { side, origins }, gradient| {
            let [_, images, _] = extents(gradient);
            let lanes = pool::max_pool_backward::<WINDOW>(team(), side, &storage::lanes(gradient), &origins);
            storage::blocked(lanes, images, side)
        });
    }
}

/// What the backward pass of the mean needs.
#[derive(Clone, Debug)]
struct Averaged {
    images: usize,
    channels: usize,
    side: usize,
}

#[derive(Debug)]
struct Mean;

impl Backward<Flex, 1> for Mean {
    type State = Averaged;

    fn backward(self, ops: Ops<Averaged, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        way_back(ops, gradients, |Averaged { images, channels, side }, gradient| {
            let lanes = pool::mean_backward(&storage::numbers(gradient), channels, side);
            storage::blocked(lanes, images, side)
        });
    }
}

/// Its state is the input's side.
#[derive(Debug)]
struct Thin;

impl Backward<Flex, 1> for Thin {
    type State = usize;

    fn backward(self, ops: Ops<usize, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        way_back(ops, gradients, |side, gradient| {
            let [_, images, _] = extents(gradient);
            storage::blocked(thin::thin_backward(team(), side, &storage::lanes(gradient)), images, side)
        });
    }
}
