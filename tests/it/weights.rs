//! Imported weights compared with independent implementations: the same three inputs give the same logits.
//!
//! The numbers of the TensorFlow.js package are TensorFlow 2.21.0's on a CPU: the package's own `model.json` read layer by layer and carried out with
//! `tf.nn` (convolution, `(x - mean) / sqrt(variance + epsilon) * gamma + beta`, pooling, dense) in 32-bit floats, without the
//! softmax at the end. The inputs are grey levels from integer formulas, the same in all three channels, less Keras' BGR means.
//!
//! Those of the torchvision names are PyTorch 2.15.0's, with torchvision 0.29.2's `resnet50` in 64-bit floats on a CPU, its state
//! dictionary filled by the formula in [`generated_tensor`] and its inputs normalised as torchvision does. They prove names, layout and stride
//! of `resnet50-v1.5` without a file of 100 MB.

use std::collections::BTreeMap;

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use thorax::{
    domain::{Architecture, BlockVariant, ClassList, ModelSpec},
    nn::{DeviceChoice, Input, Network, body_spec, import_weights},
};

use crate::{
    fixtures::imagenet_weights,
    support::{MAX_UPLOAD_BYTES, Part, Server, multipart},
};

const SIDE: i32 = 224;

/// Largest difference from the reference, as a share of its largest logit.
const TOLERANCE: f32 = 1e-3;

/// Indices of the logits that are compared one by one.
const PICKED: [usize; 8] = [0, 1, 207, 404, 500, 640, 818, 999];

/// A formula of grey levels, and the logits of the reference implementation.
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

/// Logits of PyTorch for the same grey levels with the generated weights.
const TORCHVISION: [Reference; 3] = [
    Reference {
        grey: REFERENCES[0].grey,
        top: (317, 4.848_167_6),
        norm: 66.014_47,
        picked: [-1.966_48, -0.689_157, -2.625_807, 0.289_293, -1.986_492, 3.635_008, -1.337_101, -2.289_974],
    },
    Reference {
        grey: REFERENCES[1].grey,
        top: (317, 4.375_379),
        norm: 61.677_386,
        picked: [-1.846_621, -0.908_95, -2.639_634, 0.517_162, -2.097_351, 3.345_233, -1.147_145, -2.312_068],
    },
    Reference {
        grey: REFERENCES[2].grey,
        top: (317, 3.944_117_5),
        norm: 58.638_626,
        picked: [-1.750_562, -1.118_988, -2.666_634, 0.733_847, -2.229_587, 3.077_793, -0.975_237, -2.338_959],
    },
];

#[test]
fn torchvision_weights_give_the_logits_of_pytorch() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("resnet50.safetensors");
    std::fs::write(&path, torchvision()).unwrap();
    let weights = import_weights(&path).unwrap();
    assert_eq!((weights.variant, weights.origin), (BlockVariant::V1_5, "torchvision-safetensors"));
    let (before, after) = (r#""variant":"resnet50-v1.5""#, r#""variant":"resnet50""#);
    let other = with_metadata(&weights.bytes, before, after);
    for reference in &TORCHVISION {
        let error = difference(reference, &logits(&weights.bytes, reference));
        println!("norm {}: largest relative error {error:e}", reference.norm);
        assert!(error <= TOLERANCE, "norm {}: {error}", reference.norm);
        let error = difference(reference, &logits(&other, reference));
        assert!(error > TOLERANCE, "norm {}: the other stride would not be seen: {error}", reference.norm);
    }
}

#[test]
fn tensorflow_js_weights_give_the_logits_of_tensorflow() {
    let Some(package) = imagenet_weights() else { return };
    let weights = import_weights(&package).unwrap();
    assert_eq!((weights.variant, weights.origin), (BlockVariant::V1, "keras-tfjs"));
    for reference in &REFERENCES {
        let error = difference(reference, &logits(&weights.bytes, reference));
        println!("class {}: largest relative error {error:e}", reference.top.0);
        assert!(error <= TOLERANCE, "class {}: {error}", reference.top.0);
    }
}

/// Shows that the test above detects a stride in the wrong place.
#[test]
fn the_other_block_variant_gives_different_logits() {
    let Some(package) = imagenet_weights() else { return };
    let weights = import_weights(&package).unwrap();
    let (before, after) = (r#""variant":"resnet50""#, r#""variant":"resnet50-v1.5""#);
    let other = with_metadata(&weights.bytes, before, after);
    for reference in &REFERENCES {
        let error = difference(reference, &logits(&other, reference));
        assert!(error > 100.0 * TOLERANCE, "class {}: {error}", reference.top.0);
    }
}

/// The same tensors as training scripts save them: each import has the same body as the plain file.
#[test]
fn wrapped_half_precision_and_legacy_files_give_the_same_body() {
    let folder = tempfile::tempdir().unwrap();
    let import = |name: &str, bytes: Vec<u8>| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        import_weights(&path).map(|weights| weights.bytes).map_err(|error| error.to_string())
    };
    let all = torchvision_tensors();
    let plain = import("plain.safetensors", torchvision()).unwrap();
    let body = |file: &[u8]| -> BTreeMap<String, Vec<f32>> {
        let names = torchvision_shapes().into_keys().filter(|name| !name.starts_with("fc."));
        names.map(|name| (name.clone(), tensor(file, &name))).collect()
    };
    let expected = body(&plain);

    // DataParallel, Lightning, and other prefixes; another number of classes; a head that is not linear.
    for prefix in ["module.", "state_dict.module.", "model.backbone."] {
        let file = safetensors_file(&all, |name| format!("{prefix}{name}"), Dtype::F32);
        assert_eq!(body(&import("wrapped.safetensors", file).unwrap()), expected, "{prefix}");
    }
    let mut three: Vec<Named> = all.iter().filter(|(name, ..)| !name.starts_with("fc.")).cloned().collect();
    let without = import("without.safetensors", safetensors_file(&three, str::to_owned, Dtype::F32)).unwrap();
    assert_eq!(body(&without), expected);
    three.push(("fc.weight".into(), vec![3, 2048], vec![0.5; 3 * 2048]));
    three.push(("fc.bias".into(), vec![3], vec![0.5; 3]));
    let with_three = import("three.safetensors", safetensors_file(&three, str::to_owned, Dtype::F32)).unwrap();
    assert_eq!((body(&with_three), tensor(&with_three, "fc.bias")), (expected.clone(), vec![0.5; 3]));
    three.iter_mut().for_each(|(name, ..)| *name = name.replace("fc.", "fc.2."));
    assert_eq!(
        body(&import("mlp.safetensors", safetensors_file(&three, str::to_owned, Dtype::F32)).unwrap()),
        expected
    );

    for (dtype, tolerance) in [(Dtype::F16, 1e-3), (Dtype::BF16, 8e-3), (Dtype::F64, 0.0)] {
        let file = import("half.safetensors", safetensors_file(&all, str::to_owned, dtype)).unwrap();
        for (name, values) in body(&file) {
            let close = |(found, exact): (&f32, &f32)| (found - exact).abs() <= tolerance * exact.abs().max(1e-4);
            assert!(values.iter().zip(&expected[&name]).all(close), "{dtype:?} {name}");
        }
    }

    // torch.save before version 1.6, and with _use_new_zipfile_serialization=False; a checkpoint with a state_dict of DataParallel.
    assert_eq!(body(&import("legacy.pth", legacy_pth(&all, "")).unwrap()), expected);
    assert_eq!(body(&import("checkpoint.pth.tar", legacy_pth(&all, "module.")).unwrap()), expected);
}

#[test]
fn weights_of_another_network_are_refused_with_the_difference() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.safetensors");
    let mut all = torchvision_tensors();
    // A network without its last stage, with twelve unexpected tensors, and another kernel size in the stem.
    all.retain(|(name, ..)| !name.starts_with("layer4."));
    all.extend((10..22).map(|i| (format!("extra{i}.weight"), vec![1], vec![0.0])));
    let stem = all.iter_mut().find(|(name, ..)| name == "conv1.weight").unwrap();
    (stem.1, stem.2) = (vec![64, 3, 3, 3], vec![0.0; 64 * 27]);
    std::fs::write(&path, safetensors_file(&all, str::to_owned, Dtype::F32)).unwrap();
    let error = import_weights(&path).err().unwrap().to_string();
    let extras = (10..20).map(|i| format!("extra{i}.weight")).collect::<Vec<_>>().join(", ");
    assert!(error.starts_with("the tensors are not those of ResNet-50: 60 missing (layer4.0.bn1.bias, "), "{error}");
    assert!(error.contains(&format!("12 unexpected ({extras}, …)")), "{error}");
    assert!(error.contains("1 of another shape (conv1.weight [64, 3, 3, 3] instead of [64, 3, 7, 7])"), "{error}");
}

#[tokio::test]
async fn weights_are_uploaded_as_a_body_or_as_a_part_of_a_form() {
    let server = Server::start().await;
    const PATH: &str = "/v1/admin/weights";
    let file = torchvision();
    let (content_type, form) = multipart(&[Part::File("resnet50.safetensors", &file)]);
    // Larger than the limit of other forms.
    assert!(form.len() > MAX_UPLOAD_BYTES);
    let created = server.request("POST", PATH, &content_type, form).await;
    assert_eq!((created.status, created.text("/origin")), (201, "torchvision-safetensors".into()), "{created:?}");
    let body = server.request("POST", PATH, "application/octet-stream", file).await;
    assert_eq!(body.at("/sha256"), created.at("/sha256"));
    let (content_type, form) = multipart(&[Part::File("a.txt", b"plain text, not weights")]);
    let refused = server.request("POST", PATH, &content_type, form).await;
    refused.assert_problem(422, PATH);
    assert!(refused.text("/detail").contains("neither"), "{refused:?}");
    for part in [&[Part::Text("weights", "x")][..], &[]] {
        let (content_type, form) = multipart(part);
        let refused = server.request("POST", PATH, &content_type, form).await;
        refused.assert_problem(422, PATH);
        assert_eq!(refused.pointers(), [if part.is_empty() { "/file" } else { "/weights" }]);
    }
}

/// Name, shape and values of a tensor.
type Named = (String, Vec<usize>, Vec<f32>);

fn torchvision_tensors() -> Vec<Named> {
    let shapes = torchvision_shapes();
    let values = |t: usize, name: &str, shape: &[usize]| {
        generated_tensor(t, name, shape).as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
    };
    shapes
        .into_iter()
        .enumerate()
        .map(|(t, (name, shape))| (name.clone(), shape.clone(), values(t, &name, &shape)))
        .collect()
}

fn safetensors_file(tensors: &[Named], rename: impl Fn(&str) -> String, dtype: Dtype) -> Vec<u8> {
    let encode = |values: &[f32]| -> Vec<u8> {
        match dtype {
            Dtype::F16 => values.iter().flat_map(|value| burn::tensor::f16::from_f32(*value).to_le_bytes()).collect(),
            Dtype::BF16 => values.iter().flat_map(|value| burn::tensor::bf16::from_f32(*value).to_le_bytes()).collect(),
            Dtype::F64 => values.iter().flat_map(|value| f64::from(*value).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        }
    };
    let bytes: Vec<_> = tensors.iter().map(|(name, shape, values)| (rename(name), shape, encode(values))).collect();
    let view = |shape: &Vec<usize>, bytes| TensorView::new(dtype, shape.clone(), bytes).unwrap();
    safetensors::serialize(bytes.iter().map(|(name, shape, bytes)| (name, view(shape, bytes))), None).unwrap()
}

/// A file as `torch.save(..., _use_new_zipfile_serialization=False)` writes it: pickles of the magic number, the protocol version, the system,
/// the object and the keys of its storages, then the storages. All tensors are views of one storage. With a prefix, the object is a
/// checkpoint `{"state_dict": …, "epoch": 3}`.
fn legacy_pth(tensors: &[Named], prefix: &str) -> Vec<u8> {
    let text = |text: &str| [b"X".as_slice(), &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
    let int = |number: usize| [b"J".as_slice(), &(number as i32).to_le_bytes()].concat();
    let tuple = |items: &[Vec<u8>]| [b"(".as_slice(), &items.concat(), b"t"].concat();
    let global = |name: &str| format!("c{}\n", name.replace(' ', "\n")).into_bytes();
    let pickle = |object: &[u8]| [b"\x80\x02", object, b"."].concat();
    let numbers: usize = tensors.iter().map(|(_, _, values)| values.len()).sum();
    let storage = [text("storage"), global("torch FloatStorage"), text("0"), text("cpu"), int(numbers), b"N".to_vec()];
    let storage = [tuple(&storage), b"Q".to_vec()].concat();
    let mut offset = 0;
    let mut items = Vec::new();
    for (name, shape, values) in tensors {
        let strides = (0..shape.len()).map(|axis| int(shape[axis + 1..].iter().product())).collect::<Vec<_>>();
        let sides: Vec<_> = shape.iter().map(|side| int(*side)).collect();
        let hooks = [global("collections OrderedDict"), b")R".to_vec()].concat();
        let arguments = [storage.clone(), int(offset), tuple(&sides), tuple(&strides), b"\x89".to_vec(), hooks];
        let rebuilt = [global("torch._utils _rebuild_tensor_v2"), tuple(&arguments), b"R".to_vec()].concat();
        items.extend([text(&format!("{prefix}{name}")), rebuilt].concat());
        offset += values.len();
    }
    let dictionary = |items: &[u8]| [b"}(".as_slice(), items, b"u"].concat();
    let state = dictionary(&items);
    let object = if prefix.is_empty() {
        state
    } else {
        dictionary(&[text("state_dict"), state, text("epoch"), int(3)].concat())
    };
    let magic = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
    let system = dictionary(&[text("protocol_version"), int(1001), text("little_endian"), b"\x88".to_vec()].concat());
    let keys = [b"](".as_slice(), &text("0"), b"e"].concat();
    let data = tensors.iter().flat_map(|(_, _, values)| values).flat_map(|value| value.to_le_bytes()).collect();
    [
        pickle(magic),
        pickle(&int(1001)),
        pickle(&system),
        pickle(&object),
        pickle(&keys),
        (numbers as u64).to_le_bytes().to_vec(),
        data,
    ]
    .concat()
}

/// Maximum error over the selected logits, the highest one and the norm; infinite if another class has the highest logit.
fn difference(reference: &Reference, logits: &[f32]) -> f32 {
    let (class, top) = reference.top;
    let highest = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
    let norm = logits.iter().map(|logit| logit * logit).sum::<f32>().sqrt();
    let errors = PICKED.iter().zip(reference.picked).map(|(&at, expected)| (logits[at] - expected).abs() / top);
    let worst = errors.chain([(logits[class] - top).abs() / top, (norm / reference.norm - 1.0).abs()]);
    if highest == class { worst.fold(0.0, f32::max) } else { f32::INFINITY }
}

/// The 1000 ImageNet logits, from the features of the body and the classifier that the body file keeps.
fn logits(body: &[u8], reference: &Reference) -> Vec<f32> {
    let (device, _) = DeviceChoice::Cpu.open(None).unwrap();
    let (block_variant, normalisation) = body_spec(body).unwrap();
    let input = Input::new(&[&grey(reference)], SIDE as u32, &normalisation, &device);
    let spec = ModelSpec {
        architecture: Architecture::ResNet50,
        block_variant,
        classes: ClassList::default(),
        image_size: SIDE as u32,
        normalisation,
        dropout: 0.0,
    };
    let network = Network::pretrained(&spec, body, 1, &device).unwrap();
    let features = network.features(&input).into_data().try_to_vec::<f32>().unwrap();
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

/// The same safetensors file with a changed word in its metadata, which is JSON within JSON.
fn with_metadata(file: &[u8], before: &str, after: &str) -> Vec<u8> {
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header = std::str::from_utf8(&file[8..8 + length]).unwrap();
    let quoted = |text: &str| text.replace('"', "\\\"");
    assert!(header.contains(&quoted(before)), "{}", &header[..300]);
    let header = header.replace(&quoted(before), &quoted(after));
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &file[8 + length..]].concat()
}

/// A state dictionary with torchvision's names, counters included.
fn torchvision() -> Vec<u8> {
    let shapes = torchvision_shapes();
    assert_eq!(shapes.len(), 267);
    let values = shapes
        .iter()
        .enumerate()
        .map(|(t, (name, shape))| (name, Dtype::F32, shape.clone(), generated_tensor(t, name, shape)));
    let counter = String::from("bn1.num_batches_tracked");
    let counters = [(&counter, Dtype::I64, Vec::new(), 7_i64.to_le_bytes().to_vec())];
    let all: Vec<_> = values.chain(counters).collect();
    let view = |dtype, shape: &Vec<usize>, bytes| TensorView::new(dtype, shape.clone(), bytes).unwrap();
    safetensors::serialize(all.iter().map(|(name, dtype, shape, bytes)| (name, view(*dtype, shape, bytes))), None)
        .unwrap()
}

/// Number `i` of tensor `t` (by sorted name): `u = ((i + 7919 t) 2654435761 mod 2^32 >> 8) / 2^24 - 0.5`, scaled by kind.
fn generated_tensor(t: usize, name: &str, shape: &[usize]) -> Vec<u8> {
    let (offset, scale) = match (shape, name.rsplit('.').next()) {
        (&[_, input, height, width], _) => (0.0, (24.0 / (input * height * width) as f64).sqrt() as f32),
        ([_, _], _) => (0.0, 0.1),
        (_, Some("running_var")) => (1.0, 1.0),
        (_, Some("weight")) => (0.6, 0.5),
        _ => (0.0, 0.2),
    };
    let unit = |i: usize| {
        let hash = ((i + 7919 * t) as u64).wrapping_mul(2_654_435_761) % (1 << 32);
        (hash >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..shape.iter().product()).flat_map(|i| (offset + unit(i) * scale).to_le_bytes()).collect()
}

fn torchvision_shapes() -> BTreeMap<String, Vec<usize>> {
    let mut shapes = BTreeMap::from([("fc.weight".into(), vec![1000, 2048]), ("fc.bias".into(), vec![1000])]);
    let mut layer = |conv: String, norm: String, shape: [usize; 4]| {
        for kind in ["weight", "bias", "running_mean", "running_var"] {
            shapes.insert(format!("{norm}.{kind}"), vec![shape[0]]);
        }
        shapes.insert(format!("{conv}.weight"), shape.to_vec());
    };
    layer("conv1".into(), "bn1".into(), [64, 3, 7, 7]);
    let mut input = 64;
    for (stage, (blocks, middle)) in [(3, 64), (4, 128), (6, 256), (3, 512)].into_iter().enumerate() {
        for block in 0..blocks {
            let at = format!("layer{}.{block}", stage + 1);
            let sides = [[middle, input, 1, 1], [middle, middle, 3, 3], [4 * middle, middle, 1, 1]];
            for (shape, number) in sides.into_iter().zip(1..) {
                layer(format!("{at}.conv{number}"), format!("{at}.bn{number}"), shape);
            }
            if block == 0 {
                layer(format!("{at}.downsample.0"), format!("{at}.downsample.1"), [4 * middle, input, 1, 1]);
            }
            input = 4 * middle;
        }
    }
    shapes
}
