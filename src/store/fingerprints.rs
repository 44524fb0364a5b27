//! Perceptual fingerprints of radiographs (table `looks`): a hash and a thumbnail of each image.

use std::collections::HashMap;

use sqlx::SqliteConnection;

use super::{Db, StoreError, columns};
use crate::domain::{DatasetId, Fingerprint, RadiographId, Sha256, Split};

/// Perceptual hash of a radiograph, with its split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashedRadiograph {
    /// Radiograph.
    pub id: RadiographId,
    /// Split of the radiograph.
    pub split: Option<Split>,
    /// See [`Fingerprint::hash`].
    pub hash: Option<[u8; 32]>,
}

/// Stores the fingerprint of a radiograph in place of one of another version. A radiograph that was deleted meanwhile is ignored.
pub async fn put(db: &Db, id: RadiographId, version: u32, fingerprint: &Fingerprint) -> Result<(), StoreError> {
    put_in(&mut *db.write()?.acquire().await?, id, version, fingerprint).await
}

/// [`put`] within a write transaction, for a new radiograph.
pub(super) async fn put_in(
    tx: &mut SqliteConnection,
    id: RadiographId,
    version: u32,
    fingerprint: &Fingerprint,
) -> Result<(), StoreError> {
    let id = id.to_string();
    let (hash, plane) = (fingerprint.hash.as_ref().map(|hash| hash.as_slice()), fingerprint.plane.as_slice());
    sqlx::query!(
        "insert or replace into looks (radiograph_id, version, hash, plane)
           select id, ?2, ?3, ?4 from radiographs where id = ?1",
        id,
        version,
        hash,
        plane
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Perceptual hashes of a data set by this version, in order of the images' SHA-256.
pub async fn hashes(db: &Db, dataset: DatasetId, version: u32) -> Result<Vec<HashedRadiograph>, StoreError> {
    let dataset = dataset.to_string();
    let rows = sqlx::query!(
        "select radiographs.id, split, hash from radiographs join looks on radiograph_id = radiographs.id
           where dataset_id = ? and version = ? order by sha256",
        dataset,
        version
    )
    .fetch_all(db.read())
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(HashedRadiograph {
                id: columns::parse("radiographs.id", &row.id)?,
                split: columns::parse_some("radiographs.split", row.split.as_deref())?,
                hash: row.hash.map(|hash| columns::bytes("looks.hash", &hash)).transpose()?,
            })
        })
        .collect()
}

/// Thumbnails of these radiographs, as far as they exist; 64 x 64 grey bytes each.
pub async fn planes_of(db: &Db, ids: &[RadiographId]) -> Result<HashMap<RadiographId, Vec<u8>>, StoreError> {
    let ids = serde_json::json!(ids).to_string();
    let rows = sqlx::query_as!(
        Plane,
        "select radiograph_id, plane from looks where radiograph_id in (select value from json_each(?))",
        ids
    )
    .fetch_all(db.read())
    .await?;
    by_radiograph(rows)
}

/// Radiographs without a fingerprint of this version.
pub async fn missing(db: &Db, dataset: DatasetId, version: u32) -> Result<Vec<(RadiographId, Sha256)>, StoreError> {
    let dataset = dataset.to_string();
    let rows = sqlx::query!(
        "select id, sha256 from radiographs where dataset_id = ?1 and not exists
           (select 1 from looks where radiograph_id = radiographs.id and version = ?2) order by sha256",
        dataset,
        version
    )
    .fetch_all(db.read())
    .await?;
    let read =
        |id: String, hash| Ok((columns::parse("radiographs.id", &id)?, columns::hash("radiographs.sha256", hash)?));
    rows.into_iter().map(|row| read(row.id, row.sha256)).collect()
}

/// All thumbnails of a data set by this version.
pub async fn planes(db: &Db, dataset: DatasetId, version: u32) -> Result<HashMap<RadiographId, Vec<u8>>, StoreError> {
    let dataset = dataset.to_string();
    let rows = sqlx::query_as!(
        Plane,
        "select radiograph_id, plane from looks join radiographs on id = radiograph_id
           where dataset_id = ? and version = ?",
        dataset,
        version
    )
    .fetch_all(db.read())
    .await?;
    by_radiograph(rows)
}

struct Plane {
    radiograph_id: String,
    plane: Vec<u8>,
}

fn by_radiograph(rows: Vec<Plane>) -> Result<HashMap<RadiographId, Vec<u8>>, StoreError> {
    rows.into_iter().map(|row| Ok((columns::parse("looks.radiograph_id", &row.radiograph_id)?, row.plane))).collect()
}
