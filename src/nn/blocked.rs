//! Layers in training on the CPU, through the kernels of `thorax_kernels`.
//!
//! Activations are ordinary tensors `[channel blocks, images, side, side, 16]` (NCHW16c): no layer changes the
//! layout, and Burn's autodiff records the graph. Parameters and running statistics stay in Burn's modules. Each
//! function here is the counterpart of a module's `forward` in training mode.

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

pub(super) use conv::{conv, conv_subsampled, conv_with_shortcut, stem};
pub(super) use norm::{norm, norm_add};
pub(super) use pool::{max_pool, mean, subsample2};
pub(super) use relu::{conv_relu, stem_relu};

/// The backend of these layers.
type Cpu = Autodiff<Flex>;

/// True if tensors on this device train on the CPU.
pub(super) fn trains_on(device: &Device) -> bool {
    device.is_autodiff() && *device == Device::flex()
}

/// The autodiff primitive of a tensor.
///
/// # Panics
/// If [`trains_on`] is false for its device.
fn into_primitive<const D: usize>(tensor: Tensor<D>) -> FloatTensor<Cpu> {
    tensor.try_into_primitive::<Cpu>().expect("a tensor on the CPU with autodiff and without checkpoints")
}

fn from_primitive<const D: usize>(primitive: FloatTensor<Cpu>) -> Tensor<D> {
    Tensor::from_primitive::<Cpu>(primitive)
}

/// Records an operation in the autodiff graph: `step` with `state` is its backward pass to the parent `nodes`.
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

/// Backward pass of an operation with one parent: `back` maps the state and the gradient of the output to the
/// gradient of the input.
fn backward_unary<S>(ops: Ops<S, 1>, gradients: &mut Gradients, back: impl FnOnce(S, &FlexTensor) -> FlexTensor) {
    let gradient = gradients.consume::<Flex>(&ops.node);
    if let [Some(node)] = ops.parents {
        gradients.register::<Flex>(node.id, back(ops.state, &gradient));
    }
}

/// Converts a blocked tensor to `[images, channels, side, side]`.
pub(super) fn to_nchw(blocked: Tensor<5>) -> Tensor<4> {
    let [blocks, images, side, _, width] = blocked.dims();
    blocked.permute([1, 0, 4, 2, 3]).reshape([images, blocks * width, side, side])
}

/// Channel blocks, images and side of a blocked tensor.
fn extents(tensor: &FlexTensor) -> [usize; 3] {
    let [blocks, images, side, _, _] = tensor.layout().shape().dims();
    [blocks, images, side]
}
