//! Maxima over windows and the mean at the end.

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

use super::{extents, into_primitive, record, storage};
use crate::kernel::{
    WIDTH,
    pool::{self, Origin},
    team,
};

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
        let gradient = gradients.consume::<Flex>(&ops.node);
        let MaxPooled { side, origins } = ops.state;
        if let [Some(node)] = ops.parents {
            let [_, images, _] = extents(&gradient);
            let lanes = pool::max_pool_backward::<WINDOW>(team(), side, &storage::lanes(&gradient), &origins);
            gradients.register::<Flex>(node.id, storage::blocked(lanes, images, side));
        }
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
        let gradient = gradients.consume::<Flex>(&ops.node);
        let Averaged { images, channels, side } = ops.state;
        if let [Some(node)] = ops.parents {
            let lanes = pool::mean_backward(&storage::numbers(&gradient), channels, side);
            gradients.register::<Flex>(node.id, storage::blocked(lanes, images, side));
        }
    }
}
