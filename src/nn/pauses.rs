//! Points within a pass at which a GPU is free for somebody else.
//!
//! A GPU carries out what it was given in that order, and a training thread gives it a whole batch before the first layer is done: a
//! prediction that comes then waits for all of it. So where a batch takes longer than a prediction may wait, the thread waits for the GPU
//! now and then, between two blocks of the network, forwards or backwards, and lets others go first. The batch is never split, for batch
//! normalisation would take other statistics: what is computed is the same with any number of pauses.

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

/// Passes of which each part is measured. The first ones choose kernels and compile them, so the shortest time counts.
const MEASURED: usize = 3;

/// The pauses of the passes over a network, of one kind: forwards and backwards, or forwards alone.
#[derive(Clone)]
pub struct Pauses(Arc<Shared>);

struct Shared {
    device: Device,
    at_most: Duration,
    give_way: Arc<dyn Fn() + Send + Sync>,
    pass: Mutex<Pass>,
}

/// Where a pass is, and what the ones before it took.
#[derive(Debug)]
struct Pass {
    /// Passes that are over.
    over: usize,
    /// The part that the device was given last.
    part: usize,
    /// The shortest time of each part so far; what is after the last point is not measured.
    times: Vec<Duration>,
    /// When the device last had nothing to do.
    since: Instant,
    /// What the device has been given since, in time.
    given: Duration,
}

impl Pauses {
    /// For passes on `device`, which may be one with autodiff. Between two calls of `give_way`, which returns when nobody else wants the
    /// device, it is given as many parts as take no longer than `at_most`, and one at the least.
    pub fn new(device: &Device, at_most: Duration, give_way: Arc<dyn Fn() + Send + Sync>) -> Self {
        let device = if device.is_autodiff() { device.clone().inner() } else { device.clone() };
        let pass = Pass { over: 0, part: 0, times: Vec::new(), since: Instant::now(), given: Duration::ZERO };
        Self(Arc::new(Shared { device, at_most, give_way, pass: Mutex::new(pass) }))
    }

    /// A pass begins, on a device that has nothing to do.
    pub(super) fn begin(&self) {
        self.0.pass.lock().begin();
    }

    /// The tensor itself, with a point at which the pass may pause: now, and where the gradient comes by.
    ///
    /// # Panics
    /// If the device fails, or the tensor is with autodiff on a backend that the program does not have.
    pub(super) fn at<const D: usize>(&self, tensor: Tensor<D>) -> Tensor<D> {
        self.here();
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
        let tensor =
            tensor.try_into_primitive::<Autodiff<B>>().expect("a tensor with autodiff and without checkpoints");
        let node = tensor.node();
        let output = tensor.into_primitive();
        Tensor::from_primitive::<Autodiff<B>>(
            match Pause.prepare::<NoCheckpointing>([node]).compute_bound().stateful() {
                OpsKind::Tracked(preparation) => preparation.finish(self.clone(), output),
                OpsKind::UnTracked(preparation) => preparation.finish(output),
            },
        )
    }

    fn here(&self) {
        let Shared { device, at_most, give_way, pass } = &*self.0;
        // Always: what is computed in one kernel must not depend on whether there is a pause.
        device.flush().expect("the device takes work");
        if pass.lock().pauses(*at_most) {
            device.sync().expect("the device does its work");
            pass.lock().idle();
            give_way();
            pass.lock().go_on();
        }
    }
}

impl Pass {
    fn begin(&mut self) {
        self.over += usize::from(self.part > 0);
        (self.part, self.given, self.since) = (0, Duration::ZERO, Instant::now());
    }

    /// The device has been given a part. Whether to wait for it now.
    fn pauses(&mut self, at_most: Duration) -> bool {
        let part = self.part;
        self.part += 1;
        if self.over < MEASURED {
            return true;
        }
        let longest = || self.times.iter().max().copied().unwrap_or_default();
        let [this, next] = [part, part + 1].map(|part| self.times.get(part).copied().unwrap_or_else(longest));
        self.given += this;
        self.given + next > at_most
    }

    /// The device has done all that it was given.
    fn idle(&mut self) {
        if self.over >= MEASURED {
            return;
        }
        let (part, time) = (self.part - 1, self.since.elapsed());
        match self.times.get_mut(part) {
            Some(shortest) => *shortest = time.min(*shortest),
            None => self.times.push(time),
        }
    }

    fn go_on(&mut self) {
        (self.given, self.since) = (Duration::ZERO, Instant::now());
    }
}

impl fmt::Debug for Pauses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pauses").field("at_most", &self.0.at_most).field("pass", &*self.0.pass.lock()).finish()
    }
}

/// The gradient comes by.
#[derive(Debug)]
struct Pause;

impl<B: Backend> Backward<B, 1> for Pause {
    type State = Pauses;

    fn backward(self, ops: Ops<Pauses, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<B>(&ops.node);
        ops.state.here();
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

    fn measured(times: &[u64]) -> Pass {
        let times = times.iter().copied().map(MS).collect();
        Pass { over: MEASURED, part: 0, times, since: Instant::now(), given: Duration::ZERO }
    }

    /// At which of its parts a pass pauses.
    fn paused(pass: &mut Pass, parts: usize, at_most: u64) -> Vec<usize> {
        pass.begin();
        let paused = (0..parts).filter(|_| {
            let pauses = pass.pauses(MS(at_most));
            if pauses {
                pass.idle();
                pass.go_on();
            }
            pauses
        });
        paused.collect()
    }

    #[test]
    fn a_pass_pauses_before_the_device_has_more_than_it_may_be_held_for() {
        let mut pass = measured(&[5, 5, 5, 30, 2, 2]);
        assert_eq!(
            paused(&mut pass, 6, 10),
            [1, 2, 3, 5],
            "what comes after the last point may be as long as the longest"
        );
        assert_eq!(paused(&mut pass, 6, 40), [2, 5]);
        assert_eq!(paused(&mut pass, 6, 1000), [0; 0]);
        assert_eq!(paused(&mut pass, 6, 0), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn the_first_passes_measure_and_the_shortest_time_counts() {
        let mut pass = Pass { over: 0, ..measured(&[]) };
        for _ in 0..MEASURED {
            assert_eq!(paused(&mut pass, 2, 1000), [0, 1]);
        }
        let times = pass.times.clone();
        assert!(times.len() == 2 && times.iter().all(|time| *time < MS(100)), "{times:?}");
        assert_eq!(paused(&mut pass, 2, 1000), [0; 0]);
        assert_eq!(pass.times, times);
    }

    /// The features, and the gradient of each parameter of the body.
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
        struct Take<'a>(&'a mut GradientsParams, &'a mut Vec<Vec<u8>>);
        impl burn::module::ModuleVisitor for Take<'_> {
            fn visit_float<const D: usize>(&mut self, param: &burn::module::Param<Tensor<D>>) {
                if let Some(gradient) = self.0.remove::<D>(param.id) {
                    self.1.push(gradient.into_data().bytes().to_vec());
                }
            }
        }
        network.visit(&mut Take(&mut gradients, &mut all));
        all
    }

    #[test]
    fn pauses_change_nothing_and_come_forwards_and_backwards() {
        for (architecture, points, parameters) in
            [(Architecture::ResNet50, 17, 2 * 53), (Architecture::SimpleCnn, 3, 3)]
        {
            let spec = spec(architecture);
            let network = || Network::random(&spec, 5, &Device::flex()).for_step(Scope::All);
            let undisturbed = pass(&network(), &spec, None);
            assert!(undisturbed.len() > parameters, "{} parameters got gradients", undisturbed.len());
            let given = Arc::new(AtomicUsize::new(0));
            let give_way = Arc::clone(&given);
            let give_way = Arc::new(move || {
                give_way.fetch_add(1, Ordering::Relaxed);
            });
            let pauses = Pauses::new(&Device::flex().autodiff(), Duration::ZERO, give_way);
            for passes in 1..=2 {
                assert!(pass(&network(), &spec, Some(&pauses)) == undisturbed, "{architecture:?}: other numbers");
                assert_eq!(given.load(Ordering::Relaxed), passes * 2 * points);
            }
        }
    }
}
