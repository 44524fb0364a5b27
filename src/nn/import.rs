//! Weights as others publish them, converted to the canonical body file.

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

/// Largest weight file read: several times what ResNet-50 needs (103 MB).
const MAX_FILE_BYTES: u64 = 1 << 30;

/// Classes of ImageNet.
const IMAGENET_CLASSES: usize = 1000;

/// Converted ImageNet weights of the body, as safetensors bytes with canonical names, and what they are.
pub struct BodyWeights {
    /// Canonical safetensors (torchvision-like names), with [`crate::domain::Normalisation`] and variant in its
    /// metadata.
    pub bytes: Vec<u8>,
    /// Where the stride stands.
    pub variant: BlockVariant,
    /// `keras-tfjs`, `torchvision-pth` or `torchvision-safetensors`.
    pub origin: &'static str,
}

/// Weights in canonical names, not yet checked against the network.
struct Imported {
    metadata: BodyMetadata,
    tensors: NamedTensors,
    origin: &'static str,
}

/// Reads a TensorFlow.js package tarball, a torchvision `.pth` or `.safetensors`, told by content.
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
        return Err(NnError::UnknownFormat(format!("{length} bytes are more than a ResNet-50 has")));
    }
    let mut start = Vec::new();
    file.by_ref().take(9).read_to_end(&mut start)?;
    match start.as_slice() {
        [0x1f, 0x8b, ..] => tfjs::read(File::open(path)?),
        [b'P', b'K', 3, 4, ..] => torchvision::read_pth(path),
        [_, _, _, _, _, _, _, _, b'{'] => torchvision::read_safetensors(&std::fs::read(path)?),
        _ => Err(NnError::UnknownFormat("neither a .tgz package, a PyTorch zip file nor safetensors".into())),
    }
}

/// Error unless the tensors are exactly a ResNet-50 body's, all finite, with or without ImageNet's classifier.
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
        Some(name) => Err(NnError::tensor(name, "a ResNet-50 has no such tensor")),
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
