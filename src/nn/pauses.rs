//! Pause points within a pass, at which training yields the GPU to predictions.
//!
//! A GPU executes work in the order of submission, and the training thread submits a whole batch before the first layer is done. A prediction
//! that arrives then waits for the whole batch. If a batch takes longer than predictions may wait, the training thread therefore pauses
//! between blocks of the network, forward or backward: it waits until the GPU is idle and lets predictions run first. The batch is never
//! split, because batch normalisation would use other statistics. The results do not depend on the number of pauses.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use burn::{
    backend::{
        Autodiff, Backend, DispatchKindConversion, DispatchTensor, Flex,
        autodiff::{
            checkpoint::{base::Checkpointer, strategy::NoCheckpointing},
            grads::Gradients,
            ops::{Backward, Ops, OpsKind},
        },
    },
    tensor::{Device, Tensor},
};
use parking_lot::Mutex;

/// Number of passes in which every section is timed. The first passes include autotuning and compilation, so the shortest time counts.
const TIMED_PASSES: usize = 3;

/// Pause points of passes of one kind (forward and backward, or forward only) over a network. A section is the work between two of them.
#[derive(Clone)]
pub struct Pauses(Arc<Shared>);

struct Shared {
    device: Device,
    max_busy: Duration,
    wait_until_idle: Arc<dyn Fn() + Send + Sync>,
    pass: Mutex<Pass>,
}

/// Position of the current pass, and section times of the earlier ones.
#[derive(Debug)]
struct Pass {
    /// Number of completed passes.
    completed: usize,
    /// Number of sections submitted to the device in this pass.
    section: usize,
    /// Shortest time of each section so far. What comes after the last pause point is not measured.
    times: Vec<Duration>,
    /// When the device was last idle.
    idle_since: Instant,
    /// Estimated duration of the work submitted since then.
    submitted: Duration,
}

impl Pauses {
    /// Pauses for passes on `device`, with or without autodiff. `wait_until_idle` blocks until no prediction needs the device. Between two
    /// calls of it, as many sections are submitted as take no longer than `max_busy`, and at least one.
    pub fn new(device: &Device, max_busy: Duration, wait_until_idle: Arc<dyn Fn() + Send + Sync>) -> Self {
        let device = if device.is_autodiff() { device.clone().inner() } else { device.clone() };
        let pass =
            Pass { completed: 0, section: 0, times: Vec::new(), idle_since: Instant::now(), submitted: Duration::ZERO };
        Self(Arc::new(Shared { device, max_busy, wait_until_idle, pass: Mutex::new(pass) }))
    }

    /// Starts a pass. The device is idle.
    pub(super) fn begin(&self) {
        self.0.pass.lock().begin();
    }

    /// Inserts a pause point, in the forward pass now and in the backward pass when the gradient reaches it. Returns the tensor unchanged.
    ///
    /// # Panics
    /// If the device fails, or the tensor is on an autodiff device of a backend that is not compiled in.
    pub(super) fn insert<const D: usize>(&self, tensor: Tensor<D>) -> Tensor<D> {
        self.pause_point();
        let device = tensor.device();
        if !device.is_autodiff() {
            return tensor;
        }
        #[cfg(feature = "gpu")]
        if device != Device::flex() {
            return self.in_graph::<burn::backend::Wgpu, D>(tensor);
        }
        self.in_graph::<Flex, D>(tensor)
    }

    fn in_graph<B: Backend, const D: usize>(&self, tensor: Tensor<D>) -> Tensor<D>
    where
        DispatchTensor: DispatchKindConversion<Autodiff<B>>,
    {
        let tensor = tensor.try_into_primitive::<Autodiff<B>>().expect("an autodiff tensor without checkpointing");
        let node = tensor.node();
        let output = tensor.into_primitive();
        Tensor::from_primitive::<Autodiff<B>>(
            match Pause.prepare::<NoCheckpointing>([node]).compute_bound().stateful() {
                OpsKind::Tracked(preparation) => preparation.finish(self.clone(), output),
                OpsKind::UnTracked(preparation) => preparation.finish(output),
            },
        )
    }

    fn pause_point(&self) {
        let Shared { device, max_busy, wait_until_idle, pass } = &*self.0;
        // Flush at every pause point: kernel fusion must not depend on whether there is a pause.
        device.flush().expect("the device accepts work");
        if pass.lock().should_pause(*max_busy) {
            device.sync().expect("the device completes its work");
            pass.lock().record_idle();
            wait_until_idle();
            pass.lock().resume();
        }
    }
}

impl Pass {
    fn begin(&mut self) {
        self.completed += usize::from(self.section > 0);
        (self.section, self.submitted, self.idle_since) = (0, Duration::ZERO, Instant::now());
    }

    /// Records that a section was submitted. True if the thread should wait for the device now.
    fn should_pause(&mut self, max_busy: Duration) -> bool {
        let section = self.section;
        self.section += 1;
        if self.completed < TIMED_PASSES {
            return true;
        }
        let longest = || self.times.iter().max().copied().unwrap_or_default();
        let [this, next] =
            [section, section + 1].map(|section| self.times.get(section).copied().unwrap_or_else(longest));
        self.submitted += this;
        self.submitted + next > max_busy
    }

    /// Records that the device has completed all submitted work.
    fn record_idle(&mut self) {
        if self.completed >= TIMED_PASSES {
            return;
        }
        let (section, time) = (self.section - 1, self.idle_since.elapsed());
        match self.times.get_mut(section) {
            Some(shortest) => *shortest = time.min(*shortest),
            None => self.times.push(time),
        }
    }

    fn resume(&mut self) {
        (self.submitted, self.idle_since) = (Duration::ZERO, Instant::now());
    }
}

impl fmt::Debug for Pauses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pauses").field("max_busy", &self.0.max_busy).field("pass", &*self.0.pass.lock()).finish()
    }
}

/// Backward operation of a pause point.
#[derive(Debug)]
struct Pause;

impl<B: Backend> Backward<B, 1> for Pause {
    type State = Pauses;

    fn backward(self, ops: Ops<Pauses, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        ops.state.pause_point();
        if let [Some(node)] = ops.parents {
            gradients.register::<B>(node.id, gradient);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use burn::{module::Module, optim::GradientsParams};

    use super::*;
    use crate::{
        domain::{Architecture, ModelSpec, Scope},
        nn::{Input, Network, tests::spec},
    };

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn timed_pass(times: &[u64]) -> Pass {
        let times = times.iter().copied().map(MS).collect();
        Pass { completed: TIMED_PASSES, section: 0, times, idle_since: Instant::now(), submitted: Duration::ZERO }
    }

    /// The sections after which a pass pauses.
    fn paused_sections(pass: &mut Pass, sections: usize, max_busy: u64) -> Vec<usize> {
        pass.begin();
        let paused = (0..sections).filter(|_| {
            let should_pause = pass.should_pause(MS(max_busy));
            if should_pause {
                pass.record_idle();
                pass.resume();
            }
            should_pause
        });
        paused.collect()
    }

    #[test]
    fn a_pass_pauses_before_the_device_is_busy_for_too_long() {
        let mut pass = timed_pass(&[5, 5, 5, 30, 2, 2]);
        assert_eq!(
            paused_sections(&mut pass, 6, 10),
            [1, 2, 3, 5],
            "what comes after the last pause point is assumed to take as long as the longest section"
        );
        assert_eq!(paused_sections(&mut pass, 6, 40), [2, 5]);
        assert_eq!(paused_sections(&mut pass, 6, 1000), [0; 0]);
        assert_eq!(paused_sections(&mut pass, 6, 0), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn the_first_passes_are_timed_and_the_shortest_time_counts() {
        let mut pass = Pass { completed: 0, ..timed_pass(&[]) };
        for _ in 0..TIMED_PASSES {
            assert_eq!(paused_sections(&mut pass, 2, 1000), [0, 1]);
        }
        let times = pass.times.clone();
        assert!(times.len() == 2 && times.iter().all(|time| *time < MS(100)), "{times:?}");
        assert_eq!(paused_sections(&mut pass, 2, 1000), [0; 0]);
        assert_eq!(pass.times, times);
    }

    /// Features and the gradient of each parameter of the body.
    fn pass(network: &Network, spec: &ModelSpec, pauses: Option<&Pauses>) -> Vec<Vec<u8>> {
        let grey: Vec<u8> = (0..2 * spec.image_size.pow(2)).map(|i| (i * 7919 % 251) as u8).collect();
        let images: Vec<&[u8]> = grey.chunks(grey.len() / 2).collect();
        let input = Input::new(&images, spec.image_size, &spec.normalisation, &Device::flex().autodiff());
        let input = input.pausing(pauses);
        let body = &network.body;
        let features = body.average(body.maps(&input));
        let gradients = features.clone().powi_scalar(2).sum().backward();
        let mut gradients = GradientsParams::from_grads(gradients, network);
        let mut all = vec![features.inner().into_data().bytes().to_vec()];
        struct GradientCollector<'a>(&'a mut GradientsParams, &'a mut Vec<Vec<u8>>);
        impl burn::module::ModuleVisitor for GradientCollector<'_> {
            fn visit_float<const D: usize>(&mut self, param: &burn::module::Param<Tensor<D>>) {
                if let Some(gradient) = self.0.remove::<D>(param.id) {
                    self.1.push(gradient.into_data().bytes().to_vec());
                }
            }
        }
        network.visit(&mut GradientCollector(&mut gradients, &mut all));
        all
    }

    #[test]
    fn pauses_occur_in_both_directions_and_change_no_number() {
        for (architecture, points, parameters) in
            [(Architecture::ResNet50, 17, 2 * 53), (Architecture::SimpleCnn, 3, 3)]
        {
            let spec = spec(architecture);
            let network = || Network::random(&spec, 5, &Device::flex()).for_step(Scope::All);
            let expected = pass(&network(), &spec, None);
            assert!(expected.len() > parameters, "{} parameters have gradients", expected.len());
            let calls = Arc::new(AtomicUsize::new(0));
            let counter = Arc::clone(&calls);
            let wait_until_idle = Arc::new(move || {
                counter.fetch_add(1, Ordering::Relaxed);
            });
            let pauses = Pauses::new(&Device::flex().autodiff(), Duration::ZERO, wait_until_idle);
            for passes in 1..=2 {
                assert!(pass(&network(), &spec, Some(&pauses)) == expected, "{architecture:?}: other numbers");
                assert_eq!(calls.load(Ordering::Relaxed), passes * 2 * points);
            }
        }
    }
}
