//! Convolutions with bias and ReLU, for networks without batch normalisation.

use burn::{
    backend::{
        Flex,
        autodiff::{
            checkpoint::base::Checkpointer,
            grads::Gradients,
            ops::{Backward, Ops},
        },
        flex::FlexTensor,
        tensor::FloatTensor,
    },
    nn::conv::Conv2d,
    tensor::{Bytes, Tensor},
};
use thorax_kernels::{conv as kernels, relu};

use super::{
    Cpu,
    conv::{ConvState, StemOperands, shape, stem_operands},
    extents, into_primitive, record, storage,
};
use crate::nn::{Input, team};

/// Convolution and ReLU, `[blocks, images, side, side, 16]` to the same.
///
/// # Panics
/// If the convolution has no bias.
pub(in crate::nn) fn conv_relu(conv: &Conv2d, input: Tensor<5>) -> Tensor<5> {
    let shape = shape(conv);
    let (input, weights, bias) = (into_primitive(input), into_primitive(conv.weight.val()), bias(conv));
    let nodes = [input.node(), weights.node(), bias.node()];
    let (input, weights, bias) = (input.into_primitive(), weights.into_primitive(), bias.into_primitive());
    let [_, images, side] = extents(&input);
    let output = kernels::forward(
        team(),
        shape,
        storage::images(&storage::blocks(&input), extents(&input)),
        &storage::numbers(&weights),
        Some(&storage::numbers(&bias)),
        true,
    );
    let output = storage::blocked(output, images, shape.side(side));
    let convolved = ConvState { shape, input, weights, with_shortcut: false };
    record(ConvReluBackward, nodes, ReluState { convolved, output: output.clone() }, output)
}

/// The first convolution and ReLU, to `[blocks, images, side, side, 16]`. The images get no gradient.
///
/// # Panics
/// If the convolution has no bias.
pub(in crate::nn) fn stem_relu(conv: &Conv2d, input: &Input) -> Tensor<5> {
    let StemOperands { shape, images, side, planes: input, weights } = stem_operands(conv, input);
    let bias = bias(conv);
    let nodes = [weights.node(), bias.node()];
    let (weights, bias) = (weights.into_primitive(), bias.into_primitive());
    let output = kernels::stem_forward(
        team(),
        shape,
        &storage::numbers(&input),
        (images, side),
        &storage::numbers(&weights),
        Some(&storage::numbers(&bias)),
        true,
    );
    let output = storage::blocked(output, images, shape.side(side));
    let convolved = ConvState { shape, input, weights, with_shortcut: false };
    record(StemReluBackward, nodes, ReluState { convolved, output: output.clone() }, output)
}

fn bias(conv: &Conv2d) -> FloatTensor<Cpu> {
    into_primitive(conv.bias.as_ref().expect("a convolution with a bias").val())
}

/// State for the backward pass: that of the convolution, and the output of the ReLU.
#[derive(Clone, Debug)]
struct ReluState {
    convolved: ConvState,
    output: FlexTensor,
}

impl ReluState {
    /// Gradients of the convolution's output (in place) and of the bias, from the gradient of the ReLU's output.
    fn relu_backward(&self, gradient: FlexTensor) -> (FlexTensor, FlexTensor) {
        let outputs = self.convolved.shape.outputs;
        let mut gradient = storage::make_unique(gradient);
        let bias = relu::backward(team(), &storage::blocks(&self.output), storage::blocks_mut(&mut gradient), outputs);
        (gradient, storage::plain(Bytes::from_elems(bias), [outputs]))
    }
}

#[derive(Debug)]
struct ConvReluBackward;

impl Backward<Flex, 3> for ConvReluBackward {
    type State = ReluState;

    fn backward(self, ops: Ops<ReluState, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let [input_node, weight_node, bias_node] = ops.parents;
        let (gradient, bias) = ops.state.relu_backward(gradients.consume::<Flex>(&ops.node));
        if let Some(node) = bias_node {
            gradients.register::<Flex>(node.id, bias);
        }
        if let Some(node) = weight_node {
            gradients.register::<Flex>(node.id, ops.state.convolved.weight_gradient(&gradient));
        }
        if let Some(node) = input_node {
            gradients.register::<Flex>(node.id, ops.state.convolved.input_gradient(&gradient, None));
        }
    }
}

#[derive(Debug)]
struct StemReluBackward;

impl Backward<Flex, 2> for StemReluBackward {
    type State = ReluState;

    fn backward(self, ops: Ops<ReluState, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let [weight_node, bias_node] = ops.parents;
        let (gradient, bias) = ops.state.relu_backward(gradients.consume::<Flex>(&ops.node));
        if let Some(node) = bias_node {
            gradients.register::<Flex>(node.id, bias);
        }
        if let Some(node) = weight_node {
            gradients.register::<Flex>(node.id, ops.state.convolved.stem_weight_gradient(&gradient));
        }
    }
}
