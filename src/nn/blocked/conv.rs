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
        tensor::FloatTensor,
    },
    nn::{PaddingConfig2d, conv::Conv2d},
    tensor::Tensor,
};
use thorax_kernels::{ConvShape, team, train};

use super::{Cpu, extents, into_primitive, record, storage, way_back};
use crate::nn::Input;

/// A convolution `[lanes, images, side, side, 16]` to `[lanes, images, side / stride, side / stride, 16]`.
///
/// The bias gets no gradient: in training a batch normalisation follows, which takes it out with the mean, so that its gradient is zero.
pub(in crate::nn) fn conv(conv: &Conv2d, input: Tensor<5>) -> Tensor<5> {
    convolve(shape(conv), conv, input, false)
}

/// As [`conv`], a 1x1 convolution with a stride of 2 of an input that was [thinned](super::thin) already.
pub(in crate::nn) fn conv_of_thinned(conv: &Conv2d, input: Tensor<5>) -> Tensor<5> {
    convolve(ConvShape { stride: 1, ..shape(conv) }, conv, input, false)
}

/// As [`conv`], the first of a block whose input also goes around the block as it is, into the addition at the block's end.
///
/// The backward pass comes to the addition before it comes here, since it goes by depth: so the gradient from there is there already,
/// and is added where this convolution's is written. Burn's own addition would be one more pass over both.
pub(in crate::nn) fn conv_beside(conv: &Conv2d, input: Tensor<5>) -> Tensor<5> {
    convolve(shape(conv), conv, input, true)
}

fn convolve(shape: ConvShape, conv: &Conv2d, input: Tensor<5>, beside: bool) -> Tensor<5> {
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
        false,
    );
    let output = storage::blocked(output, images, shape.side(side));
    record(Convolve, nodes, Convolved { shape, input, weights, beside }, output)
}

/// The first convolution: to `[lanes, images, side / stride, side / stride, 16]`. The images get no gradient, nor does the bias: see
/// [`conv`].
pub(in crate::nn) fn stem(conv: &Conv2d, input: &Input) -> Tensor<5> {
    let First { shape, images, side, planes: input, weights } = first(conv, input);
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
        false,
    );
    let output = storage::blocked(output, images, shape.side(side));
    record(Stem, [node], Convolved { shape, input, weights, beside: false }, output)
}

/// What a network's first convolution is made of.
pub(super) struct First {
    pub(super) shape: ConvShape,
    pub(super) images: usize,
    pub(super) side: usize,
    /// `[images, 2, side, side]`
    pub(super) planes: FlexTensor,
    /// `[outputs, 2, kernel, kernel]`
    pub(super) weights: FloatTensor<Cpu>,
}

/// Folded to two planes: less to gather and to multiply than the three channels, of which none says more than the others.
pub(super) fn first(conv: &Conv2d, input: &Input) -> First {
    let planes = input.planes();
    let [images, inputs, side, _] = planes.dims();
    let weights = into_primitive(input.folded(conv.weight.val()));
    let planes = into_primitive(planes).into_primitive();
    First { shape: ConvShape { inputs, ..shape(conv) }, images, side, planes, weights }
}

pub(super) fn shape(conv: &Conv2d) -> ConvShape {
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
pub(super) struct Convolved {
    pub(super) shape: ConvShape,
    pub(super) input: FlexTensor,
    pub(super) weights: FlexTensor,
    /// Whether the input's gradient from around the block is there already.
    pub(super) beside: bool,
}

impl Convolved {
    /// The gradient of the weights from that of the output.
    pub(super) fn weight_gradient(&self, output: &FlexTensor) -> FlexTensor {
        let (lanes, pixels) = (storage::lanes(output), storage::lanes(&self.input));
        let output = storage::images(&lanes, extents(output));
        let input = storage::images(&pixels, extents(&self.input));
        let sums = train::weight_gradient(team(), self.shape, input, output);
        storage::plain(sums, self.weight_shape())
    }

    /// The same of the first convolution.
    pub(super) fn stem_weight_gradient(&self, output: &FlexTensor) -> FlexTensor {
        let [_, _, side, _] = self.input.layout().shape().dims();
        let lanes = storage::lanes(output);
        let output = storage::images(&lanes, extents(output));
        let sums = train::stem_weight_gradient(team(), self.shape, &storage::numbers(&self.input), side, output);
        storage::plain(sums, self.weight_shape())
    }

    /// The gradient of the input from that of the output, and what came around with it.
    pub(super) fn input_gradient(&self, output: &FlexTensor, around: Option<&FlexTensor>) -> FlexTensor {
        let [_, images, side] = extents(&self.input);
        let (lanes, around) = (storage::lanes(output), around.map(storage::lanes));
        let output = storage::images(&lanes, extents(output));
        let weights = storage::numbers(&self.weights);
        let lanes = train::input_gradient(team(), self.shape, side, output, &weights, around.as_deref());
        storage::blocked(lanes, images, side)
    }

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
        if let Some(node) = weight_node {
            gradients.register::<Flex>(node.id, ops.state.weight_gradient(&gradient));
        }
        if let Some(node) = input_node {
            let around = ops.state.beside.then(|| gradients.consume::<Flex>(&node));
            gradients.register::<Flex>(node.id, ops.state.input_gradient(&gradient, around.as_ref()));
        }
    }
}

#[derive(Debug)]
struct Stem;

impl Backward<Flex, 1> for Stem {
    type State = Convolved;

    fn backward(self, ops: Ops<Convolved, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        way_back(ops, gradients, |state, gradient| state.stem_weight_gradient(gradient));
    }
}
