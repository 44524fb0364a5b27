//! Checks of a whole network on a device, in the shapes that serving and training use, against the CPU.
//!
//! Autotuning chooses kernels by shape, and some kernels are used for a few shapes only. So the small computations of the
//! [device probe](super) cannot show that a network is computed correctly; these checks run the network itself. They also tune it.

use burn::{
    module::{Module, ModuleVisitor, Param},
    nn::loss::CrossEntropyLossConfig,
    optim::GradientsParams,
    tensor::{Device, Int, Tensor, TensorData},
};

use crate::{
    domain::{ModelSpec, Scope},
    nn::{Compiled, Input, Network, NnError, tensors},
};

/// Maximum difference of an output from that of the CPU, relative to the largest. Rounding of f32 gives about a millionth, factors of half
/// precision a thousandth.
const OUTPUT_TOLERANCE: f32 = 1e-2;

/// Maximum distance of a gradient from that of the CPU, relative to its length. Rounding changes which of two nearly equal maxima is taken,
/// and batch normalisation amplifies it.
const GRADIENT_TOLERANCE: f64 = 5e-2;

/// Length below which a gradient, relative to the longest, is rounding error: that of a bias before batch normalisation is zero.
const NEGLIGIBLE_LENGTH: f64 = 1e-3;

/// Maximum number of different images in a batch. A larger batch repeats them, which changes neither its statistics nor its gradient, so
/// that the CPU needs to compute only these.
const MAX_DISTINCT: usize = 8;

/// Checks the logits and class activation maps of a network in batches of the given sizes. `reference` is the same network on the CPU.
///
/// # Errors
/// [`NnError::Device`] with the first wrong number.
pub fn check_inference(
    network: &Compiled,
    reference: &Compiled,
    side: u32,
    batch_sizes: &[usize],
) -> Result<(), NnError> {
    let Some(&largest) = batch_sizes.iter().max() else { return Ok(()) };
    let images = images(side, largest.min(MAX_DISTINCT));
    let views: Vec<&[u8]> = images.iter().map(Vec::as_slice).collect();
    let (logits, maps) = reference.logits_and_activation(&views);
    let (logits, maps) = (read(logits)?, read(maps)?);
    for &size in batch_sizes {
        let batch: Vec<&[u8]> = views.iter().copied().cycle().take(size).collect();
        compare_outputs("logits", size, &read(network.logits(&batch))?, &logits)?;
        let (_, found) = network.logits_and_activation(&batch);
        compare_outputs("class activation maps", size, &read(found)?, &maps)?;
    }
    Ok(())
}

/// Checks the loss and the gradients of a training step, with a batch of `batch_size` images.
///
/// # Errors
/// [`NnError::Device`] with the first wrong gradient.
pub fn check_training(
    network: &Network,
    spec: &ModelSpec,
    scope: Scope,
    batch_size: usize,
    device: &Device,
) -> Result<(), NnError> {
    // Each device would draw other units.
    let spec = &ModelSpec { dropout: 0.0, ..spec.clone() };
    let file = network.to_bytes(spec);
    let distinct = distinct_images(batch_size);
    let (loss, gradients) = training_step(&file, spec, scope, [batch_size, distinct], device)?;
    let (cpu_loss, cpu_gradients) = training_step(&file, spec, scope, [distinct, distinct], &Device::flex())?;
    compare_outputs("the loss of a training step", batch_size, &[loss], &[cpu_loss])?;
    compare_gradients(&gradients, &cpu_gradients)
}

/// Gradients by the names of their parameters.
type Gradients = Vec<(String, Vec<f32>)>;

/// Loss and gradients of a batch of `size` images, of which `distinct` are different.
fn training_step(
    file: &[u8],
    spec: &ModelSpec,
    scope: Scope,
    [size, distinct]: [usize; 2],
    device: &Device,
) -> Result<(f32, Gradients), NnError> {
    let network = Network::from_bytes(file, device)?.0.for_step(scope);
    let images = images(spec.image_size, distinct);
    let batch: Vec<&[u8]> = images.iter().map(Vec::as_slice).cycle().take(size).collect();
    let autodiff = device.clone().autodiff();
    let logits = match scope {
        Scope::All => network.forward(&Input::new(&batch, spec.image_size, &spec.normalisation, &autodiff)),
        Scope::Head => {
            let input = Input::new(&batch, spec.image_size, &spec.normalisation, device);
            network.classify(network.features(&input).autodiff())
        }
    };
    let labels: Vec<i64> = (0..size).map(|i| (i % distinct % spec.classes.len()) as i64).collect();
    let labels = Tensor::<1, Int>::from_data(TensorData::new(labels, [size]), &autodiff);
    let loss = CrossEntropyLossConfig::new().init(&autodiff).forward(logits, labels);
    let mut collector = Collector {
        gradients: GradientsParams::from_grads(loss.backward(), &network),
        names: tensors::layout(&network).into_iter(),
        found: Ok(Gradients::new()),
    };
    network.visit(&mut collector);
    Ok((read(loss)?[0], collector.found?))
}

/// Reads the gradients of a network.
struct Collector {
    gradients: GradientsParams,
    names: std::vec::IntoIter<(String, Vec<usize>)>,
    found: Result<Gradients, NnError>,
}

impl ModuleVisitor for Collector {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let (name, _) = self.names.next().expect("the layout lists every parameter");
        let Some(gradient) = self.gradients.get::<D>(param.id) else { return };
        match (&mut self.found, read(gradient)) {
            (Ok(found), Ok(values)) => found.push((name, values)),
            (found, Err(error)) => *found = Err(error),
            (Err(_), Ok(_)) => {}
        }
    }
}

/// Number of different images in a batch of this size: a divisor of it.
fn distinct_images(batch_size: usize) -> usize {
    // Batch normalisation over a single image can have a single value, whose gradient is zero.
    (2..=MAX_DISTINCT).rev().find(|count| batch_size.is_multiple_of(*count)).unwrap_or(batch_size)
}

/// Images of noise over a gradient, each with another direction.
fn images(side: u32, count: usize) -> Vec<Vec<u8>> {
    // A linear congruential generator (Numerical Recipes); its high bits are the better ones.
    let mut state: u32 = 1;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 25
    };
    let mut image = |number: u32| {
        let level =
            |x: u32, y: u32| 128 * ((number + 1) * x + (count as u32 - number) * y) / (side * (count as u32 + 1));
        let pixels = (0..side * side).map(|i| (level(i % side, i / side) + noise()).min(255) as u8);
        pixels.collect()
    };
    (0..count as u32).map(&mut image).collect()
}

fn compare_outputs(what: &str, batch_size: usize, found: &[f32], expected: &[f32]) -> Result<(), NnError> {
    let scale = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let agrees = |(a, b): (&f32, &f32)| (a - b).abs() <= OUTPUT_TOLERANCE * scale; // false for NaN
    match found.iter().zip(expected.iter().cycle()).find(|&pair| !agrees(pair)) {
        None => Ok(()),
        Some((found, expected)) => Err(NnError::Device(format!(
            "the device computes {what} wrongly in batches of {batch_size} ({found}, but {expected} on the CPU): use another driver \
             or the CPU"
        ))),
    }
}

fn compare_gradients(found: &Gradients, expected: &Gradients) -> Result<(), NnError> {
    let length = |values: &[f32]| values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
    let longest = expected.iter().map(|(_, values)| length(values)).fold(0.0, f64::max);
    for ((name, found), (_, expected)) in found.iter().zip(expected) {
        let difference: Vec<f32> = found.iter().zip(expected).map(|(a, b)| a - b).collect();
        let error = length(&difference) / length(expected).max(NEGLIGIBLE_LENGTH * longest);
        // Also for NaN.
        if error.is_nan() || error > GRADIENT_TOLERANCE {
            return Err(NnError::Device(format!(
                "the device computes the gradient of {name} wrongly (it differs from that of the CPU by {error:.2} of its length): use \
                 another driver or the CPU"
            )));
        }
    }
    Ok(())
}

fn read<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>, NnError> {
    tensor.into_data().try_into_vec().map_err(|error| NnError::Device(format!("read-back failed: {error:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Architecture, BlockVariant, ClassList, Normalisation};

    fn spec(architecture: Architecture) -> ModelSpec {
        ModelSpec {
            architecture,
            block_variant: BlockVariant::V1,
            classes: ClassList::default(),
            image_size: 64,
            normalisation: Normalisation { scale: 1.0 / 255.0, mean: [0.5; 3], std: [0.25; 3] },
            dropout: 0.5,
        }
    }

    #[test]
    fn batches_repeat_at_most_eight_images_and_a_prime_number_is_not_repeated() {
        for (batch_size, distinct) in [(32, 8), (8, 8), (12, 6), (2, 2), (1, 1), (31, 31), (22, 2)] {
            assert_eq!(distinct_images(batch_size), distinct, "{batch_size}");
        }
    }

    #[test]
    fn kernels_of_the_cpu_pass_in_every_batch_size() {
        for architecture in [Architecture::SimpleCnn, Architecture::ResNet50] {
            let spec = spec(architecture);
            let network = Network::random(&spec, 1, &Device::flex());
            let compiled = || Compiled::new(&network, &spec, &Device::flex());
            check_inference(&compiled(), &compiled(), 64, &[1, 3, 9]).unwrap();
            for scope in [Scope::Head, Scope::All] {
                // Repeated images give the statistics and the gradient of the images.
                check_training(&network, &spec, scope, 16, &Device::flex()).unwrap();
            }
        }
    }

    #[test]
    fn another_network_is_found_out() {
        let spec = spec(Architecture::SimpleCnn);
        let [one, other] = [1, 2].map(|seed| Network::random(&spec, seed, &Device::flex()));
        let [compiled, reference] = [&one, &other].map(|network| Compiled::new(network, &spec, &Device::flex()));
        let error = check_inference(&compiled, &reference, 64, &[1, 2]).unwrap_err().to_string();
        assert!(error.contains("logits wrongly in batches of 1"), "{error}");
        let step = |network: &Network| {
            training_step(&network.to_bytes(&spec), &spec, Scope::All, [4, 4], &Device::flex()).unwrap().1
        };
        let error = compare_gradients(&step(&one), &step(&other)).unwrap_err().to_string();
        assert!(error.contains("the gradient of"), "{error}");
    }

    #[test]
    fn a_wrong_or_missing_number_is_found_and_rounding_is_not() {
        let expected = vec![("a".to_owned(), vec![1.0, -2.0]), ("bias".to_owned(), vec![1e-7, 0.0])];
        let with = |a: f32, bias: f32| vec![("a".to_owned(), vec![a, -2.0]), ("bias".to_owned(), vec![bias, 0.0])];
        assert!(
            compare_gradients(&with(1.001, -1e-6), &expected).is_ok(),
            "the bias has no gradient, only rounding errors"
        );
        for (a, bias) in [(0.0, 0.0), (f32::NAN, 0.0), (1.0, 0.5), (1.0, f32::INFINITY)] {
            assert!(compare_gradients(&with(a, bias), &expected).is_err(), "{a} {bias}");
        }
        assert!(compare_outputs("logits", 2, &[1.0, 2.0, 1.0, 2.0], &[1.0, 2.0]).is_ok(), "two images of one kind");
        assert!(compare_outputs("logits", 2, &[1.0, 2.0, 1.0, 0.0], &[1.0, 2.0]).is_err());
    }
}
