//! Layers in training on the CPU, through the kernels.
//!
//! Activations are ordinary tensors `[lanes, images, side, side, 16]`, the channels in lanes of sixteen: no layer changes the layout, and
//! Burn's autodiff keeps the graph. Parameters and running statistics stay in Burn's modules, which the same functions of those modules
//! would use on another device; each function here is the twin of one of them in training mode.

mod conv;
mod norm;
mod pool;
mod relu;
mod storage;
#[cfg(test)]
mod tests;

use burn::{
    backend::{
        Autodiff, Flex,
        autodiff::{
            checkpoint::strategy::NoCheckpointing,
            grads::Gradients,
            ops::{Backward, NodeGuard, Ops, OpsKind},
        },
        flex::FlexTensor,
        tensor::FloatTensor,
    },
    tensor::{Device, Tensor},
};

pub(super) use conv::{conv, conv_beside, conv_of_thinned, stem};
pub(super) use norm::{norm, norm_add};
pub(super) use pool::{max_pool, mean, thin};
pub(super) use relu::{conv_relu, stem_relu};

/// The backend that this is for.
type Cpu = Autodiff<Flex>;

/// Whether what comes in on this device trains, and on the CPU.
pub(super) fn trains_on(device: &Device) -> bool {
    device.is_autodiff() && *device == Device::flex()
}

/// The tensor as autodiff has it.
///
/// # Panics
/// If it is not on a device of which [`trains_on`] is true.
fn into_primitive<const D: usize>(tensor: Tensor<D>) -> FloatTensor<Cpu> {
    tensor.try_into_primitive::<Cpu>().expect("a tensor on the CPU with autodiff and without checkpoints")
}

fn from_primitive<const D: usize>(primitive: FloatTensor<Cpu>) -> Tensor<D> {
    Tensor::from_primitive::<Cpu>(primitive)
}

/// Puts an operation's output into the graph: `step` with `state` is its way back to the `nodes` that it came from.
fn record<S: Backward<Flex, N>, const N: usize, const D: usize>(
    step: S,
    nodes: [NodeGuard; N],
    state: S::State,
    output: FlexTensor,
) -> Tensor<D> {
    from_primitive(match step.prepare::<NoCheckpointing>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(preparation) => preparation.finish(state, output),
        OpsKind::UnTracked(preparation) => preparation.finish(output),
    })
}

/// The way back of an operation of one tensor: `back` makes that one's gradient of the state and of the output's.
fn way_back<S>(ops: Ops<S, 1>, gradients: &mut Gradients, back: impl FnOnce(S, &FlexTensor) -> FlexTensor) {
    let gradient = gradients.consume::<Flex>(&ops.node);
    if let [Some(node)] = ops.parents {
        gradients.register::<Flex>(node.id, back(ops.state, &gradient));
    }
}

/// A blocked tensor as others are, `[images, channels, side, side]`.
pub(super) fn unblocked(blocked: Tensor<5>) -> Tensor<4> {
    let [lanes, images, side, _, width] = blocked.dims();
    blocked.permute([1, 0, 4, 2, 3]).reshape([images, lanes * width, side, side])
}

/// The extents of a blocked tensor that matter: lanes, images and side.
fn extents(tensor: &FlexTensor) -> [usize; 3] {
    let [lanes, images, side, _, _] = tensor.layout().shape().dims();
    [lanes, images, side]
}
