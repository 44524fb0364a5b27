//! The blocked layers compared with Burn's own modules and autodiff.

use std::collections::BTreeMap;

use burn::{
    module::{Module, ModuleVisitor, Param},
    nn::loss::CrossEntropyLossConfig,
    optim::{AdamConfig, GradientsParams, ModuleOptimizer},
    tensor::{Device, Int, Tensor, TensorData},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{
    domain::{Architecture, BlockVariant, ClassList, ModelSpec, Normalisation, Scope},
    nn::{Input, Network, Precision, adam, body::Body, tensors},
};

const CLASSES: usize = 3;

/// A different normalisation for each channel.
fn normalisation() -> Normalisation {
    Normalisation { scale: 1.0 / 255.0, mean: [0.4, 0.5, 0.6], std: [0.2, 0.25, 0.3] }
}

/// Gradients or statistics by parameter name.
type Named = BTreeMap<String, Vec<f32>>;

fn spec(block_variant: BlockVariant) -> ModelSpec {
    ModelSpec {
        architecture: Architecture::ResNet50,
        block_variant,
        classes: ClassList::default(),
        image_size: 64,
        normalisation: normalisation(),
        dropout: 0.0,
    }
}

/// Grey noise and a class per image, from a seed.
fn batch(seed: u64, images: usize, side: usize) -> (Input, Tensor<1, Int>) {
    let device = Device::flex().autodiff();
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    let pixels: Vec<f32> = (0..images * side * side).map(|_| generator.random_range(0.0..255.0)).collect();
    let classes: Vec<i32> = (0..images).map(|image| (image % CLASSES) as i32).collect();
    let grey = Tensor::from_data(TensorData::new(pixels, [images, 1, side, side]), &device);
    (
        Input { grey, normalisation: normalisation(), pauses: None },
        Tensor::from_data(TensorData::new(classes, [images]), &device),
    )
}

/// True if products are in single precision, as Burn's are.
fn is_f32() -> bool {
    Precision::selected() == Precision::F32
}

/// The same batch with noise of the size of the error of the products.
fn noisy(seed: u64, images: usize, side: usize) -> (Input, Tensor<1, Int>) {
    let (input, classes) = batch(seed, images, side);
    let (noise, _) = batch(seed + 1, images, side);
    let noise = noise.grey.mul_scalar(2.0) - 255.0;
    let share = if is_f32() { 1e-6 } else { 1e-5 };
    (Input { grey: input.grey.clone() + noise.mul_scalar(share), ..input }, classes)
}

/// Mean cross-entropy, through the blocked layers or through Burn's modules.
fn loss(network: &Network, (input, classes): (Input, Tensor<1, Int>), blocked: bool) -> Tensor<1> {
    let features = match &network.body {
        body if blocked => body.forward(&input),
        Body::ResNet50(body) => body.forward_plain(&input),
        Body::Vgg16(body) => body.chain().forward_plain(&input),
        Body::SimpleCnn(body) => body.chain().forward_plain(&input),
    };
    let logits = network.classify(features);
    CrossEntropyLossConfig::new().init(&logits.device()).forward(logits, classes)
}

/// The same random ResNet twice; `change` may modify a tensor of the body.
fn networks(variant: BlockVariant, change: impl Fn(&str, &mut [f32])) -> [Network; 2] {
    twice(&spec(variant), change)
}

fn twice(spec: &ModelSpec, change: impl Fn(&str, &mut [f32])) -> [Network; 2] {
    let mut network = Network::random(spec, 3, &Device::flex());
    let mut body = tensors::collect(&network.body);
    body.iter_mut().for_each(|(name, tensor)| change(name, &mut tensor.values));
    network.body = tensors::replace(network.body, body, "").unwrap();
    let file = network.to_bytes(spec);
    [(); 2].map(|()| Network::from_bytes(&file, &Device::flex()).unwrap().0.for_step(Scope::All))
}

/// Sets the batch normalisations of the body so that no ReLU is near zero: a channel is positive or negative on all
/// images. Otherwise the last digit of an input decides for some units whether they have a gradient.
fn separate_from_zero(name: &str, values: &mut [f32]) {
    let is_norm = name.contains("bn") || name.contains("downsample.1");
    for (channel, value) in values.iter_mut().enumerate() {
        match name.rsplit('.').next() {
            Some("weight") if is_norm => *value = 0.4 + 0.1 * (channel % 3) as f32,
            Some("bias") if name.contains("bn3") && channel % 4 == 3 => *value = -50.0,
            Some("bias") if name.contains("bn1") || name.contains("bn2") => *value = [3.0, -3.0][channel % 2],
            Some("bias") if is_norm => *value = 3.0,
            Some("bias") => *value = 0.1 * (channel % 7) as f32, // of a convolution: moves the running mean
            _ => {}
        }
    }
}

struct Gradients<'a> {
    gradients: GradientsParams,
    names: std::vec::IntoIter<(String, Vec<usize>)>,
    found: &'a mut Named,
}

impl ModuleVisitor for Gradients<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let (name, _) = self.names.next().unwrap();
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            self.found.insert(name, gradient.into_data().try_into_vec().unwrap());
        }
    }
}

fn gradients(network: &Network, loss: &Tensor<1>) -> Named {
    let mut found = Named::new();
    let gradients = GradientsParams::from_grads(loss.backward(), network);
    network.visit(&mut Gradients { gradients, names: tensors::layout(network).into_iter(), found: &mut found });
    found
}

/// Distance of two vectors, relative to the length of the second.
fn relative_error(one: &[f32], other: &[f32]) -> f64 {
    let length = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|number| number * number).sum::<f64>().sqrt();
    let difference = length(&mut one.iter().zip(other).map(|(a, b)| f64::from(a - b)));
    difference / length(&mut other.iter().copied().map(f64::from))
}

fn is_bias_of_a_convolution(name: &str) -> bool {
    name.ends_with(".bias") && (name.contains("conv") || name.contains("downsample.0"))
}

/// Gradients of a batch normalisation's scale and shift together. Where no ReLU follows, the next normalisation
/// cancels the shift, whose gradient is then only rounding error.
fn with_shift(name: &str, gradients: &Named) -> Vec<f32> {
    let shift = name.strip_suffix("weight").and_then(|norm| gradients.get(&format!("{norm}bias")));
    let is_norm = name.contains("bn") || name.contains("downsample.1") || name.contains("head.norm");
    [gradients[name].as_slice(), shift.filter(|_| is_norm).map_or(&[], Vec::as_slice)].concat()
}

#[test]
fn gradients_and_statistics_match_burns_modules() {
    for variant in [BlockVariant::V1, BlockVariant::V1_5] {
        let [blocked, plain] = networks(variant, separate_from_zero);
        let found = gradients(&blocked, &loss(&blocked, batch(5, 8, 64), true));
        let expected = gradients(&plain, &loss(&plain, batch(5, 8, 64), false));
        let weights: Vec<&String> = expected.keys().filter(|name| name.ends_with("weight")).collect();
        assert_eq!(weights.len(), 53 + 53 + 1 + 5);
        for name in weights {
            let error = relative_error(&with_shift(name, &found), &with_shift(name, &expected));
            assert!(error < 1e-3, "{variant:?}: the gradient of {name} is {error:e} (relative error)");
        }
        let [found, expected] = [&blocked, &plain].map(|network| tensors::collect(&network.body));
        for (name, expected) in expected.iter().filter(|(name, _)| name.contains("running")) {
            let error = relative_error(&found[name].values, &expected.values);
            assert!(error < if is_f32() { 1e-5 } else { 5e-5 }, "{variant:?}: {name} is {error:e} (relative error)");
        }
    }
}

#[test]
fn gradients_of_chains_match_burns_modules() {
    // Convolutions, batch norms and layers of the head.
    for (architecture, parameters) in [(Architecture::Vgg16, 2 * (13 + 1 + 5)), (Architecture::SimpleCnn, 2 * (3 + 2))]
    {
        let spec = ModelSpec { architecture, ..spec(BlockVariant::V1) };
        // Biases of both signs, so that some units are inactive.
        let biased = |name: &str, values: &mut [f32]| {
            let biases = values.iter_mut().enumerate().filter(|_| name.ends_with("bias"));
            biases.for_each(|(channel, bias)| *bias = 0.02 * ((channel % 5) as f32 - 2.0));
        };
        // A side that pooling never divides evenly: 45, 22, 11, 5, 2, 1.
        for side in [32, 45] {
            let [blocked, plain] = twice(&spec, biased);
            let found = gradients(&blocked, &loss(&blocked, batch(5, 4, side), true));
            let expected = gradients(&plain, &loss(&plain, batch(5, 4, side), false));
            assert_eq!((found.len(), expected.len()), (parameters, parameters), "{architecture:?}");
            // If max pooling picks the other of two nearly equal values, all gradients below change by a hundredth;
            // noise of 1e-5 in the input changes them by a tenth.
            let bound = if is_f32() { 1e-3 } else { 2e-2 };
            for (name, expected) in &expected {
                let error = relative_error(&found[name], expected);
                assert!(
                    error < bound,
                    "{architecture:?}, {side}: the gradient of {name} is {error:e} (relative error)"
                );
            }
        }
    }
}

#[test]
fn a_bias_before_a_normalisation_needs_no_gradient() {
    let [blocked, plain] = networks(BlockVariant::V1_5, separate_from_zero);
    let found = gradients(&blocked, &loss(&blocked, batch(5, 4, 32), true));
    let expected = gradients(&plain, &loss(&plain, batch(5, 4, 32), false));
    let length = |numbers: &[f32]| numbers.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>().sqrt();
    for (name, gradient) in expected.iter().filter(|(name, _)| is_bias_of_a_convolution(name)) {
        let weights = &expected[&name.replace("bias", "weight")];
        assert!(!found.contains_key(name));
        assert!(length(gradient) < 1e-3 * length(weights), "{name}: {} of {}", length(gradient), length(weights));
    }
}

#[test]
fn the_error_with_random_weights_is_below_that_of_input_noise() {
    let [blocked, plain] = networks(BlockVariant::V1_5, |_, _| ());
    let found = gradients(&blocked, &loss(&blocked, batch(5, 8, 32), true));
    let expected = gradients(&plain, &loss(&plain, batch(5, 8, 32), false));
    let moved = gradients(&plain, &loss(&plain, noisy(5, 8, 32), false));
    let median = |gradients: &Named| {
        let names = expected.keys().filter(|name| !is_bias_of_a_convolution(name));
        let mut error: Vec<f64> = names.map(|name| relative_error(&gradients[name], &expected[name])).collect();
        error.sort_by(f64::total_cmp);
        error[error.len() / 2]
    };
    assert!(median(&found) < median(&moved), "{} and {}", median(&found), median(&moved));
}

#[test]
fn thirty_steps_give_the_same_losses_as_burns_modules() {
    let [blocked, plain] = networks(BlockVariant::V1_5, separate_from_zero);
    let curve = |mut network: Network, mut optimizer: ModuleOptimizer, blocked: bool| -> Vec<f32> {
        let step = |step: u64| {
            let loss = loss(&network, batch(step % 2, 8, 32), blocked);
            let gradients = GradientsParams::from_grads(loss.backward(), &network);
            network = optimizer.step(1e-4, network.clone(), gradients);
            loss.into_scalar::<f32>()
        };
        (0..30).map(step).collect()
    };
    let found = curve(blocked, adam(), true);
    let expected = curve(plain, AdamConfig::new().with_epsilon(1e-7).init(), false);
    assert!(expected[29] < expected[0] / 2.0, "the loss must fall: {expected:?}");
    let error = found.iter().zip(&expected).fold(0.0, |most, (a, b)| f32::max(most, (a - b).abs()));
    assert!(error < 0.02, "{found:?}\n{expected:?}");
}
