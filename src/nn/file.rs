//! Safetensors files: models, and the canonical weights of a ResNet-50 body.
//!
//! Everything that is not a tensor is one JSON object under the metadata key `thorax`. safetensors writes several metadata entries in the
//! order of a hash map, but a file must have the same bytes each time it is written.

use std::{borrow::Cow, collections::HashMap, fs::File, io::Read, path::Path};

use safetensors::{
    Dtype, SafeTensors, View,
    tensor::{Metadata, TensorView},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    NnError, body,
    tensors::{HostTensor, NamedTensors},
};
use crate::domain::{BlockVariant, MAX_IMAGE_SIZE, ModelSpec, Normalisation};

/// Name prefix of the body's tensors in a model file.
pub(super) const BODY: &str = "body.";

/// Name prefix of the head's tensors in a model file.
pub(super) const HEAD: &str = "head.";

/// Name prefix of the ImageNet classifier in a body file. The classifier is stored so that the weights can be verified by its logits.
pub(super) const CLASSIFIER: &str = "fc.";

const METADATA_KEY: &str = "thorax";

/// Metadata of a canonical body file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct BodyMetadata {
    /// Placement of the stride within a block.
    pub(super) variant: BlockVariant,
    /// Normalisation of the input that the weights were trained with.
    pub(super) normalisation: Normalisation,
    /// Epsilon of batch normalisation.
    #[serde(rename = "batch_norm_epsilon")]
    pub(super) epsilon: f64,
    /// See [`super::BodyWeights::origin`].
    pub(super) origin: String,
}

impl BodyMetadata {
    /// Checks that `spec` has the block variant and the normalisation of these weights.
    pub(super) fn check_fits(&self, spec: &ModelSpec) -> Result<(), NnError> {
        if spec.block_variant == self.variant && spec.normalisation == self.normalisation {
            return Ok(());
        }
        Err(NnError::UnknownFormat(
            "the block variant or the normalisation of the model differs from that of the body weights".into(),
        ))
    }
}

/// Contents of a model file.
pub(super) struct ModelFile {
    pub(super) spec: ModelSpec,
    pub(super) epsilon: f64,
    pub(super) body: NamedTensors,
    pub(super) head: NamedTensors,
}

/// Metadata of a model file. Flattened, so that the object can also be read as a [`ModelSpec`].
#[derive(Serialize, Deserialize)]
struct ModelMetadata {
    #[serde(flatten)]
    spec: ModelSpec,
    #[serde(rename = "batch_norm_epsilon")]
    epsilon: f64,
    /// True if the model was trained on synthetic phantoms. Absent otherwise, as in files of earlier versions.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    synthetic: bool,
}

/// True if the model file is marked as trained on synthetic phantoms.
///
/// # Errors
/// If the file is not a model file.
pub fn is_synthetic(model: &[u8]) -> Result<bool, NnError> {
    Ok(metadata::<ModelMetadata>(model)?.synthetic)
}

/// The model file with the mark that it was trained on synthetic phantoms; the tensors are unchanged.
///
/// # Errors
/// If the file is not a model file.
pub fn marked_synthetic(model: &[u8]) -> Result<Vec<u8>, NnError> {
    let metadata = ModelMetadata { synthetic: true, ..metadata(model)? };
    let file = SafeTensors::deserialize(model).map_err(not_safetensors)?;
    let entries = HashMap::from([(METADATA_KEY.to_string(), to_json(&metadata))]);
    safetensors::serialize(file.iter(), Some(entries)).map_err(not_safetensors)
}

/// Reads the block variant and the normalisation from a canonical body file.
pub fn body_spec(body: &[u8]) -> Result<(BlockVariant, Normalisation), NnError> {
    let metadata: BodyMetadata = metadata(body)?;
    check_numbers(&metadata.normalisation, metadata.epsilon)?;
    Ok((metadata.variant, metadata.normalisation))
}

/// Number of trainable parameters in the model file at `path`: all numbers except the running statistics of batch normalisation. Reads only
/// the header of the file.
pub fn parameter_count(path: &Path) -> Result<u64, NnError> {
    let mut file = File::open(path)?;
    let mut length = [0; 8];
    file.read_exact(&mut length)?;
    let mut header = Vec::new();
    // If the length is too large, the rest of the file is read, which is then not valid JSON.
    file.take(u64::from_le_bytes(length)).read_to_end(&mut header)?;
    let header: Metadata =
        serde_json::from_slice(&header).map_err(|error| NnError::UnknownFormat(format!("safetensors: {error}")))?;
    let statistic = |name: &str| name.ends_with(".running_mean") || name.ends_with(".running_var");
    let size = |shape: &[usize]| shape.iter().map(|&side| side as u64).product::<u64>();
    Ok(header.tensors().iter().filter(|(name, _)| !statistic(name)).map(|(_, tensor)| size(&tensor.shape)).sum())
}

/// Describes a tensor of a model file with a value that is not finite, or with a weight whose absolute value is above `max`; `None` if there
/// is none. Running statistics of batch normalisation have no maximum, because they depend on the scale of the input.
///
/// # Errors
/// If the file is not a model file.
pub fn excessive_weight(model: &[u8], max: f32) -> Result<Option<String>, NnError> {
    for (name, view) in SafeTensors::deserialize(model).map_err(not_safetensors)?.iter() {
        let is_statistic = name.ends_with(".running_mean") || name.ends_with(".running_var");
        let values = view.data().as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
        let mut excessive = values.filter(|value| !value.is_finite() || !is_statistic && value.abs() > max);
        if let Some(value) = excessive.next() {
            let limit = if value.is_finite() { format!("beyond {max:.0e}") } else { "not finite".into() };
            return Ok(Some(format!("tensor {name} has the value {value:.3e}, which is {limit}")));
        }
    }
    Ok(None)
}

/// Reads a canonical body file: its metadata and its tensors without the ImageNet classifier.
pub(super) fn read_body(bytes: &[u8]) -> Result<(BodyMetadata, NamedTensors), NnError> {
    let metadata: BodyMetadata = metadata(bytes)?;
    check_numbers(&metadata.normalisation, metadata.epsilon)?;
    let tensors = read_tensors(bytes, |name| name.starts_with(CLASSIFIER))?;
    Ok((metadata, tensors))
}

/// Serialises a canonical body file.
pub(super) fn write_body(metadata: &BodyMetadata, tensors: &NamedTensors) -> Vec<u8> {
    write(tensors, metadata)
}

/// Reads a model file.
pub(super) fn read_model(bytes: &[u8]) -> Result<ModelFile, NnError> {
    let ModelMetadata { spec, epsilon, .. } = metadata(bytes)?;
    check_numbers(&spec.normalisation, epsilon)?;
    check(spec.dropout.is_finite() && (0.0..1.0).contains(&spec.dropout), "dropout")?;
    check((body::smallest_side(spec.architecture)..=MAX_IMAGE_SIZE).contains(&spec.image_size), "image size")?;
    let (mut body, mut head) = (NamedTensors::new(), NamedTensors::new());
    for (name, tensor) in read_tensors(bytes, |_| false)? {
        if let Some(rest) = name.strip_prefix(BODY) {
            body.insert(rest.into(), tensor);
        } else if let Some(rest) = name.strip_prefix(HEAD) {
            head.insert(rest.into(), tensor);
        } else {
            return Err(NnError::tensor(&name, "the network has no such tensor"));
        }
    }
    Ok(ModelFile { spec, epsilon, body, head })
}

/// Serialises a model file.
pub(super) fn write_model(spec: &ModelSpec, epsilon: f64, body: NamedTensors, head: NamedTensors) -> Vec<u8> {
    let body = body.into_iter().map(|(name, tensor)| (format!("{BODY}{name}"), tensor));
    let head = head.into_iter().map(|(name, tensor)| (format!("{HEAD}{name}"), tensor));
    write(&body.chain(head).collect(), &ModelMetadata { spec: spec.clone(), epsilon, synthetic: false })
}

/// Reads all tensors except those that `skip` selects by name. They must be F32.
pub(super) fn read_tensors(bytes: &[u8], skip: impl Fn(&str) -> bool) -> Result<NamedTensors, NnError> {
    let file = SafeTensors::deserialize(bytes).map_err(not_safetensors)?;
    let selected = file.iter().filter(|(name, _)| !skip(name));
    selected.map(|(name, view)| Ok((name.to_string(), host_tensor(name, &view)?))).collect()
}

fn host_tensor(name: &str, view: &TensorView) -> Result<HostTensor, NnError> {
    if view.dtype() != Dtype::F32 {
        return Err(NnError::tensor(name, format!("holds {:?}, not F32", view.dtype())));
    }
    // An empty tensor could claim arbitrarily large other dimensions.
    if view.data().is_empty() {
        return Err(NnError::tensor(name, "is empty"));
    }
    Ok(HostTensor { shape: view.shape().to_vec(), values: floats(view.data()) })
}

/// Decodes little-endian floats.
pub(super) fn floats(bytes: &[u8]) -> Vec<f32> {
    let (quads, _) = bytes.as_chunks::<4>();
    quads.iter().map(|&quad| f32::from_le_bytes(quad)).collect()
}

fn metadata<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, NnError> {
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(not_safetensors)?;
    let text = header.metadata().as_ref().and_then(|entries| entries.get(METADATA_KEY));
    let text = text.ok_or_else(|| NnError::UnknownFormat(format!("no {METADATA_KEY:?} in the metadata")))?;
    serde_json::from_str(text)
        .map_err(|error| NnError::UnknownFormat(format!("{METADATA_KEY:?} in the metadata: {error}")))
}

fn not_safetensors(error: safetensors::SafeTensorError) -> NnError {
    NnError::UnknownFormat(format!("safetensors: {error}"))
}

fn check_numbers(normalisation: &Normalisation, epsilon: f64) -> Result<(), NnError> {
    let Normalisation { scale, mean, std } = normalisation;
    check(epsilon.is_finite() && epsilon > 0.0, "batch-norm epsilon")?;
    check(scale.is_finite() && mean.iter().all(|m| m.is_finite()), "normalisation")?;
    check(std.iter().all(|s| s.is_normal() && s.is_sign_positive()), "normalisation")
}

fn check(valid: bool, what: &str) -> Result<(), NnError> {
    if valid { Ok(()) } else { Err(NnError::UnknownFormat(format!("the {what} in the metadata is invalid"))) }
}

fn write<T: Serialize>(tensors: &NamedTensors, metadata: &T) -> Vec<u8> {
    let entries = HashMap::from([(METADATA_KEY.to_string(), to_json(metadata))]);
    safetensors::serialize(tensors, Some(entries)).expect("the header is far below its size limit")
}

fn to_json<T: Serialize>(metadata: &T) -> String {
    serde_json::to_string(metadata).expect("the metadata serialises to JSON")
}

impl View for &HostTensor {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn data_len(&self) -> usize {
        self.values.len() * size_of::<f32>()
    }
}
