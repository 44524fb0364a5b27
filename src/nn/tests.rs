//! Tests of the public surface of the module: files, seeds, heads, input and devices.

use burn::tensor::{Device, Tensor};
use safetensors::SafeTensors;

use super::{
    DeviceChoice, Input, Network, NnError, Precision, import_weights, is_synthetic, marked_synthetic, parameter_count,
};
use crate::domain::{Architecture, BlockVariant, ClassList, ModelSpec, Normalisation, Scope};

pub(super) fn spec(architecture: Architecture) -> ModelSpec {
    ModelSpec {
        architecture,
        block_variant: BlockVariant::V1_5,
        classes: ClassList::default(),
        image_size: 32,
        normalisation: Normalisation { scale: 1.0 / 255.0, mean: [0.5; 3], std: [0.25; 3] },
        dropout: 0.5,
    }
}

fn simple(seed: u64) -> Network {
    Network::random(&spec(Architecture::SimpleCnn), seed, &Device::flex())
}

/// Two different images of a pseudo-random pattern.
fn noise() -> Input {
    let image: Vec<u8> = (0..32 * 32_u32).map(|i| (i * 37 % 251) as u8).collect();
    let negative: Vec<u8> = image.iter().map(|grey| 255 - grey).collect();
    let normalisation = spec(Architecture::SimpleCnn).normalisation;
    Input::new(&[&image, &negative], 32, &normalisation, &Device::flex())
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
}

#[test]
fn a_model_file_round_trips_bit_for_bit() {
    for architecture in [Architecture::SimpleCnn, Architecture::Vgg16, Architecture::ResNet50] {
        let spec = spec(architecture);
        let network = Network::random(&spec, 7, &Device::flex());
        let file = network.to_bytes(&spec);
        let (read, read_spec) = Network::from_bytes(&file, &Device::flex()).unwrap();
        assert_eq!(read_spec, spec);
        assert!(read.to_bytes(&spec) == file, "{architecture:?}: the file changed");
        assert_eq!(values(network.forward(&noise())), values(read.forward(&noise())));
    }
}

#[test]
fn random_weights_depend_on_the_seed() {
    let file = |seed| simple(seed).to_bytes(&spec(Architecture::SimpleCnn));
    assert!(file(1) == file(1));
    assert!(file(1) != file(2));
}

#[test]
fn parameter_count_of_a_network() {
    let body = 3 * 32 * 9 + 32 + 32 * 32 * 9 + 32 + 32 * 64 * 9 + 64;
    let head = 64 * 49 * 128 + 128 + 128 * 3 + 3;
    assert_eq!(simple(1).parameter_count(), body + head);
}

#[test]
fn vgg16_has_the_names_and_shapes_of_torchvision() {
    let spec = spec(Architecture::Vgg16);
    let network = Network::random(&spec, 1, &Device::flex());
    let file = network.to_bytes(&spec);
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let mut inputs = 3;
    let numbers = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28];
    for (number, outputs) in numbers.into_iter().zip([64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]) {
        let shape = |part| tensors.tensor(&format!("body.features.{number}.{part}")).unwrap().shape().to_vec();
        assert_eq!((shape("weight"), shape("bias")), (vec![outputs, inputs, 3, 3], vec![outputs]));
        inputs = outputs;
    }
    // Batch normalisation has scale, shift and two running statistics.
    let head = 4 * 512 + 512 * 256 + 256 + 256 * 128 + 128 + 128 * 64 + 64 + 64 * 32 + 32 + 32 * 3 + 3;
    assert_eq!(network.parameter_count(), 14_714_688 + head);
}

#[test]
fn parameter_count_of_a_model_file_excludes_running_statistics() {
    let folder = tempfile::tempdir().unwrap();
    let count = |architecture| {
        let (path, spec) = (folder.path().join("model"), spec(architecture));
        std::fs::write(&path, Network::random(&spec, 1, &Device::flex()).to_bytes(&spec)).unwrap();
        parameter_count(&path).unwrap()
    };
    assert_eq!(count(Architecture::SimpleCnn), simple(1).parameter_count() as u64);
    // Keras' summary of its ResNet50 without the classifier: 23,587,712, of which 53,120 do not train.
    let body = 23_587_712 - 53_120;
    let head: u64 = [2048, 256, 128, 64, 32, 3].windows(2).map(|pair| pair[0] * pair[1] + pair[1]).sum();
    assert_eq!(count(Architecture::ResNet50), body + head + 2 * 2048);
    std::fs::write(folder.path().join("model"), b"not a model, but long enough").unwrap();
    assert!(matches!(parameter_count(&folder.path().join("model")), Err(NnError::UnknownFormat(_))));
}

#[test]
fn the_mark_of_phantoms_is_in_the_metadata_of_the_file_and_changes_no_tensor() {
    let spec = spec(Architecture::SimpleCnn);
    let file = simple(1).to_bytes(&spec);
    assert!(!is_synthetic(&file).unwrap());
    let marked = marked_synthetic(&file).unwrap();
    assert!(is_synthetic(&marked).unwrap());
    assert_eq!(marked_synthetic(&marked).unwrap(), marked);
    let (network, marked_spec) = Network::from_bytes(&marked, &Device::flex()).unwrap();
    assert_eq!(marked_spec, spec);
    assert_eq!(network.to_bytes(&spec), file, "written again, which does not keep the mark");
    assert!(is_synthetic(b"not a model").is_err() && marked_synthetic(b"not a model").is_err());
}

#[test]
fn the_head_has_the_documented_widths() {
    let spec = spec(Architecture::ResNet50);
    let file = Network::random(&spec, 1, &Device::flex()).to_bytes(&spec);
    let tensors = SafeTensors::deserialize(&file).unwrap();
    let shape = |name: &str| tensors.tensor(name).unwrap().shape().to_vec();
    let widths = [2048, 256, 128, 64, 32, 3];
    for (index, pair) in widths.windows(2).enumerate() {
        assert_eq!(shape(&format!("head.linear.{index}.weight")), [pair[1], pair[0]]);
    }
    assert!(tensors.tensor("head.linear.5.weight").is_err());
    assert_eq!(shape("head.norm.running_mean"), [2048]);
}

#[test]
fn a_truncated_or_foreign_model_file_is_refused() {
    let file = simple(1).to_bytes(&spec(Architecture::SimpleCnn));
    for cut in [0, 7, 8, 100, file.len() / 2, file.len() - 1] {
        let error = Network::from_bytes(&file[..cut], &Device::flex()).err();
        assert!(matches!(error, Some(NnError::UnknownFormat(_))), "{cut} bytes: {error:?}");
    }
    assert!(Network::from_bytes(b"not a model at all", &Device::flex()).is_err());
}

#[test]
fn a_model_file_must_have_exactly_the_tensors_of_the_network() {
    let whole = spec(Architecture::SimpleCnn);
    let file = simple(1).to_bytes(&whole);
    for (before, after, complaint) in [
        ("body.conv.0.weight", "body.conv.7.weight", "is missing"),
        ("head.linear.0.bias", "tail.linear.0.bias", "no such tensor"),
        ("[32,3,3,3]", "[3,32,3,3]", "has shape [3, 32, 3, 3], the network needs [32, 3, 3, 3]"),
        (r#"\"dropout\":0.5"#, r#"\"dropout\":1.5"#, "dropout"),
        (r#"\"dropout\":0.5"#, r#"\"drapout\":0.5"#, "missing field"),
        (r#"\"image_size\":32"#, r#"\"image_size\":7"#, "image size"), // no pixel is left after three poolings
        (r#"\"image_size\":32"#, r#"\"image_size\":4000000000"#, "image size"),
    ] {
        let error = Network::from_bytes(&replaced(&file, before, after), &Device::flex()).unwrap_err().to_string();
        assert!(error.contains(complaint), "{after}: {error}");
    }
}

#[test]
fn dropout_is_active_only_in_training_and_depends_on_its_seed() {
    let features = || Tensor::<2>::ones([2, 64 * 49], &Device::flex());
    let network = simple(1);
    assert_eq!(values(network.classify(features())), values(network.classify(features())));
    let training = network.for_step(Scope::Head);
    let logits = |seed: Option<u64>| {
        seed.into_iter().for_each(|seed| training.seed_dropout(seed));
        values(training.classify(features().autodiff()))
    };
    let first = logits(Some(5));
    assert_ne!(first, logits(None));
    assert_eq!(first, logits(Some(5)));
}

#[test]
fn grey_levels_are_normalised_by_channel() {
    let normalisation = Normalisation { scale: 1.0, mean: [100.0, 110.0, 120.0], std: [1.0, 2.0, 4.0] };
    let input = Input::new(&[&[100, 120, 140, 160]], 2, &normalisation, &Device::flex());
    assert_eq!(input.channels().dims(), [1, 3, 2, 2]);
    let expected = [0.0, 20.0, 40.0, 60.0, -5.0, 5.0, 15.0, 25.0, -5.0, 0.0, 5.0, 10.0];
    assert_eq!(values(input.channels()), expected);
}

#[test]
fn device_names_are_parsed() {
    let parsed = |text: &str| text.parse::<DeviceChoice>().ok();
    assert_eq!(parsed("auto"), Some(DeviceChoice::Auto));
    assert_eq!(parsed("cpu"), Some(DeviceChoice::Cpu));
    for precision in [Precision::F32, Precision::Bf16x3, Precision::Bf16] {
        assert_eq!(parsed(&format!("cpu:{}", precision.name())), Some(DeviceChoice::CpuWith(precision)));
    }
    assert_eq!(parsed("vulkan"), Some(DeviceChoice::Vulkan(0)));
    assert_eq!(parsed("vulkan:3"), Some(DeviceChoice::Vulkan(3)));
    for text in ["auto", "cpu", "cpu:f32", "vulkan:3"] {
        assert_eq!(text.parse::<DeviceChoice>().unwrap().to_string(), text);
    }
    for wrong in ["", "CPU", "cuda", "vulkan:", "vulkan:x", "vulkan:-1", "cpu:", "cpu:f16", "gpu:f32"] {
        assert_eq!(parsed(wrong), None, "{wrong:?}");
    }
}

#[test]
fn a_missing_vulkan_adapter_is_an_error() {
    let error = DeviceChoice::Vulkan(99).open(None).unwrap_err().to_string();
    assert!(error.contains("vulkan:99"), "{error}");
}

#[test]
fn files_that_are_not_weights_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("weights");
    for (bytes, complaint) in [
        (b"".as_slice(), "neither"),
        (b"plain text, not weights", "neither"),
        (b"\x1f\x8b broken gzip", ""),
        (b"PK\x03\x04 broken zip", "PyTorch"),
        (b"\x10\0\0\0\0\0\0\0{ broken", "safetensors"),
    ] {
        std::fs::write(&file, bytes).unwrap();
        let error = import_weights(&file).err().unwrap().to_string();
        assert!(error.contains(complaint), "{bytes:?}: {error}");
    }
}

/// The safetensors file with the first occurrence of `before` in its header replaced.
fn replaced(file: &[u8], before: &str, after: &str) -> Vec<u8> {
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header = std::str::from_utf8(&file[8..8 + length]).unwrap();
    assert!(header.contains(before), "{before} is not in {header}");
    let header = header.replacen(before, after, 1);
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &file[8 + length..]].concat()
}

#[test]
fn an_empty_tensor_with_huge_dimensions_is_refused_before_allocation() {
    let header = br#"{"conv1.weight":{"dtype":"F32","shape":[1099511627776,0,1,1],"data_offsets":[0,0]}}"#;
    let safetensors = [&(header.len() as u64).to_le_bytes()[..], header].concat();
    let model = serde_json::json!({
        "modelTopology": { "model_config": { "config": { "layers": [
            { "class_name": "BatchNormalization", "config": { "epsilon": 1e-3 } },
            { "config": { "name": "res3a_branch2a", "strides": [2, 2] } },
            { "config": { "name": "res3a_branch2b", "strides": [1, 1] } },
        ] } } },
        "weightsManifest": [{ "paths": [], "weights": [
            { "name": "conv1/kernel", "shape": [0, 1_u64 << 40, 1_u64 << 40, 1], "dtype": "float32" },
        ] }],
    });
    let model = model.to_string();
    let mut package = tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    let mut entry = tar::Header::new_gnu();
    entry.set_size(model.len() as u64);
    package.append_data(&mut entry, "package/model.json", model.as_bytes()).unwrap();
    let package = package.into_inner().and_then(flate2::write::GzEncoder::finish).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in [("weights.safetensors", safetensors), ("package.tgz", package)] {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = import_weights(&path).err().unwrap().to_string();
        assert!(error.contains("is empty"), "{name}: {error}");
    }
}
