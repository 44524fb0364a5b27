//! Import of ResNet-50 v1.5 with the names of torchvision and timm, from PyTorch files (zip, legacy and tar) or `.safetensors`.

use std::path::Path;

use burn::{
    store::pytorch_reader::{DType, PytorchReader, Tensor},
    tensor::{bf16, f16},
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use super::Imported;
use crate::{
    domain::{BlockVariant, Normalisation},
    nn::{
        NnError,
        file::{BodyMetadata, CLASSIFIER},
        resnet,
        tensors::{HostTensor, NamedTensors},
    },
};

/// Epsilon of batch normalisation: torchvision and timm use PyTorch's default.
const EPSILON: f64 = 1e-5;

/// Maximum number of tensors in a file. ResNet-50 has 320; a checkpoint with an optimizer has three times as many.
const MAX_TENSORS: usize = 10_000;

/// Maximum number of values in the tensors of the network. ResNet-50 has 25,557,032.
const MAX_NUMBERS: usize = 64_000_000;

/// A tensor that every ResNet-50 has; what precedes it is the prefix of all its names.
const FIRST: &str = "conv1.weight";

/// A second such tensor, because an outer module may have a `conv1` too.
const SECOND: &str = "layer1.0.conv1.weight";

/// Input normalisation of the reference training of torchvision and timm, for RGB channels.
fn normalisation() -> Normalisation {
    Normalisation { scale: 1.0 / 255.0, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] }
}

/// Reads a state dictionary, or a checkpoint that contains one, written by `torch.save`. Code in its pickle is not executed.
pub(super) fn read_pth(path: &Path) -> Result<Imported, NnError> {
    let reader = PytorchReader::new(path).map_err(|error| NnError::UnknownFormat(format!("PyTorch file: {error}")))?;
    let tensors = reader.into_tensors();
    let sizes = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.num_elements()));
    let prefix = prefix(sizes)?;
    let selected = tensors.into_iter().filter_map(|(name, tensor)| Some((canonical_name(&name, &prefix)?, tensor)));
    let tensors =
        selected.map(|(name, tensor)| Ok((name, pytorch_tensor(&tensor)?))).collect::<Result<_, NnError>>()?;
    Ok(imported(tensors, "torchvision-pth"))
}

/// Reads a safetensors file.
pub(super) fn read_safetensors(bytes: &[u8]) -> Result<Imported, NnError> {
    let unknown = |error| NnError::UnknownFormat(format!("safetensors: {error}"));
    let file = SafeTensors::deserialize(bytes).map_err(unknown)?;
    let prefix = prefix(file.iter().map(|(name, view)| (name, view.shape().iter().product())))?;
    let selected = file.iter().filter_map(|(name, view)| Some((canonical_name(name, &prefix)?, name, view)));
    let tensors = selected
        .map(|(canonical, name, view)| Ok((canonical, safetensors_tensor(name, &view)?)))
        .collect::<Result<_, NnError>>()?;
    Ok(imported(tensors, "torchvision-safetensors"))
}

/// The prefix of the names of the network, such as `state_dict.module.`: wrappers of training scripts, `DataParallel` and Lightning. Empty if
/// there is no ResNet in the file; the difference of the names is then reported by the check of the tensors.
///
/// # Errors
/// The file has several networks, or more tensors or values than a ResNet-50.
fn prefix<'a>(sizes: impl Iterator<Item = (&'a str, usize)>) -> Result<String, NnError> {
    let sizes: Vec<(&str, usize)> = sizes.collect();
    let is_named = |name: &str| sizes.iter().any(|(known, _)| *known == name);
    let prefixes = sizes.iter().filter_map(|(name, _)| name.strip_suffix(FIRST));
    let is_wrapper = |prefix: &&str| prefix.is_empty() || prefix.ends_with('.');
    let mut prefixes: Vec<&str> =
        prefixes.filter(is_wrapper).filter(|prefix| is_named(&format!("{prefix}{SECOND}"))).collect();
    prefixes.sort_unstable_by_key(|prefix| prefix.len());
    let prefix = match prefixes.as_slice() {
        [] => "",
        [prefix] => prefix,
        several => {
            return Err(NnError::UnknownFormat(format!(
                "the file has several networks, with the prefixes {}: save only one of them",
                several.iter().map(|prefix| format!("{prefix:?}")).collect::<Vec<_>>().join(", ")
            )));
        }
    };
    // Tensors of a PyTorch file may be views of a small shared storage, so the size of the file does not bound their size.
    let selected = sizes.iter().filter(|(name, _)| name.starts_with(prefix));
    let numbers = selected.map(|(_, size)| size).try_fold(0_usize, |sum, size| sum.checked_add(*size));
    if sizes.len() > MAX_TENSORS || numbers.is_none_or(|numbers| numbers > MAX_NUMBERS) {
        return Err(NnError::UnknownFormat("the file has more tensors or values than ResNet-50".into()));
    }
    Ok(prefix.to_owned())
}

/// The name of a tensor without `prefix`; none for other tensors, and for the batch counters of batch normalisation, which are integers.
fn canonical_name(name: &str, prefix: &str) -> Option<String> {
    let name = name.strip_prefix(prefix)?;
    (!name.ends_with("num_batches_tracked")).then(|| name.to_owned())
}

fn pytorch_tensor(tensor: &Tensor) -> Result<HostTensor, NnError> {
    let (dtype, count) = (tensor.dtype(), tensor.num_elements());
    let decode = match dtype {
        DType::F16 => decode_f16,
        DType::BF16 => decode_bf16,
        DType::F32 => decode_f32,
        DType::F64 => decode_f64,
        _ => return Err(wrong_type(&tensor.name, &dtype)),
    };
    // An empty tensor could claim arbitrarily large other dimensions.
    if count == 0 {
        return Err(NnError::tensor(&tensor.name, "is empty"));
    }
    // Files of a machine with another byte order are refused by the reader.
    let bytes = tensor.read().map_err(|error| NnError::UnknownFormat(format!("PyTorch file: {error}")))?;
    Ok(HostTensor { shape: tensor.shape().to_vec(), values: decode(&bytes) })
}

fn safetensors_tensor(name: &str, view: &TensorView<'_>) -> Result<HostTensor, NnError> {
    let decode = match view.dtype() {
        Dtype::F16 => decode_f16,
        Dtype::BF16 => decode_bf16,
        Dtype::F32 => decode_f32,
        Dtype::F64 => decode_f64,
        other => return Err(wrong_type(name, &other)),
    };
    if view.data().is_empty() {
        return Err(NnError::tensor(name, "is empty"));
    }
    Ok(HostTensor { shape: view.shape().to_vec(), values: decode(view.data()) })
}

fn wrong_type(name: &str, found: &dyn std::fmt::Debug) -> NnError {
    NnError::tensor(name, format!("holds {found:?}, not F16, BF16, F32 or F64"))
}

fn decode_f16(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<2>().0.iter().map(|&bytes| f16::from_le_bytes(bytes).to_f32()).collect()
}

fn decode_bf16(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<2>().0.iter().map(|&bytes| bf16::from_le_bytes(bytes).to_f32()).collect()
}

fn decode_f32(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

fn decode_f64(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<8>().0.iter().map(|&bytes| f64::from_le_bytes(bytes) as f32).collect()
}

fn imported(mut tensors: NamedTensors, origin: &'static str) -> Imported {
    keep_linear_classifier(&mut tensors);
    add_zero_biases(&mut tensors);
    let metadata = BodyMetadata {
        variant: BlockVariant::V1_5,
        normalisation: normalisation(),
        epsilon: EPSILON,
        origin: origin.into(),
    };
    Imported { metadata, tensors, origin }
}

/// Removes a classifier that is not one linear layer, such as the projection head of a self-supervised network. It is not needed.
fn keep_linear_classifier(tensors: &mut NamedTensors) {
    let (weight, bias) = (format!("{CLASSIFIER}weight"), format!("{CLASSIFIER}bias"));
    let shape = |name: &str| tensors.get(name).map(|tensor| tensor.shape.clone());
    let classes = match shape(&weight).as_deref() {
        Some(&[classes, resnet::FEATURES]) => Some(classes),
        _ => None,
    };
    let is_linear = classes.is_some() && shape(&bias) == classes.map(|classes| vec![classes]);
    tensors.retain(|name, _| !name.starts_with(CLASSIFIER) || is_linear && (*name == weight || *name == bias));
}

/// Adds biases of zero to the convolutions: torchvision's have none, this network's have.
fn add_zero_biases(tensors: &mut NamedTensors) {
    let convolutions = tensors.iter().filter(|(_, tensor)| tensor.shape.len() == 4);
    let bias = |(name, tensor): (&String, &HostTensor)| {
        let channels = tensor.shape[0];
        let name = format!("{}bias", name.strip_suffix("weight")?);
        Some((name, HostTensor { shape: vec![channels], values: vec![0.0; channels] }))
    };
    let biases: Vec<_> = convolutions.filter_map(bias).collect();
    for (name, zeros) in biases {
        tensors.entry(name).or_insert(zeros);
    }
}
