//! Grad-CAM compared with its definition (by Burn's autodiff) and with finite differences.

use burn::tensor::{Device, Tensor, TensorData, activation::relu};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    Compiled, CompiledBody,
    tests::{spec, squares, trained},
};
use crate::{
    domain::{Architecture, BlockVariant, ModelSpec, Scope},
    nn::{Input, Network},
};

fn views(images: &[Vec<u8>]) -> Vec<&[u8]> {
    images.iter().map(Vec::as_slice).collect()
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
}

/// Largest error, relative to the largest value, which must not be zero.
fn relative_error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    assert!(largest > 0.0, "there must be a non-zero value to compare");
    found.iter().zip(expected).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs())) / largest
}

/// The definition in the paper: each map is weighted with the mean, over its pixels, of the gradient of the highest
/// logit. For heads without a norm and dropout, which would behave as in training on an autodiff device.
fn by_definition(network: &Network, spec: &ModelSpec, images: &[Vec<u8>]) -> Vec<f32> {
    let input = Input::new(&views(images), spec.image_size, &spec.normalisation, &Device::flex());
    let maps = network.body.maps(&input);
    let lifted = maps.clone().autodiff().require_grad();
    let lifted_network = network.clone().for_step(Scope::Head);
    let logits = lifted_network.classify(network.body.average(lifted.clone()));
    let gradients = logits.max_dim(1).sum().backward();
    let gradient = lifted.grad(&gradients).expect("the logit depends on the maps");
    let weights = gradient.mean_dim(2).mean_dim(3); // [images, channels, 1, 1]
    values(relu((maps * weights).sum_dim(1)))
}

#[test]
fn the_activation_matches_the_definition_of_grad_cam() {
    for (count, side) in [(1, 32), (3, 45), (2, 64)] {
        let spec = ModelSpec { architecture: Architecture::SimpleCnn, dropout: 0.0, ..spec(BlockVariant::V1, side) };
        let (network, images) = (Network::random(&spec, 7, &Device::flex()), squares(count, side as usize));
        let compiled = Compiled::new(&network, &spec, &Device::flex());
        let (logits, activation) = compiled.logits_and_activation(&views(&images));
        let cells = (side / 8) as usize;
        assert_eq!(activation.dims(), [count, cells, cells]);
        assert!(relative_error(&values(logits), &values(compiled.logits(&views(&images)))) < 1e-6);
        let expected = by_definition(&network, &spec, &images);
        // The definition takes the mean, the implementation the sum: the weights differ by a factor that all maps
        // share.
        let found: Vec<f32> = values(activation).iter().map(|value| value / (cells * cells) as f32).collect();
        let error = relative_error(&found, &expected);
        assert!(error < 1e-3, "{count} of {side}: {error:e}");
    }
}

#[test]
fn the_gradient_of_a_head_matches_finite_differences() {
    let spec = spec(BlockVariant::V1, 32);
    let head = trained(&spec).head;
    let mut noise = ChaCha8Rng::seed_from_u64(11);
    let features: Vec<f32> = (0..2048).map(|_| noise.random_range(0.0..1.0)).collect();
    let tensor =
        |features: &[f32]| Tensor::<2>::from_data(TensorData::new(features.to_vec(), [1, 2048]), &Device::flex());
    let (logits, gradient) = head.forward_with_gradient(tensor(&features));
    let (logits, gradient) = (values(logits), values(gradient));
    let class = (0..3).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
    for _ in 0..8 {
        let direction: Vec<f32> = gradient.iter().map(|g| g.signum() * noise.random_range(0.0..2.0)).collect();
        let step = 1e-3;
        let moved = |by: f32| {
            let moved: Vec<f32> = features.iter().zip(&direction).map(|(feature, d)| feature + by * d).collect();
            f64::from(values(head.forward(tensor(&moved)))[class])
        };
        let measured = (moved(step) - moved(-step)) / f64::from(2.0 * step);
        let slope: f64 = gradient.iter().zip(&direction).map(|(g, d)| f64::from(g * d)).sum();
        assert!(slope > 0.0 && (measured / slope - 1.0).abs() < 0.05, "measured {measured}, by the gradient {slope}");
    }
}

#[test]
fn features_and_maps_of_the_graph_match_burns_modules() {
    for architecture in [Architecture::ResNet50, Architecture::Vgg16, Architecture::SimpleCnn] {
        // More images than one pass takes, and a side that is not a multiple of any stride.
        for (count, side) in [(1, 64), (10, 70)] {
            let spec = ModelSpec { architecture, ..spec(BlockVariant::V1, side) };
            let (network, images) = (trained(&spec), squares(count, side as usize));
            let plan = Compiled::new(&network, &spec, &Device::flex());
            let normalisation = spec.normalisation.clone();
            let body = CompiledBody::Modules { body: Box::new(network.body.clone()), normalisation, pauses: None };
            let modules = Compiled { body, head: network.head.clone(), side, device: Device::flex() };
            let [(features, maps), (expected_features, expected_maps)] =
                [plan, modules].map(|compiled| compiled.features_and_maps(&views(&images)));
            assert_eq!(maps.dims(), expected_maps.dims());
            let error = [
                relative_error(&values(features), &values(expected_features)),
                relative_error(&values(maps), &values(expected_maps)),
            ];
            assert!(error.iter().all(|error| *error < 1e-4), "{architecture:?}, {count} of {side}: {error:?}");
        }
    }
}
