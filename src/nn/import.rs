//! Import of published ImageNet weights, converted to a canonical body file.

mod tfjs;
mod torchvision;

use std::{collections::BTreeMap, fs::File, io::Read, path::Path};

use super::{
    NnError,
    file::{self, BodyMetadata, CLASSIFIER},
    resnet::ResNet50,
    tensors::{self, HostTensor, NamedTensors},
};
use crate::domain::BlockVariant;
use burn::tensor::Device;

/// Maximum size of a weight file: several times that of ResNet-50 (103 MB).
const MAX_FILE_BYTES: u64 = 1 << 30;

/// Converted ImageNet weights of a body.
pub struct BodyWeights {
    /// Canonical body file: safetensors with the names of torchvision, and the [`crate::domain::Normalisation`] and the block variant in its
    /// metadata.
    pub bytes: Vec<u8>,
    /// Placement of the stride within a block.
    pub variant: BlockVariant,
    /// Source format: `keras-tfjs`, `torchvision-pth` or `torchvision-safetensors`.
    pub origin: &'static str,
}

/// Weights with canonical names, not yet checked against the network.
struct Imported {
    metadata: BodyMetadata,
    tensors: NamedTensors,
    origin: &'static str,
}

/// Reads a TensorFlow.js package tarball, or a ResNet-50 of torchvision or timm as `.pth` or `.safetensors`. The format is detected from the
/// contents.
///
/// # Errors
/// If the format is unknown, or the tensors are not exactly those of ResNet-50; the error names the differences.
pub fn import_weights(path: &Path) -> Result<BodyWeights, NnError> {
    let imported = read(path)?;
    check(&imported)?;
    let bytes = file::write_body(&imported.metadata, &imported.tensors);
    Ok(BodyWeights { bytes, variant: imported.metadata.variant, origin: imported.origin })
}

fn read(path: &Path) -> Result<Imported, NnError> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    if length > MAX_FILE_BYTES {
        return Err(NnError::UnknownFormat(format!(
            "the file has {length} bytes, more than the limit of {MAX_FILE_BYTES}"
        )));
    }
    let mut start = Vec::new();
    file.by_ref().take(9).read_to_end(&mut start)?;
    match start.as_slice() {
        [0x1f, 0x8b, ..] => tfjs::read(File::open(path)?),
        [b'P', b'K', 3, 4, ..] => torchvision::read_pth(path),
        [_, _, _, _, _, _, _, _, b'{'] => torchvision::read_safetensors(&std::fs::read(path)?),
        // Legacy files of PyTorch begin with a pickle in any protocol, files of 2016 with the name of a member of a tar archive.
        _ => torchvision::read_pth(path).map_err(|error| match error {
            NnError::UnknownFormat(reason) => NnError::UnknownFormat(format!(
                "the file is neither a .tgz package, a PyTorch file nor safetensors ({reason})"
            )),
            other => other,
        }),
    }
}

/// Checks that the tensors are exactly those of a ResNet-50 body, with or without a classifier of any number of classes, and finite.
fn check(imported: &Imported) -> Result<(), NnError> {
    let BodyMetadata { variant, epsilon, .. } = imported.metadata;
    let network = ResNet50::new(variant, epsilon, &Device::flex());
    let mut expected: BTreeMap<_, _> = tensors::layout(&network).into_iter().collect();
    let weight = format!("{CLASSIFIER}weight");
    if let Some(classes) = imported.tensors.get(&weight).and_then(|weight| weight.shape.first()) {
        expected.insert(weight, vec![*classes, super::resnet::FEATURES]);
        expected.insert(format!("{CLASSIFIER}bias"), vec![*classes]);
    }
    if let Some(difference) = difference(&expected, &imported.tensors) {
        return Err(NnError::OtherNetwork(difference));
    }
    let is_finite = |tensor: &HostTensor| tensor.values.iter().all(|value| value.is_finite());
    match imported.tensors.iter().find(|(_, tensor)| !is_finite(tensor)) {
        Some((name, _)) => Err(NnError::tensor(name, "holds values that are not finite")),
        None => Ok(()),
    }
}

/// Maximum number of names of each kind in the description of a difference.
const MAX_LISTED: usize = 10;

/// Describes how the tensors differ from the expected ones; none if they do not.
fn difference(expected: &BTreeMap<String, Vec<usize>>, found: &NamedTensors) -> Option<String> {
    let missing = expected.keys().filter(|name| !found.contains_key(*name)).cloned().collect();
    let unexpected = found.keys().filter(|name| !expected.contains_key(*name)).cloned().collect();
    let shape = |(name, shape): (&String, &Vec<usize>)| {
        let found = &found.get(name)?.shape;
        (found != shape).then(|| format!("{name} {found:?} instead of {shape:?}"))
    };
    let shapes = expected.iter().filter_map(shape).collect();
    let kinds: [(&str, Vec<String>); 3] =
        [("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)];
    let kind = |(kind, names): (&str, Vec<String>)| {
        let more = if names.len() > MAX_LISTED { ", …" } else { "" };
        let listed = names[..names.len().min(MAX_LISTED)].join(", ");
        (!names.is_empty()).then(|| format!("{} {kind} ({listed}{more})", names.len()))
    };
    let differences: Vec<String> = kinds.into_iter().filter_map(kind).collect();
    (!differences.is_empty()).then(|| differences.join("; "))
}
