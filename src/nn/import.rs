//! Import of published ImageNet weights, converted to a canonical body file.

mod tfjs;
mod torchvision;

use std::{fs::File, io::Read, path::Path};

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

/// Number of ImageNet classes.
const IMAGENET_CLASSES: usize = 1000;

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

/// Reads a TensorFlow.js package tarball, or a torchvision `.pth` or `.safetensors` file. The format is detected from the contents.
///
/// # Errors
/// If the format is unknown, or the tensors are not exactly those of ResNet-50.
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
        _ => {
            Err(NnError::UnknownFormat("the file is neither a .tgz package, a PyTorch zip file nor safetensors".into()))
        }
    }
}

/// Checks that the tensors are exactly those of a ResNet-50 body, with or without the ImageNet classifier, and finite.
fn check(imported: &Imported) -> Result<(), NnError> {
    let BodyMetadata { variant, epsilon, .. } = imported.metadata;
    let network = ResNet50::new(variant, epsilon, &Device::flex());
    let mut expected: std::collections::BTreeMap<_, _> = tensors::layout(&network).into_iter().collect();
    if imported.tensors.keys().any(|name| name.starts_with(CLASSIFIER)) {
        expected.insert(format!("{CLASSIFIER}weight"), vec![IMAGENET_CLASSES, super::resnet::FEATURES]);
        expected.insert(format!("{CLASSIFIER}bias"), vec![IMAGENET_CLASSES]);
    }
    for (name, shape) in &expected {
        let tensor = imported.tensors.get(name).ok_or_else(|| NnError::tensor(name, "is missing"))?;
        check_tensor(name, shape, tensor)?;
    }
    match imported.tensors.keys().find(|name| !expected.contains_key(*name)) {
        Some(name) => Err(NnError::tensor(name, "ResNet-50 has no such tensor")),
        None => Ok(()),
    }
}

fn check_tensor(name: &str, shape: &[usize], tensor: &HostTensor) -> Result<(), NnError> {
    if tensor.shape != shape {
        return Err(NnError::tensor(name, format!("has shape {:?}, not {shape:?}", tensor.shape)));
    }
    if tensor.values.iter().any(|value| !value.is_finite()) {
        return Err(NnError::tensor(name, "holds values that are not finite"));
    }
    Ok(())
}
