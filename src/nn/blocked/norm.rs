//! Batch normalisation with what follows it.

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
use thorax_kernels::{
    norm::{self, Norm, Statistics, Then},
    team,
};

use super::{Cpu, extents, into_primitive, record, storage};

/// Batch normalisation with the batch's statistics, which the running ones follow, and ReLU if `relu`.
pub(in crate::nn) fn norm(norm: &BatchNorm, input: Tensor<5>, relu: bool) -> Tensor<5> {
    let (input, gamma, beta) =
        (into_primitive(input), into_primitive(norm.gamma.val()), into_primitive(norm.beta.val()));
    let nodes = [input.node(), gamma.node(), beta.node()];
    let then = if relu { Then::Relu } else { Then::Nothing };
    let batch = Batch::new(norm, [input, gamma, beta]);
    let (output, statistics) = batch.forward(then);
    follow(norm, &statistics);
    let way = if relu { Way::Relu } else { Way::Nothing };
    record(Normalise, nodes, Normalised { batch, statistics, way }, output)
}

/// As [`norm`], but with the addition of the way around the block before the ReLU.
pub(in crate::nn) fn norm_add(norm: &BatchNorm, input: Tensor<5>, around: Tensor<5>) -> Tensor<5> {
    let (input, gamma, beta) =
        (into_primitive(input), into_primitive(norm.gamma.val()), into_primitive(norm.beta.val()));
    let around = into_primitive(around);
    let nodes = [input.node(), gamma.node(), beta.node(), around.node()];
    let batch = Batch::new(norm, [input, gamma, beta]);
    let around = around.into_primitive();
    let (output, statistics) = batch.forward(Then::AddRelu(&storage::lanes(&around)));
    follow(norm, &statistics);
    let way = Way::AddRelu { output: output.clone() };
    record(Normalise, nodes, Normalised { batch, statistics, way }, output)
}

/// Moves the running statistics as Burn's own module does it.
fn follow(norm: &BatchNorm, batch: &Statistics) {
    let follow = |running: &RunningState<Tensor<1>>, batch: &[f32]| {
        let running_value = running.value_sync();
        let batch = Tensor::<1>::from_floats(batch, &running_value.device());
        let kept = running_value.mul_scalar(1.0 - norm.momentum);
        running.update(kept.add(batch.mul_scalar(norm.momentum)).detach());
    };
    follow(&norm.running_mean, &batch.mean);
    follow(&norm.running_var, &batch.variance);
}

/// What is normalised, and with what.
#[derive(Clone, Debug)]
struct Batch {
    input: FlexTensor,
    gamma: FlexTensor,
    beta: FlexTensor,
    epsilon: f64,
}

impl Batch {
    fn new(norm: &BatchNorm, [input, gamma, beta]: [FloatTensor<Cpu>; 3]) -> Self {
        let (input, gamma, beta) = (input.into_primitive(), gamma.into_primitive(), beta.into_primitive());
        Self { input, gamma, beta, epsilon: norm.epsilon }
    }

    fn forward(&self, then: Then<'_>) -> (FlexTensor, Statistics) {
        let [_, images, side] = extents(&self.input);
        let forward = |parameters: Norm<'_>| norm::forward(team(), parameters, &storage::lanes(&self.input), then);
        let (output, statistics) = self.with(forward);
        (storage::blocked(output, images, side), statistics)
    }

    /// Calls `f` with the parameters as the kernels take them.
    fn with<T>(&self, f: impl FnOnce(Norm<'_>) -> T) -> T {
        let (gamma, beta) = (storage::numbers(&self.gamma), storage::numbers(&self.beta));
        f(Norm { gamma: &gamma, beta: &beta, epsilon: self.epsilon })
    }
}

/// What the backward pass needs.
#[derive(Clone, Debug)]
struct Normalised {
    batch: Batch,
    statistics: Statistics,
    way: Way,
}

/// What came after the normalisation.
#[derive(Clone, Debug)]
enum Way {
    Nothing,
    Relu,
    AddRelu {
        /// What came out.
        output: FlexTensor,
    },
}

#[derive(Debug)]
struct Normalise;

/// The parents are input, gamma, beta and, with an addition, the way around.
impl<const N: usize> Backward<Flex, N> for Normalise {
    type State = Normalised;

    fn backward(self, ops: Ops<Normalised, N>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let Normalised { batch, statistics, way } = ops.state;
        // Written in place: nothing else has it.
        let mut gradient = storage::owned(gradients.consume::<Flex>(&ops.node));
        let [_, images, side] = extents(&gradient);
        let place = storage::lanes_mut(&mut gradient);
        let input = storage::lanes(&batch.input);
        let (of_input, of_parameters) = match &way {
            Way::AddRelu { output } => {
                let output = storage::lanes(output);
                let backward = |norm: Norm<'_>| norm::backward_add(team(), norm, &statistics, &input, &output, place);
                let (lanes, of_parameters) = batch.with(backward);
                let of_around = std::mem::replace(&mut gradient, storage::blocked(lanes, images, side));
                if let Some(node) = ops.parents.get(3).and_then(Option::as_ref) {
                    gradients.register::<Flex>(node.id, of_around);
                }
                (gradient, of_parameters)
            }
            Way::Nothing | Way::Relu => {
                let relu = matches!(way, Way::Relu);
                let backward = |norm: Norm<'_>| norm::backward(team(), norm, &statistics, &input, relu, place);
                let of_parameters = batch.with(backward);
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
