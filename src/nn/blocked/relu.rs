//! Convolutions with bias and ReLU: what stands where no batch normalisation follows.

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
use thorax_kernels::{relu, team, train};

use super::{
    Cpu,
    conv::{Convolved, First, first, shape},
    extents, into_primitive, record, storage,
};
use crate::nn::Input;

/// A convolution and its ReLU, `[lanes, images, side, side, 16]` to the same.
///
/// # Panics
/// If the convolution has no bias.
pub(in crate::nn) fn conv_relu(conv: &Conv2d, input: Tensor<5>) -> Tensor<5> {
    let shape = shape(conv);
    let (input, weights, bias) = (into_primitive(input), into_primitive(conv.weight.val()), bias(conv));
    let nodes = [input.node(), weights.node(), bias.node()];
    let (input, weights, bias) = (input.into_primitive(), weights.into_primitive(), bias.into_primitive());
    let [_, images, side] = extents(&input);
    let output = train::forward(
        team(),
        shape,
        storage::images(&storage::lanes(&input), extents(&input)),
        &storage::numbers(&weights),
        Some(&storage::numbers(&bias)),
        true,
    );
    let output = storage::blocked(output, images, shape.side(side));
    let convolved = Convolved { shape, input, weights, beside: false };
    record(ConvRelu, nodes, Activated { convolved, output: output.clone() }, output)
}

/// The first convolution and its ReLU: to `[lanes, images, side, side, 16]`. The images get no gradient.
///
/// # Panics
/// If the convolution has no bias.
pub(in crate::nn) fn stem_relu(conv: &Conv2d, input: &Input) -> Tensor<5> {
    let First { shape, images, side, planes: input, weights } = first(conv, input);
    let bias = bias(conv);
    let nodes = [weights.node(), bias.node()];
    let (weights, bias) = (weights.into_primitive(), bias.into_primitive());
    let output = train::stem_forward(
        team(),
        shape,
        &storage::numbers(&input),
        (images, side),
        &storage::numbers(&weights),
        Some(&storage::numbers(&bias)),
        true,
    );
    let output = storage::blocked(output, images, shape.side(side));
    let convolved = Convolved { shape, input, weights, beside: false };
    record(StemRelu, nodes, Activated { convolved, output: output.clone() }, output)
}

fn bias(conv: &Conv2d) -> FloatTensor<Cpu> {
    into_primitive(conv.bias.as_ref().expect("a convolution with a bias").val())
}

/// What the backward pass needs: what the convolution's does, and what the ReLU gave.
#[derive(Clone, Debug)]
struct Activated {
    convolved: Convolved,
    output: FlexTensor,
}

impl Activated {
    /// From the gradient of the output that of the convolution before its ReLU, in place, and that of the bias.
    fn through_relu(&self, gradient: FlexTensor) -> (FlexTensor, FlexTensor) {
        let outputs = self.convolved.shape.outputs;
        let mut gradient = storage::owned(gradient);
        let bias = relu::backward(team(), &storage::lanes(&self.output), storage::lanes_mut(&mut gradient), outputs);
        (gradient, storage::plain(Bytes::from_elems(bias), [outputs]))
    }
}

#[derive(Debug)]
struct ConvRelu;

impl Backward<Flex, 3> for ConvRelu {
    type State = Activated;

    fn backward(self, ops: Ops<Activated, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let [input_node, weight_node, bias_node] = ops.parents;
        let (gradient, bias) = ops.state.through_relu(gradients.consume::<Flex>(&ops.node));
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
struct StemRelu;

impl Backward<Flex, 2> for StemRelu {
    type State = Activated;

    fn backward(self, ops: Ops<Activated, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let [weight_node, bias_node] = ops.parents;
        let (gradient, bias) = ops.state.through_relu(gradients.consume::<Flex>(&ops.node));
        if let Some(node) = bias_node {
            gradients.register::<Flex>(node.id, bias);
        }
        if let Some(node) = weight_node {
            gradients.register::<Flex>(node.id, ops.state.convolved.stem_weight_gradient(&gradient));
        }
    }
}
