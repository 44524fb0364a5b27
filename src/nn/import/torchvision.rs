//! Import of torchvision's ResNet-50 (v1.5) from `.pth` (zip) or `.safetensors`.

use std::path::Path;

use burn::store::pytorch_reader::{DType, PytorchReader, Tensor};

use super::Imported;
use crate::{
    domain::{BlockVariant, Normalisation},
    nn::{
        NnError,
        file::{self, BodyMetadata},
        tensors::{HostTensor, NamedTensors},
    },
};

/// Epsilon of batch normalisation: torchvision uses PyTorch's default.
const EPSILON: f64 = 1e-5;

/// Maximum number of tensors and of values in a file. ResNet-50 has 320 tensors with 25,557,032 values.
const MAX_TENSORS: usize = 1_000;
const MAX_NUMBERS: usize = 64_000_000;

/// Input normalisation of torchvision's reference training, for RGB channels.
fn normalisation() -> Normalisation {
    Normalisation { scale: 1.0 / 255.0, mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225] }
}

/// Reads a state dictionary written by `torch.save`. Code in its pickle is not executed.
pub(super) fn read_pth(path: &Path) -> Result<Imported, NnError> {
    let reader = PytorchReader::new(path).map_err(|error| NnError::UnknownFormat(format!("PyTorch file: {error}")))?;
    let tensors = reader.into_tensors();
    // Tensors may be views of a small shared storage, so the size of the file does not bound their size.
    let numbers = tensors.values().try_fold(0_usize, |sum, tensor| sum.checked_add(tensor.num_elements()));
    if tensors.len() > MAX_TENSORS || numbers.is_none_or(|numbers| numbers > MAX_NUMBERS) {
        return Err(NnError::UnknownFormat("PyTorch file: more tensors or values than ResNet-50 has".into()));
    }
    let selected = tensors.into_iter().filter(|(name, _)| !is_counter(name));
    let tensors = selected.map(|(name, tensor)| Ok((name, host_tensor(&tensor)?))).collect::<Result<_, NnError>>()?;
    Ok(imported(tensors, "torchvision-pth"))
}

/// Reads a safetensors file with torchvision's names.
pub(super) fn read_safetensors(bytes: &[u8]) -> Result<Imported, NnError> {
    Ok(imported(file::read_tensors(bytes, is_counter)?, "torchvision-safetensors"))
}

/// The batch counter of batch normalisation, an integer that is not used here.
fn is_counter(name: &str) -> bool {
    name.ends_with(".num_batches_tracked")
}

fn host_tensor(tensor: &Tensor) -> Result<HostTensor, NnError> {
    if tensor.dtype() != DType::F32 {
        return Err(NnError::tensor(&tensor.name, format!("holds {:?}, not F32", tensor.dtype())));
    }
    // An empty tensor could claim arbitrarily large other dimensions.
    if tensor.num_elements() == 0 {
        return Err(NnError::tensor(&tensor.name, "is empty"));
    }
    let bytes = tensor.read().map_err(|error| NnError::UnknownFormat(format!("PyTorch file: {error}")))?;
    let (quads, _) = bytes.as_chunks::<4>();
    let values = quads.iter().map(|&quad| f32::from_ne_bytes(quad)).collect();
    Ok(HostTensor { shape: tensor.shape().to_vec(), values })
}

fn imported(mut tensors: NamedTensors, origin: &'static str) -> Imported {
    add_zero_biases(&mut tensors);
    let metadata = BodyMetadata {
        variant: BlockVariant::V1_5,
        normalisation: normalisation(),
        epsilon: EPSILON,
        origin: origin.into(),
    };
    Imported { metadata, tensors, origin }
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
