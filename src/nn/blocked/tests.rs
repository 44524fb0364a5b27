//! The blocked layers against Burn's own modules and autodiff.

use std::collections::BTreeMap;

use burn::{
    module::{Module, ModuleVisitor, Param},
    nn::loss::CrossEntropyLossConfig,
    optim::GradientsParams,
    tensor::{Device, Int, Tensor, TensorData},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{
    domain::{Architecture, BlockVariant, ClassList, ModelSpec, Normalisation, Scope},
    nn::{Network, body::Body, tensors},
};

const CLASSES: usize = 3;

/// Gradients, or statistics, by the parameter's name.
type Named = BTreeMap<String, Vec<f32>>;

fn spec(block_variant: BlockVariant) -> ModelSpec {
    ModelSpec {
        architecture: Architecture::ResNet50,
        block_variant,
        classes: ClassList::default(),
        image_size: 64,
        normalisation: Normalisation { scale: 1.0 / 255.0, mean: [0.5; 3], std: [0.25; 3] },
        dropout: 0.0,
    }
}

/// Noise with a class each, which the seed draws.
fn batch(seed: u64, images: usize, side: usize) -> (Tensor<4>, Tensor<1, Int>) {
    let device = Device::flex().autodiff();
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    let pixels: Vec<f32> = (0..images * 3 * side * side).map(|_| generator.random_range(-1.0..1.0)).collect();
    let classes: Vec<i32> = (0..images).map(|image| (image % CLASSES) as i32).collect();
    let input = Tensor::from_data(TensorData::new(pixels, [images, 3, side, side]), &device);
    (input, Tensor::from_data(TensorData::new(classes, [images]), &device))
}

/// The mean cross-entropy, through the blocked layers or Burn's modules.
fn loss(network: &Network, (input, classes): (Tensor<4>, Tensor<1, Int>), blocked: bool) -> Tensor<1> {
    let Body::ResNet50(body) = &network.body else { unreachable!("the spec is a ResNet's") };
    let features = if blocked { body.forward(input) } else { body.forward_plain(input) };
    let logits = network.classify(features);
    CrossEntropyLossConfig::new().init(&logits.device()).forward(logits, classes)
}

/// A random network of which one clone goes each way.
fn networks(variant: BlockVariant) -> [Network; 2] {
    let file = Network::random(&spec(variant), 3, &Device::flex()).to_bytes(&spec(variant));
    [true, false].map(|_| Network::from_bytes(&file, &Device::flex()).unwrap().0.for_step(Scope::All))
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

/// How far one is from the other, as a share of its length.
fn apart(one: &[f32], other: &[f32]) -> f64 {
    let length = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|number| number * number).sum::<f64>().sqrt();
    let difference = length(&mut one.iter().zip(other).map(|(a, b)| f64::from(a - b)));
    difference / length(&mut other.iter().copied().map(f64::from))
}

fn is_bias_of_a_convolution(name: &str) -> bool {
    name.ends_with(".bias") && (name.contains("conv") || name.contains("downsample.0"))
}

#[test]
fn gradients_and_statistics_are_those_of_burns_modules() {
    for variant in [BlockVariant::V1, BlockVariant::V1_5] {
        let [blocked, plain] = networks(variant);
        let losses = [loss(&blocked, batch(5, 8, 64), true), loss(&plain, batch(5, 8, 64), false)];
        let [found, expected] = [gradients(&blocked, &losses[0]), gradients(&plain, &losses[1])];
        let mut worst: Vec<(String, f64)> = expected
            .iter()
            .filter(|(name, _)| !is_bias_of_a_convolution(name))
            .map(|(name, g)| (name.clone(), apart(&found[name], g)))
            .collect();
        worst.sort_by(|a, b| b.1.total_cmp(&a.1));
        println!("{variant:?} {:?}", &worst[..10]);
        println!("{variant:?} {:?}", &worst[worst.len() - 10..]);
        let [found, expected] = [&blocked, &plain].map(tensors::collect);
        let mut worst: Vec<(String, f64)> = expected
            .iter()
            .map(|(name, g)| (name.clone(), apart(&found[name].values, &g.values)))
            .filter(|x| x.1 > 0.0)
            .collect();
        worst.sort_by(|a, b| b.1.total_cmp(&a.1));
        println!("{variant:?} {:?}", &worst[..5]);
    }
}
