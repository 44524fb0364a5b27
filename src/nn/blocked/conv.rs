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
use thorax_kernels::{ConvShape, conv as kernels};

use super::{Cpu, backward_unary, extents, into_primitive, record, storage};
use crate::nn::{Input, team};

/// Convolution, `[blocks, images, side, side, 16]` to `[blocks, images, side / stride, side / stride, 16]`.
///
/// The bias gets no gradient: in training a batch normalisation follows, which subtracts the mean and with it the
/// bias, so the gradient is zero.
pub(in crate::nn) fn conv(conv: &Conv2d, input: Tensor<5>) -> Tensor<5> {
    convolve(shape(conv), conv, input, false)
}

/// [`conv`] for a 1x1 convolution with stride 2 whose input was already [subsampled](super::subsample2).
pub(in crate::nn) fn conv_subsampled(conv: &Conv2d, input: Tensor<5>) -> Tensor<5> {
    convolve(ConvShape { stride: 1, ..shape(conv) }, conv, input, false)
}

/// [`conv`] for the first convolution of a residual block, whose input also feeds the shortcut.
///
/// The backward pass goes by depth, so it reaches the addition at the end of the block before this convolution. The
/// gradient of the shortcut is therefore already known and is added where this convolution writes its own. Burn's
/// addition would be one more pass over both.
pub(in crate::nn) fn conv_with_shortcut(conv: &Conv2d, input: Tensor<5>) -> Tensor<5> {
    convolve(shape(conv), conv, input, true)
}

fn convolve(shape: ConvShape, conv: &Conv2d, input: Tensor<5>, with_shortcut: bool) -> Tensor<5> {
    let (input, weights, bias) = (into_primitive(input), into_primitive(conv.weight.val()), bias(conv));
    let nodes = [input.node(), weights.node()];
    let (input, weights) = (input.into_primitive(), weights.into_primitive());
    let [_, images, side] = extents(&input);
    let output = kernels::forward(
        team(),
        shape,
        storage::images(&storage::blocks(&input), extents(&input)),
        &storage::numbers(&weights),
        bias.as_ref().map(storage::numbers).as_deref(),
        false,
    );
    let output = storage::blocked(output, images, shape.side(side));
    record(ConvBackward, nodes, ConvState { shape, input, weights, with_shortcut }, output)
}

/// The first convolution, to `[blocks, images, side / stride, side / stride, 16]`. Neither the images nor the bias
/// get a gradient; see [`conv`].
pub(in crate::nn) fn stem(conv: &Conv2d, input: &Input) -> Tensor<5> {
    let StemOperands { shape, images, side, planes: input, weights } = stem_operands(conv, input);
    let bias = bias(conv);
    let node = weights.node();
    let weights = weights.into_primitive();
    let output = kernels::stem_forward(
        team(),
        shape,
        &storage::numbers(&input),
        (images, side),
        &storage::numbers(&weights),
        bias.as_ref().map(storage::numbers).as_deref(),
        false,
    );
    let output = storage::blocked(output, images, shape.side(side));
    record(StemBackward, [node], ConvState { shape, input, weights, with_shortcut: false }, output)
}

/// Operands of a network's first convolution.
pub(super) struct StemOperands {
    pub(super) shape: ConvShape,
    pub(super) images: usize,
    pub(super) side: usize,
    /// `[images, 2, side, side]`
    pub(super) planes: FlexTensor,
    /// `[outputs, 2, kernel, kernel]`
    pub(super) weights: FloatTensor<Cpu>,
}

/// Folds the three input channels into two planes: fewer operands, and the channels are affine maps of one grey
/// level.
pub(super) fn stem_operands(conv: &Conv2d, input: &Input) -> StemOperands {
    let planes = input.planes();
    let [images, inputs, side, _] = planes.dims();
    let weights = into_primitive(input.folded(conv.weight.val()));
    let planes = into_primitive(planes).into_primitive();
    StemOperands { shape: ConvShape { inputs, ..shape(conv) }, images, side, planes, weights }
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

/// State for the backward pass of a convolution.
#[derive(Clone, Debug)]
pub(super) struct ConvState {
    pub(super) shape: ConvShape,
    pub(super) input: FlexTensor,
    pub(super) weights: FlexTensor,
    /// True if the gradient of the shortcut is already registered for the input.
    pub(super) with_shortcut: bool,
}

impl ConvState {
    /// Gradient of the weights from the gradient of the output.
    pub(super) fn weight_gradient(&self, output: &FlexTensor) -> FlexTensor {
        let (blocks, pixels) = (storage::blocks(output), storage::blocks(&self.input));
        let output = storage::images(&blocks, extents(output));
        let input = storage::images(&pixels, extents(&self.input));
        let sums = kernels::weight_gradient(team(), self.shape, input, output);
        storage::plain(sums, self.weight_shape())
    }

    /// Gradient of the weights of the first convolution.
    pub(super) fn stem_weight_gradient(&self, output: &FlexTensor) -> FlexTensor {
        let [_, _, side, _] = self.input.layout().shape().dims();
        let blocks = storage::blocks(output);
        let output = storage::images(&blocks, extents(output));
        let sums = kernels::stem_weight_gradient(team(), self.shape, &storage::numbers(&self.input), side, output);
        storage::plain(sums, self.weight_shape())
    }

    /// Gradient of the input from the gradient of the output, plus the gradient of the shortcut.
    pub(super) fn input_gradient(&self, output: &FlexTensor, shortcut: Option<&FlexTensor>) -> FlexTensor {
        let [_, images, side] = extents(&self.input);
        let (blocks, shortcut) = (storage::blocks(output), shortcut.map(storage::blocks));
        let output = storage::images(&blocks, extents(output));
        let weights = storage::numbers(&self.weights);
        let blocks = kernels::input_gradient(team(), self.shape, side, output, &weights, shortcut.as_deref());
        storage::blocked(blocks, images, side)
    }

    fn weight_shape(&self) -> [usize; 4] {
        let ConvShape { inputs, outputs, kernel, .. } = self.shape;
        [outputs, inputs, kernel, kernel]
    }
}

#[derive(Debug)]
struct ConvBackward;

impl Backward<Flex, 2> for ConvBackward {
    type State = ConvState;

    fn backward(self, ops: Ops<ConvState, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<Flex>(&ops.node);
        let [input_node, weight_node] = ops.parents;
        if let Some(node) = weight_node {
            gradients.register::<Flex>(node.id, ops.state.weight_gradient(&gradient));
        }
        if let Some(node) = input_node {
            let shortcut = ops.state.with_shortcut.then(|| gradients.consume::<Flex>(&node));
            gradients.register::<Flex>(node.id, ops.state.input_gradient(&gradient, shortcut.as_ref()));
        }
    }
}

#[derive(Debug)]
struct StemBackward;

impl Backward<Flex, 1> for StemBackward {
    type State = ConvState;

    fn backward(self, ops: Ops<ConvState, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        backward_unary(ops, gradients, |state, gradient| state.stem_weight_gradient(gradient));
    }
}
