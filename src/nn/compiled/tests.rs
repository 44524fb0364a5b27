//! The compiled network compared with the same network in plain loops and double precision.

use burn::tensor::Device;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::Compiled;
use crate::{
    domain::{Architecture, BlockVariant, ClassList, ModelSpec, Normalisation},
    nn::{
        Input, Network, body_spec, import_weights,
        resnet::STAGES,
        tensors::{self, HostTensor, NamedTensors},
    },
};

pub(super) fn spec(block_variant: BlockVariant, image_size: u32) -> ModelSpec {
    ModelSpec {
        architecture: Architecture::ResNet50,
        block_variant,
        classes: ClassList::default(),
        image_size,
        normalisation: Normalisation { scale: 1.0 / 255.0, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] },
        dropout: 0.5,
    }
}

/// Square grey images of noise over a gradient.
pub(super) fn squares(count: usize, side: usize) -> Vec<Vec<u8>> {
    let mut noise = ChaCha8Rng::seed_from_u64(5);
    (0..count)
        .map(|_| (0..side * side).map(|i| (i * 120 / (side * side)) as u8 + noise.random_range(0..130)).collect())
        .collect()
}

/// A network whose batch norms have non-trivial statistics, as after training.
pub(super) fn trained(spec: &ModelSpec) -> Network {
    let network = Network::random(spec, 3, &Device::flex());
    let mut noise = ChaCha8Rng::seed_from_u64(4);
    let mut vary = |tensors: NamedTensors| -> NamedTensors {
        let mut varied = tensors;
        for (name, tensor) in &mut varied {
            if tensor.shape.len() == 1 {
                let spread = if name.ends_with("bias") || name.ends_with("mean") { -0.2..0.2 } else { 0.6..1.4 };
                tensor.values.fill_with(|| noise.random_range(spread.clone()));
            }
        }
        varied
    };
    let (body, head) = (vary(tensors::collect(&network.body)), vary(tensors::collect(&network.head)));
    Network {
        body: tensors::replace(network.body, body, "").unwrap(),
        head: tensors::replace(network.head, head, "").unwrap(),
        epsilon: network.epsilon,
    }
}

/// Largest error, relative to the largest logit.
fn error(network: &Network, spec: &ModelSpec, images: &[Vec<u8>]) -> f64 {
    let views: Vec<&[u8]> = images.iter().map(Vec::as_slice).collect();
    let compiled = Compiled::new(network, spec, &Device::flex());
    let found: Vec<f32> = compiled.logits(&views).into_data().try_into_vec().unwrap();
    let reference = Reference::new(network, spec);
    let expected: Vec<f64> = images.iter().flat_map(|image| reference.logits(image)).collect();
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0_f64, |largest, logit| largest.max(logit.abs()));
    let difference = found.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
    difference / largest
}

#[test]
fn logits_of_random_networks_match_double_precision() {
    for variant in [BlockVariant::V1, BlockVariant::V1_5] {
        for (count, side) in [(1, 64), (3, 33), (5, 48)] {
            let spec = spec(variant, side);
            let error = error(&trained(&spec), &spec, &squares(count, side as usize));
            assert!(error < 1e-4, "{variant:?}, {count} of {side}: {error:e}");
        }
    }
}

#[test]
fn logits_of_chains_match_burns_modules() {
    for architecture in [Architecture::Vgg16, Architecture::SimpleCnn] {
        for (count, side) in [(1, 32), (3, 45)] {
            let spec = ModelSpec { architecture, ..spec(BlockVariant::V1, side) };
            let (network, images) = (trained(&spec), squares(count, side as usize));
            let views: Vec<&[u8]> = images.iter().map(Vec::as_slice).collect();
            let compiled = Compiled::new(&network, &spec, &Device::flex()).logits(&views);
            let input = Input::new(&views, side, &spec.normalisation, &Device::flex());
            let [found, expected] = [compiled, network.forward(&input)]
                .map(|logits| -> Vec<f32> { logits.into_data().try_into_vec().unwrap() });
            assert_eq!(found.len(), 3 * count);
            let largest = expected.iter().fold(0.0_f32, |largest, logit| largest.max(logit.abs()));
            let error = found.iter().zip(&expected).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs())) / largest;
            assert!(error < 1e-4, "{architecture:?}, {count} of {side}: {error:e}");
        }
    }
}

#[test]
fn logits_of_imagenet_weights_match_double_precision() {
    let Some(package) = crate::fixtures::imagenet_weights() else { return };
    let body = import_weights(&package).unwrap().bytes;
    let (variant, normalisation) = body_spec(&body).unwrap();
    for side in [128, 224] {
        let spec = ModelSpec { normalisation: normalisation.clone(), ..spec(variant, side) };
        let network = Network::pretrained(&spec, &body, 1, &Device::flex()).unwrap();
        let error = error(&network, &spec, &squares(1, side as usize));
        eprintln!("ImageNet weights, {side} px: largest error {error:e} of the largest logit");
        assert!(error < 1e-4, "{side}: {error:e}");
    }
}

/// The network from its tensors, each layer as a plain loop.
struct Reference<'a> {
    body: NamedTensors,
    head: NamedTensors,
    epsilon: f64,
    spec: &'a ModelSpec,
}

/// Channels of a square image, in channel-major order.
#[derive(Clone)]
struct Maps {
    channels: Vec<Vec<f64>>,
    side: usize,
}

impl<'a> Reference<'a> {
    fn new(network: &Network, spec: &'a ModelSpec) -> Self {
        let (body, head) = (tensors::collect(&network.body), tensors::collect(&network.head));
        Self { body, head, epsilon: network.epsilon, spec }
    }

    fn logits(&self, image: &[u8]) -> Vec<f64> {
        let features = self.features(image);
        let normed = Maps { channels: features.into_iter().map(|value| vec![value]).collect(), side: 1 };
        // The norm of the head keeps Burn's default epsilon.
        let normed = norm(&self.head, "norm", 1e-5, normed);
        let mut x: Vec<f64> = normed.channels.concat();
        for layer in 0..5 {
            if layer > 0 {
                x.iter_mut().for_each(|value| *value = value.max(0.0));
            }
            let weight = &self.head[&format!("linear.{layer}.weight")];
            let bias = &self.head[&format!("linear.{layer}.bias")].values;
            let row = |row: &[f32]| row.iter().zip(&x).map(|(w, x)| f64::from(*w) * x).sum::<f64>();
            x = weight.values.chunks_exact(x.len()).zip(bias).map(|(w, b)| row(w) + f64::from(*b)).collect();
        }
        x
    }

    fn features(&self, image: &[u8]) -> Vec<f64> {
        let Normalisation { scale, mean, std } = self.spec.normalisation.clone();
        let channel = |c: usize| {
            let level = |grey: &u8| (f64::from(*grey) * f64::from(scale) - f64::from(mean[c])) / f64::from(std[c]);
            image.iter().map(level).collect()
        };
        let x = Maps { channels: (0..3).map(channel).collect(), side: self.spec.image_size as usize };
        let mut x = max_pool(relu(self.layer("conv1", "bn1", 2, x)));
        for (stage, &(blocks, _, stride)) in STAGES.iter().enumerate() {
            for block in 0..blocks {
                x = self.block(&format!("layer{}.{block}", stage + 1), if block == 0 { stride } else { 1 }, x);
            }
        }
        x.channels.iter().map(|map| map.iter().sum::<f64>() / map.len() as f64).collect()
    }

    fn block(&self, name: &str, stride: usize, input: Maps) -> Maps {
        let (first, second) = if self.spec.block_variant == BlockVariant::V1 { (stride, 1) } else { (1, stride) };
        let layer = |index: usize, stride, x| {
            self.layer(&format!("{name}.conv{index}"), &format!("{name}.bn{index}"), stride, x)
        };
        let x = relu(layer(1, first, input.clone()));
        let mut x = layer(3, 1, relu(layer(2, second, x)));
        let around = if self.body.contains_key(&format!("{name}.downsample.0.weight")) {
            self.layer(&format!("{name}.downsample.0"), &format!("{name}.downsample.1"), stride, input)
        } else {
            input
        };
        for (sum, value) in x.channels.iter_mut().flatten().zip(around.channels.iter().flatten()) {
            *sum += value;
        }
        relu(x)
    }

    fn layer(&self, conv: &str, norm_name: &str, stride: usize, input: Maps) -> Maps {
        let weight = &self.body[&format!("{conv}.weight")];
        let bias = &self.body[&format!("{conv}.bias")];
        norm(&self.body, norm_name, self.epsilon, convolve(weight, bias, stride, &input))
    }
}

fn convolve(weight: &HostTensor, bias: &HostTensor, stride: usize, input: &Maps) -> Maps {
    let [outputs, inputs, kernel] = [0, 1, 2].map(|axis| weight.shape[axis]);
    let padding = kernel / 2;
    let side = (input.side + 2 * padding - kernel) / stride + 1;
    let mut channels = vec![vec![0.0; side * side]; outputs];
    for (o, map) in channels.iter_mut().enumerate() {
        map.fill(f64::from(bias.values[o]));
        for i in 0..inputs {
            for (down, right) in (0..kernel * kernel).map(|place| (place / kernel, place % kernel)) {
                let weight = f64::from(weight.values[((o * inputs + i) * kernel + down) * kernel + right]);
                for y in 0..side {
                    let Some(row) = (y * stride + down).checked_sub(padding).filter(|row| *row < input.side) else {
                        continue;
                    };
                    let row = &input.channels[i][row * input.side..][..input.side];
                    // Outputs whose tap lies inside the image.
                    let first = padding.saturating_sub(right).div_ceil(stride);
                    let columns = row[first * stride + right - padding..].iter().step_by(stride);
                    for (sum, value) in map[y * side..][first..side].iter_mut().zip(columns) {
                        *sum += weight * value;
                    }
                }
            }
        }
    }
    Maps { channels, side }
}

fn norm(tensors: &NamedTensors, name: &str, epsilon: f64, mut maps: Maps) -> Maps {
    let part = |part: &str, channel: usize| f64::from(tensors[&format!("{name}.{part}")].values[channel]);
    for (channel, map) in maps.channels.iter_mut().enumerate() {
        let factor = part("weight", channel) / (part("running_var", channel) + epsilon).sqrt();
        let (mean, shift) = (part("running_mean", channel), part("bias", channel));
        map.iter_mut().for_each(|value| *value = (*value - mean) * factor + shift);
    }
    maps
}

fn relu(mut maps: Maps) -> Maps {
    maps.channels.iter_mut().flatten().for_each(|value| *value = value.max(0.0));
    maps
}

/// 3x3 max pooling with stride 2 and padding 1.
fn max_pool(input: Maps) -> Maps {
    let side = (input.side + 2 - 3) / 2 + 1;
    let near = |at: usize| (2 * at).saturating_sub(1)..(2 * at + 2).min(input.side);
    let pixel = |map: &Vec<f64>, y: usize, x: usize| {
        near(y)
            .flat_map(|y| near(x).map(move |x| (y, x)))
            .map(|(y, x)| map[y * input.side + x])
            .fold(f64::MIN, f64::max)
    };
    let pool = |map: &Vec<f64>| (0..side * side).map(|i| pixel(map, i / side, i % side)).collect();
    Maps { channels: input.channels.iter().map(pool).collect(), side }
}
