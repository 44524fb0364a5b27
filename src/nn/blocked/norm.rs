//! Batch normalisation fused with the following ReLU, or addition and ReLU.

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
    module::RunningState,
    nn::BatchNorm,
    tensor::{Bytes, Tensor},
};
use thorax_kernels::norm::{self, Parameters, PostOp, Statistics};

use super::{Cpu, extents, into_primitive, record, storage};
use crate::nn::team;

/// Batch normalisation with batch statistics, which also update the running statistics; followed by ReLU if `relu` is
/// set.
pub(in crate::nn) fn norm(norm: &BatchNorm, input: Tensor<5>, relu: bool) -> Tensor<5> {
    let (input, gamma, beta) =
        (into_primitive(input), into_primitive(norm.gamma.val()), into_primitive(norm.beta.val()));
    let nodes = [input.node(), gamma.node(), beta.node()];
    let post_op = if relu { PostOp::Relu } else { PostOp::Identity };
    let operands = Operands::new(norm, [input, gamma, beta]);
    let (output, statistics) = operands.forward(post_op);
    update_running_statistics(norm, &statistics);
    let saved = if relu { SavedPostOp::Relu } else { SavedPostOp::Identity };
    record(NormBackward, nodes, NormState { operands, statistics, saved }, output)
}

/// [`norm`], then the addition of the shortcut, then ReLU.
pub(in crate::nn) fn norm_add(norm: &BatchNorm, input: Tensor<5>, shortcut: Tensor<5>) -> Tensor<5> {
    let (input, gamma, beta) =
        (into_primitive(input), into_primitive(norm.gamma.val()), into_primitive(norm.beta.val()));
    let shortcut = into_primitive(shortcut);
    let nodes = [input.node(), gamma.node(), beta.node(), shortcut.node()];
    let operands = Operands::new(norm, [input, gamma, beta]);
    let shortcut = shortcut.into_primitive();
    let (output, statistics) = operands.forward(PostOp::AddRelu(&storage::blocks(&shortcut)));
    update_running_statistics(norm, &statistics);
    let saved = SavedPostOp::AddRelu { output: output.clone() };
    record(NormBackward, nodes, NormState { operands, statistics, saved }, output)
}

/// Updates the running statistics as Burn's module does.
fn update_running_statistics(norm: &BatchNorm, batch: &Statistics) {
    let update = |running: &RunningState<Tensor<1>>, batch: &[f32]| {
        let running_value = running.value_sync();
        let batch = Tensor::<1>::from_floats(batch, &running_value.device());
        let kept = running_value.mul_scalar(1.0 - norm.momentum);
        running.update(kept.add(batch.mul_scalar(norm.momentum)).detach());
    };
    update(&norm.running_mean, &batch.mean);
    update(&norm.running_var, &batch.variance);
}

/// Operands of a normalisation.
#[derive(Clone, Debug)]
struct Operands {
    input: FlexTensor,
    gamma: FlexTensor,
    beta: FlexTensor,
    epsilon: f64,
}

impl Operands {
    fn new(norm: &BatchNorm, [input, gamma, beta]: [FloatTensor<Cpu>; 3]) -> Self {
        let (input, gamma, beta) = (input.into_primitive(), gamma.into_primitive(), beta.into_primitive());
        Self { input, gamma, beta, epsilon: norm.epsilon }
    }

    fn forward(&self, post_op: PostOp<'_>) -> (FlexTensor, Statistics) {
        let [_, images, side] = extents(&self.input);
        let forward =
            |parameters: Parameters<'_>| norm::forward(team(), parameters, &storage::blocks(&self.input), post_op);
        let (output, statistics) = self.with(forward);
        (storage::blocked(output, images, side), statistics)
    }

    /// Calls `f` with the parameters in the kernels' form.
    fn with<T>(&self, f: impl FnOnce(Parameters<'_>) -> T) -> T {
        let (gamma, beta) = (storage::numbers(&self.gamma), storage::numbers(&self.beta));
        f(Parameters { gamma: &gamma, beta: &beta, epsilon: self.epsilon })
    }
}

/// State for the backward pass.
#[derive(Clone, Debug)]
struct NormState {
    operands: Operands,
    statistics: Statistics,
    saved: SavedPostOp,
}

/// Operation after the normalisation, with what its backward pass needs.
#[derive(Clone, Debug)]
enum SavedPostOp {
    Identity,
    Relu,
    AddRelu {
        /// Result of the operation.
        output: FlexTensor,
    },
}

#[derive(Debug)]
struct NormBackward;

/// The parents are input, gamma, beta and, with an addition, the shortcut.
impl<const N: usize> Backward<Flex, N> for NormBackward {
    type State = NormState;

    fn backward(self, ops: Ops<NormState, N>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let NormState { operands, statistics, saved } = ops.state;
        // Overwritten in place: nothing else holds it.
        let mut gradient = storage::make_unique(gradients.consume::<Flex>(&ops.node));
        let [_, images, side] = extents(&gradient);
        let place = storage::blocks_mut(&mut gradient);
        let input = storage::blocks(&operands.input);
        let (of_input, of_parameters) = match &saved {
            SavedPostOp::AddRelu { output } => {
                let output = storage::blocks(output);
                let backward =
                    |norm: Parameters<'_>| norm::backward_add(team(), norm, &statistics, &input, &output, place);
                let (blocks, of_parameters) = operands.with(backward);
                let of_shortcut = std::mem::replace(&mut gradient, storage::blocked(blocks, images, side));
                if let Some(node) = ops.parents.get(3).and_then(Option::as_ref) {
                    gradients.register::<Flex>(node.id, of_shortcut);
                }
                (gradient, of_parameters)
            }
            SavedPostOp::Identity | SavedPostOp::Relu => {
                let relu = matches!(saved, SavedPostOp::Relu);
                let backward = |norm: Parameters<'_>| norm::backward(team(), norm, &statistics, &input, relu, place);
                let of_parameters = operands.with(backward);
                (gradient, of_parameters)
            }
        };
        let channels = [of_parameters.gamma.len()];
        let all = [
            of_input,
            storage::plain(Bytes::from_elems(of_parameters.gamma), channels),
            storage::plain(Bytes::from_elems(of_parameters.beta), channels),
        ];
        for (parent, gradient) in ops.parents.iter().zip(all) {
            if let Some(node) = parent {
                gradients.register::<Flex>(node.id, gradient);
            }
        }
    }
}
