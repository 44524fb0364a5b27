//! Completion of missing fingerprints, of images stored by earlier versions or interrupted imports.

use futures_util::{StreamExt, stream};

use crate::{
    domain::{DatasetId, RadiographId, Sha256},
    imaging::{self, Limits},
    store::{self, Blobs, Db, StoreError},
};

/// Computes missing and outdated fingerprints on all cores and returns their number. Images that cannot be read are skipped and logged.
pub async fn complete_fingerprints(
    db: &Db,
    blobs: &Blobs,
    dataset: DatasetId,
    limits: Limits,
) -> Result<u64, StoreError> {
    let missing = store::fingerprints::missing(db, dataset, imaging::FINGERPRINT_VERSION).await?;
    let parallel = std::thread::available_parallelism().map_or(1, usize::from);
    let mut computed = stream::iter(missing).map(|(id, hash)| complete(db, blobs, limits, id, hash)).buffered(parallel);
    let mut count = 0;
    while let Some(stored) = computed.next().await {
        count += u64::from(stored?);
    }
    Ok(count)
}

async fn complete(db: &Db, blobs: &Blobs, limits: Limits, id: RadiographId, hash: Sha256) -> Result<bool, StoreError> {
    let bytes = match blobs.get(&hash).await {
        Ok(bytes) => bytes,
        Err(error) => {
            tracing::warn!(radiograph = %id, %error, "no fingerprint: the stored image cannot be read");
            return Ok(false);
        }
    };
    let decode = move || imaging::decode(&bytes, &limits).map(|(_, image)| imaging::fingerprint(&image));
    match super::run_blocking(decode).await? {
        Ok(fingerprint) => {
            store::fingerprints::put(db, id, imaging::FINGERPRINT_VERSION, &fingerprint).await.map(|()| true)
        }
        Err(error) => {
            tracing::warn!(radiograph = %id, %error, "no fingerprint: the stored image cannot be decoded");
            Ok(false)
        }
    }
}
