//! Convolutions.

use burn::{
    backend::{
        Flex,
        autodiff::{
            checkpoint::base::Checkpointer,
            grads::Gradients,
            ops::{Backward, Ops},
        },
        flex::FlexTensor,
    },
    nn::{PaddingConfig2d, conv::Conv2d},
    tensor::Tensor,
};

use super::{extents, into_primitive, record, storage};
use crate::kernel::{ConvShape, team, train};

/// A convolution `[lanes, images, side, side, 16]` to `[lanes, images, side / stride, side / stride, 16]`.
///
/// The bias gets no gradient: in training a batch normalisation follows, which takes it out with the mean, so that its gradient is zero.
pub(in crate::nn) fn conv(conv: &Conv2d, input: Tensor<5>) -> Tensor<5> {
    convolve(conv, input, false)
}

/// As [`conv`], the first of a block whose input also goes around the block as it is, into the addition at the block's end.
///
/// The backward pass comes to the addition before it comes here, since it goes by depth: so the gradient from there is there already,
/// and is added where this convolution's is written. Burn's own addition would be one more pass over both.
pub(in crate::nn) fn conv_beside(conv: &Conv2d, input: Tensor<5>) -> Tensor<5> {
    convolve(conv, input, true)
}

fn convolve(conv: &Conv2d, input: Tensor<5>, beside: bool) -> Tensor<5> {
    let shape = shape(conv);
    let (input, weights, bias) = (into_primitive(input), into_primitive(conv.weight.val()), bias(conv));
    let nodes = [input.node(), weights.node()];
    let (input, weights) = (input.into_primitive(), weights.into_primitive());
    let [_, images, side] = extents(&input);
    let output = train::forward(
        team(),
        shape,
        storage::images(&storage::lanes(&input), extents(&input)),
        &storage::numbers(&weights),
        bias.as_ref().map(storage::numbers).as_deref(),
    );
    let output = storage::blocked(output, images, shape.side(side));
    record(Convolve, nodes, Convolved { shape, input, weights, beside }, output)
}

/// The first convolution: images `[images, 3, side, side]` to `[lanes, images, side / stride, side / stride, 16]`. The images get no
/// gradient, nor does the bias: see [`conv`].
pub(in crate::nn) fn stem(conv: &Conv2d, input: Tensor<4>) -> Tensor<5> {
    let shape = shape(conv);
    let [images, _, side, _] = input.dims();
    let (input, weights) = (into_primitive(input).into_primitive(), into_primitive(conv.weight.val()));
    let bias = bias(conv);
    let node = weights.node();
    let weights = weights.into_primitive();
    let output = train::stem_forward(
        team(),
        shape,
        &storage::numbers(&input),
        (images, side),
        &storage::numbers(&weights),
        bias.as_ref().map(storage::numbers).as_deref(),
    );
    let output = storage::blocked(output, images, shape.side(side));
    record(Stem, [node], Convolved { shape, input, weights, beside: false }, output)
}

fn shape(conv: &Conv2d) -> ConvShape {
    let [outputs, inputs, kernel, _] = conv.weight.dims();
    let PaddingConfig2d::Explicit(padding, ..) = conv.padding else {
        unreachable!("the networks' convolutions say how far they are padded")
    };
    ConvShape { inputs, outputs, kernel, stride: conv.stride[0], padding }
}

fn bias(conv: &Conv2d) -> Option<FlexTensor> {
    conv.bias.as_ref().map(|bias| into_primitive(bias.val()).into_primitive())
}

/// What the backward pass of a convolution needs.
#[derive(Clone, Debug)]
struct Convolved {
    shape: ConvShape,
    input: FlexTensor,
    weights: FlexTensor,
    /// Whether the input's gradient from around the block is there already.
    beside: bool,
}

impl Convolved {
    fn weight_shape(&self) -> [usize; 4] {
        let ConvShape { inputs, outputs, kernel, .. } = self.shape;
        [outputs, inputs, kernel, kernel]
    }
}

#[derive(Debug)]
struct Convolve;

impl Backward<Flex, 2> for Convolve {
    type State = Convolved;

    fn backward(self, ops: Ops<Convolved, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<Flex>(&ops.node);
        let [input_node, weight_node] = ops.parents;
        let Convolved { shape, input, weights, beside } = &ops.state;
        let lanes = storage::lanes(&gradient);
        let output = storage::images(&lanes, extents(&gradient));
        if let Some(node) = weight_node {
            let pixels = storage::lanes(input);
            let sums = train::weight_gradient(team(), *shape, storage::images(&pixels, extents(input)), output);
            gradients.register::<Flex>(node.id, storage::plain(sums.into_bytes(), ops.state.weight_shape()));
        }
        if let Some(node) = input_node {
            let [_, images, side] = extents(input);
            let around = beside.then(|| gradients.consume::<Flex>(&node));
            let around = around.as_ref().map(storage::lanes);
            let weights = storage::numbers(weights);
            let lanes = train::input_gradient(team(), *shape, side, output, &weights, around.as_deref());
            gradients.register::<Flex>(node.id, storage::blocked(lanes, images, side));
        }
    }
}

#[derive(Debug)]
struct Stem;

impl Backward<Flex, 1> for Stem {
    type State = Convolved;

    fn backward(self, ops: Ops<Convolved, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<Flex>(&ops.node);
        let [weight_node] = ops.parents;
        let Convolved { shape, input, .. } = &ops.state;
        let [_, _, side, _] = input.layout().shape().dims();
        let lanes = storage::lanes(&gradient);
        let output = storage::images(&lanes, extents(&gradient));
        if let Some(node) = weight_node {
            let sums = train::stem_weight_gradient(team(), *shape, &storage::numbers(input), side, output);
            gradients.register::<Flex>(node.id, storage::plain(sums.into_bytes(), ops.state.weight_shape()));
        }
    }
}
