//! Import of pretrained ImageNet weights.

use std::path::PathBuf;

use jiff::Timestamp;

use super::{Error, Stores};
use crate::{
    nn,
    store::{self, Weights},
};

/// Converts a file of ImageNet weights for ResNet-50 and stores it: the TensorFlow.js package, or a `.pth` or `.safetensors` of torchvision or
/// timm, recognised by content.
///
/// # Errors
/// [`Error::Unusable`] where the file is not such weights or cannot be read.
pub async fn import_weights(stores: &Stores, file: PathBuf) -> Result<Weights, Error> {
    let read = tokio::task::spawn_blocking(move || nn::import_weights(&file)).await?;
    let body = read.map_err(|error| Error::Unusable(error.to_string()))?;
    let byte_length = body.bytes.len() as u64;
    // The lock on the blob is held until the row is committed.
    let stored = stores.blobs.put(body.bytes).await?;
    let weights = Weights {
        byte_length,
        sha256: stored.sha256().clone(),
        variant: body.variant,
        origin: body.origin.into(),
        created_at: Timestamp::now(),
    };
    store::weights::create(&stores.db, &weights).await?;
    Ok(weights)
}
