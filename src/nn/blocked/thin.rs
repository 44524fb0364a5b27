//! Every second pixel, for convolutions with a stride of 2.

use burn::{
    backend::{
        Flex,
        autodiff::{
            checkpoint::base::Checkpointer,
            grads::Gradients,
            ops::{Backward, Ops},
        },
    },
    tensor::Tensor,
};

use super::{extents, into_primitive, record, storage};
use crate::kernel::{team, thin};

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

/// Its state is the input's side.
#[derive(Debug)]
struct Thin;

impl Backward<Flex, 1> for Thin {
    type State = usize;

    fn backward(self, ops: Ops<usize, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<Flex>(&ops.node);
        if let [Some(node)] = ops.parents {
            let [_, images, _] = extents(&gradient);
            let lanes = thin::thin_backward(team(), ops.state, &storage::lanes(&gradient));
            gradients.register::<Flex>(node.id, storage::blocked(lanes, images, ops.state));
        }
    }
}
