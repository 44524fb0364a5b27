//! Adam (Kingma & Ba 2015, arXiv:1412.6980): on the CPU a kernel that makes one pass over each parameter, on GPUs Burn's implementation.

use burn::{
    backend::Flex,
    optim::{
        self, AdamConfig, AdamState, AdaptiveMomentumState, LearningRate, ModuleOptimizer, Optimizer, RecordState,
        StateSink, StateSource,
    },
    tensor::{Device, Tensor},
};
use thorax_kernels::adam::{self, ParameterState};

use super::{team, tensors::rows};

const BETA_1: f32 = 0.9;
const BETA_2: f32 = 0.999;
const EPSILON: f32 = 1e-7;

/// Adam with the defaults of Keras: beta 0.9 and 0.999, epsilon 1e-7.
pub fn adam() -> ModuleOptimizer {
    let config = AdamConfig::new().with_beta_1(BETA_1).with_beta_2(BETA_2).with_epsilon(EPSILON);
    Adam { on_gpu: config.build() }.into()
}

#[derive(Clone)]
struct Adam {
    /// Used on devices other than the CPU.
    on_gpu: optim::Adam,
}

/// Adam's state of a parameter. When it is read from a record, it is loaded into main memory, and the next update moves it to the device of
/// the parameter. Burn would load it to its default device, which is a GPU even if the network trains on the CPU.
#[derive(Clone)]
struct State<const D: usize>(AdamState<D>);

impl<const D: usize> RecordState for State<D> {
    fn state_flatten(&self, prefix: &str, out: &mut StateSink) {
        self.0.state_flatten(prefix, out);
    }

    fn state_unflatten(prefix: &str, source: &mut StateSource, _default: &Device) -> Option<Self> {
        AdamState::state_unflatten(prefix, source, &Device::flex()).map(Self)
    }
}

impl Optimizer for Adam {
    type State<const D: usize> = State<D>;

    fn step<const D: usize>(
        &self,
        learning_rate: LearningRate,
        parameter: Tensor<D>,
        gradient: Tensor<D>,
        state: Option<State<D>>,
    ) -> (Tensor<D>, Option<State<D>>) {
        if parameter.device() != Device::flex() {
            let (parameter, state) =
                self.on_gpu.step(learning_rate, parameter, gradient, state.map(|State(state)| state));
            return (parameter, state.map(State));
        }
        let momentum = state.map_or_else(|| initial_momentum(&parameter), |State(state)| state.momentum);
        let time = momentum.time + 1;
        let step = adam::Adam {
            beta_1: BETA_1,
            beta_2: BETA_2,
            epsilon: EPSILON,
            learning_rate: learning_rate as f32,
            step: time as i32,
        };
        let [mut parameter, gradient, mut mean, mut square] =
            [parameter, gradient, momentum.moment_1, momentum.moment_2].map(rows);
        // In place, unless the tensor is shared, for example with a snapshot of the best epoch.
        step.step(
            team(),
            ParameterState {
                parameter: parameter.storage_mut(),
                gradient: gradient.storage(),
                first_moment: mean.storage_mut(),
                second_moment: square.storage_mut(),
            },
        );
        let [parameter, mean, square] = [parameter, mean, square].map(Tensor::from_primitive::<Flex>);
        (parameter, Some(State(AdamState::new(AdaptiveMomentumState::new(time, mean, square)))))
    }

    fn to_device<const D: usize>(State(state): State<D>, device: &Device) -> State<D> {
        State(optim::Adam::to_device(state, device))
    }
}

/// The state before the first update.
fn initial_momentum<const D: usize>(parameter: &Tensor<D>) -> AdaptiveMomentumState<D> {
    AdaptiveMomentumState::new(0, parameter.zeros_like(), parameter.zeros_like())
}
