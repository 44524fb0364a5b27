//! What the images of a data set look like in little.

use std::collections::HashMap;

use sqlx::SqliteConnection;

use super::{Db, StoreError, columns};
use crate::domain::{DatasetId, Fingerprint, RadiographId, Sha256, Split};

/// A hash with what is needed to say whether it leaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HashedRadiograph {
    /// Whose.
    pub id: RadiographId,
    /// Where it stands.
    pub split: Option<Split>,
    /// See [`Fingerprint::hash`].
    pub hash: Option<[u8; 32]>,
}

/// Keeps the look of a radiograph; what another version made of it goes. A radiograph that was removed meanwhile is passed over.
pub async fn put(db: &Db, id: RadiographId, version: u32, look: &Fingerprint) -> Result<(), StoreError> {
    put_in(&mut *db.write().acquire().await?, id, version, look).await
}

/// The same within a write transaction, for a radiograph that comes in.
pub(super) async fn put_in(
    tx: &mut SqliteConnection,
    id: RadiographId,
    version: u32,
    look: &Fingerprint,
) -> Result<(), StoreError> {
    let id = id.to_string();
    let (hash, plane) = (look.hash.as_ref().map(|hash| hash.as_slice()), look.plane.as_slice());
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

/// All hashes of a data set that `version` made, by the image's SHA-256.
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

/// The planes of these radiographs, 64 x 64 grey bytes each; of those that are still there.
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

/// Radiographs of which there is no look of this version.
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

/// All planes of a data set that `version` made.
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
