//! Makes the looks that are missing: of images that came in before there were any, or while the process was killed.

use futures_util::{StreamExt, stream};

use crate::{
    domain::{DatasetId, RadiographId, Sha256},
    imaging::{self, Limits},
    store::{self, Blobs, Db, StoreError},
};

/// Makes them, on all cores and off the async threads; how many. An image that cannot be read any more is left out and logged.
pub async fn complete_looks(db: &Db, blobs: &Blobs, dataset: DatasetId, limits: Limits) -> Result<u64, StoreError> {
    let missing = store::fingerprints::missing(db, dataset, imaging::FINGERPRINT_VERSION).await?;
    let parallel = std::thread::available_parallelism().map_or(1, usize::from);
    let mut made = stream::iter(missing).map(|(id, hash)| one(db, blobs, limits, id, hash)).buffered(parallel);
    let mut count = 0;
    while let Some(made) = made.next().await {
        count += u64::from(made?);
    }
    Ok(count)
}

async fn one(db: &Db, blobs: &Blobs, limits: Limits, id: RadiographId, hash: Sha256) -> Result<bool, StoreError> {
    let bytes = match blobs.get(&hash).await {
        Ok(bytes) => bytes,
        Err(error) => {
            tracing::warn!(radiograph = %id, %error, "left out of the report: its image cannot be read");
            return Ok(false);
        }
    };
    let decode = move || imaging::decode(&bytes, &limits).map(|(_, image)| imaging::fingerprint(&image));
    match super::off_async(decode).await? {
        Ok(look) => store::fingerprints::put(db, id, imaging::FINGERPRINT_VERSION, &look).await.map(|()| true),
        Err(error) => {
            tracing::warn!(radiograph = %id, %error, "left out of the report: its image cannot be decoded");
            Ok(false)
        }
    }
}
