//! Rows of radiographs. Their images are blobs.

use std::collections::HashMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::SqliteConnection;
use utoipa::ToSchema;

use super::{Attributes, Db, Page, StoreError, attributes, columns, fingerprints};
use crate::domain::{DatasetId, DicomAttributes, Fingerprint, GreyRange, QualityFlag, RadiographId, Sha256, Split};

/// A stored radiograph.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Radiograph {
    /// Identifier.
    pub id: RadiographId,
    /// Data set.
    pub dataset_id: DatasetId,
    /// Hash of the stored bytes.
    pub sha256: Sha256,
    /// Hash of the uploaded bytes if others are stored: the PNG of a DICOM file, or an image without its metadata. Null for radiographs from
    /// before this was stored.
    #[serde(default)]
    pub upload_sha256: Option<Sha256>,
    /// Name of the imported file. A neutral name for DICOM files, and for uploaded files unless the server stores their names.
    pub file_name: String,
    /// Class, if known.
    pub label: Option<String>,
    /// Keyed hash of the patient id.
    pub patient_id: Option<String>,
    /// Source, such as the collection that published it.
    pub source: Option<String>,
    /// Projection, such as `PA`.
    pub view: Option<String>,
    /// Split.
    pub split: Option<Split>,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Format of the stored bytes, `png` or `jpeg`. A DICOM image is stored as PNG.
    pub format: String,
    /// Number of stored bytes.
    pub byte_length: u64,
    /// Attributes from the DICOM header that are stored.
    #[serde(default)]
    pub dicom: Option<DicomAttributes>,
    /// Quality flags.
    #[serde(default)]
    pub flags: Vec<QualityFlag>,
    /// Range of grey levels; null for radiographs from before this was stored.
    #[serde(default)]
    pub grey_range: Option<GreyRange>,
    /// True for a synthetic phantom, recognised by the mark in its file.
    #[serde(default)]
    pub synthetic: bool,
    /// Time of the upload.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// Filter of a list of radiographs. Absent fields do not filter.
#[derive(Clone, Debug, Default)]
pub struct RadiographFilter {
    /// Split.
    pub split: Option<Split>,
    /// Class.
    pub label: Option<String>,
    /// Source.
    pub source: Option<String>,
}

/// Changes to a radiograph. Absent fields are not changed.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RadiographPatch {
    /// Class.
    pub label: Option<String>,
    /// Patient id.
    #[schema(min_length = 1, max_length = 255, pattern = r"\S")]
    pub patient_id: Option<String>,
    /// Source.
    #[schema(min_length = 1, max_length = 255, pattern = r"\S")]
    pub source: Option<String>,
    /// Projection.
    #[schema(min_length = 1, max_length = 255, pattern = r"\S")]
    pub view: Option<String>,
    /// Split.
    pub split: Option<Split>,
}

/// Data that is stored with a new radiograph, in other tables.
#[derive(Clone, Copy, Debug, Default)]
pub struct RadiographExtras<'a> {
    /// Version of the fingerprint's algorithm, and the fingerprint.
    pub fingerprint: Option<(u32, &'a Fingerprint)>,
    /// Attributes from the imported folder or the DICOM header.
    pub attributes: Option<&'a Attributes>,
}

/// Inserts radiographs in one transaction. For each, returns the radiograph with the same content that the data set had already; then
/// nothing is inserted.
pub async fn insert_all(
    db: &Db,
    radiographs: &[(&Radiograph, RadiographExtras<'_>)],
) -> Result<Vec<Option<Radiograph>>, StoreError> {
    if radiographs.is_empty() {
        return Ok(Vec::new()); // without a transaction, for which others would wait
    }
    let mut tx = db.begin().await?;
    let mut existing = Vec::with_capacity(radiographs.len());
    for (radiograph, extras) in radiographs {
        existing.push(insert_in(&mut tx, radiograph, *extras).await?);
    }
    tx.commit().await?;
    Ok(existing)
}

pub(super) async fn insert_in(
    tx: &mut SqliteConnection,
    radiograph: &Radiograph,
    RadiographExtras { fingerprint, attributes }: RadiographExtras<'_>,
) -> Result<Option<Radiograph>, StoreError> {
    let existing = find_in(tx, radiograph.dataset_id, &radiograph.sha256).await?;
    if existing.is_none() {
        insert_row(tx, radiograph).await?;
        if let Some((version, fingerprint)) = fingerprint {
            fingerprints::put_in(tx, radiograph.id, version, fingerprint).await?;
        }
        if let Some(attributes) = attributes {
            attributes::put_in(tx, radiograph.id, attributes).await?;
        }
    }
    Ok(existing)
}

async fn insert_row(tx: &mut SqliteConnection, radiograph: &Radiograph) -> Result<(), StoreError> {
    let id = radiograph.id.to_string();
    let dataset_id = radiograph.dataset_id.to_string();
    let sha256 = radiograph.sha256.as_str();
    let split = radiograph.split.map(Split::as_str);
    let byte_length: i64 = columns::number("radiographs.byte_length", radiograph.byte_length)?;
    let created_at = columns::time(radiograph.created_at);
    let upload_sha256 = radiograph.upload_sha256.as_ref().map(Sha256::as_str);
    let dicom = radiograph.dicom.as_ref().map(|dicom| columns::to_json("radiographs.dicom_json", dicom)).transpose()?;
    let flags = columns::to_json("radiographs.flags_json", &radiograph.flags)?;
    let (grey_low, grey_high) = radiograph.grey_range.map(|range| (range.low, range.high)).unzip();
    sqlx::query!(
        "insert into radiographs (id, dataset_id, sha256, file_name, label, patient_id, source, view, split, width,
           height, format, byte_length, created_at, upload_sha256, dicom_json, flags_json,
           grey_low, grey_high, synthetic, patient_id_hashed)
           values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1)",
        id,
        dataset_id,
        sha256,
        radiograph.file_name,
        radiograph.label,
        radiograph.patient_id,
        radiograph.source,
        radiograph.view,
        split,
        radiograph.width,
        radiograph.height,
        radiograph.format,
        byte_length,
        created_at,
        upload_sha256,
        dicom,
        flags,
        grey_low,
        grey_high,
        radiograph.synthetic,
    )
    .execute(tx)
    .await
    .map_err(|e| StoreError::from_insert(e, "a radiograph of this identifier"))?;
    Ok(())
}

/// A radiograph by its identifier.
pub async fn get(db: &Db, id: RadiographId) -> Result<Option<Radiograph>, StoreError> {
    get_in(&mut *db.read().acquire().await?, id).await
}

async fn get_in(tx: &mut SqliteConnection, id: RadiographId) -> Result<Option<Radiograph>, StoreError> {
    let id = id.to_string();
    let row = sqlx::query_as!(Row, "select * from radiographs where id = ?", id).fetch_optional(tx).await?;
    row.map(Row::read).transpose()
}

/// A radiograph by the hash of its stored or uploaded bytes.
pub async fn find(db: &Db, dataset: DatasetId, sha256: &Sha256) -> Result<Option<Radiograph>, StoreError> {
    find_in(&mut *db.read().acquire().await?, dataset, sha256).await
}

async fn find_in(
    tx: &mut SqliteConnection,
    dataset: DatasetId,
    sha256: &Sha256,
) -> Result<Option<Radiograph>, StoreError> {
    let (dataset, sha256) = (dataset.to_string(), sha256.as_str());
    let row = sqlx::query_as!(
        Row,
        // Two index look-ups. With `or` and in order of ids SQLite would scan the whole data set.
        "select * from radiographs where id = (select min(id) from (
           select id from radiographs where dataset_id = ?1 and sha256 = ?2
           union all select id from radiographs where dataset_id = ?1 and upload_sha256 = ?2))",
        dataset,
        sha256
    )
    .fetch_optional(tx)
    .await?;
    row.map(Row::read).transpose()
}

/// Identifiers of the radiographs of a data set that have these hashes.
pub async fn ids_of(
    db: &Db,
    dataset: DatasetId,
    hashes: &[Sha256],
) -> Result<HashMap<Sha256, RadiographId>, StoreError> {
    let (dataset, hashes) = (dataset.to_string(), columns::to_json("radiographs.sha256", &hashes.to_vec())?);
    let rows = sqlx::query!(
        "select id, sha256 from radiographs where dataset_id = ? and sha256 in (select value from json_each(?))",
        dataset,
        hashes
    )
    .fetch_all(db.read())
    .await?;
    let read = rows
        .into_iter()
        .map(|row| Ok((columns::hash("radiographs.sha256", row.sha256)?, columns::parse("radiographs.id", &row.id)?)));
    read.collect()
}

/// A page of radiographs in order of creation.
pub async fn list(
    db: &Db,
    dataset: DatasetId,
    filter: &RadiographFilter,
    page: &Page,
) -> Result<Vec<Radiograph>, StoreError> {
    let dataset = dataset.to_string();
    let split = filter.split.map(Split::as_str);
    let after = page.after();
    let rows = sqlx::query_as!(
        Row,
        "select * from radiographs where dataset_id = ?1 and id > ?2 and (?3 is null or split = ?3)
           and (?4 is null or label = ?4) and (?5 is null or source = ?5) order by id limit ?6",
        dataset,
        after,
        split,
        filter.label,
        filter.source,
        page.limit,
    )
    .fetch_all(db.read())
    .await?;
    rows.into_iter().map(Row::read).collect()
}

/// All radiographs with a label and a split, ordered by hash: the same order whatever the order of the import.
pub async fn labelled(db: &Db, dataset: DatasetId) -> Result<Vec<Radiograph>, StoreError> {
    let dataset = dataset.to_string();
    let rows = sqlx::query_as!(
        Row,
        "select * from radiographs where dataset_id = ? and label is not null and split is not null order by sha256",
        dataset
    )
    .fetch_all(db.read())
    .await?;
    rows.into_iter().map(Row::read).collect()
}

/// All radiographs of a split that have a label, in order of insertion.
pub async fn labelled_in_order(db: &Db, dataset: DatasetId, split: Split) -> Result<Vec<Radiograph>, StoreError> {
    let (dataset, split) = (dataset.to_string(), split.as_str());
    // By rowid and not by identifier: an import creates identifiers on many threads and inserts rows in the order of the folder.
    let rows = sqlx::query_as!(
        Row,
        "select * from radiographs where dataset_id = ? and split = ? and label is not null order by rowid",
        dataset,
        split
    )
    .fetch_all(db.read())
    .await?;
    rows.into_iter().map(Row::read).collect()
}

/// All radiographs of a data set, ordered by hash.
pub async fn all(db: &Db, dataset: DatasetId) -> Result<Vec<Radiograph>, StoreError> {
    let dataset = dataset.to_string();
    let rows = sqlx::query_as!(Row, "select * from radiographs where dataset_id = ? order by sha256", dataset)
        .fetch_all(db.read())
        .await?;
    rows.into_iter().map(Row::read).collect()
}

/// Changes the given fields and returns the radiograph; `None` if there is none.
pub async fn patch(db: &Db, id: RadiographId, patch: &RadiographPatch) -> Result<Option<Radiograph>, StoreError> {
    let mut tx = db.begin().await?;
    let key = id.to_string();
    let split = patch.split.map(Split::as_str);
    sqlx::query!(
        "update radiographs set label = ifnull(?2, label), patient_id = ifnull(?3, patient_id),
           patient_id_hashed = iif(?3 is null, patient_id_hashed, 1), source = ifnull(?4, source), view = ifnull(?5, view), split = ifnull(?6, split) where id = ?1",
        key,
        patch.label,
        patch.patient_id,
        patch.source,
        patch.view,
        split,
    )
    .execute(&mut *tx)
    .await?;
    let patched = get_in(&mut tx, id).await?;
    tx.commit().await?;
    Ok(patched)
}

/// Hashes patient ids that an earlier version stored in plain text, and returns the number of rows. `is_hash` recognises ids that are
/// hashed already.
pub async fn hash_patient_ids(
    db: &Db,
    hash: impl Fn(&str) -> String,
    is_hash: impl Fn(&str) -> bool,
) -> Result<u64, StoreError> {
    let mut tx = db.begin().await?;
    let patients = sqlx::query_scalar!(
        r#"select distinct patient_id as "patient_id!" from radiographs
           where patient_id is not null and patient_id_hashed = 0"#
    )
    .fetch_all(&mut *tx)
    .await?;
    let mut rows = 0;
    for patient in patients {
        let hashed = if is_hash(&patient) { patient.clone() } else { hash(&patient) };
        let done = sqlx::query!(
            "update radiographs set patient_id = ?2, patient_id_hashed = 1 where patient_id = ?1 and patient_id_hashed = 0",
            patient,
            hashed
        )
        .execute(&mut *tx)
        .await?;
        rows += done.rows_affected();
    }
    tx.commit().await?;
    Ok(rows)
}

/// True if the database has hashed patient ids, which only the key that hashed them can continue.
pub async fn has_hashed_patients(db: &Db) -> Result<bool, StoreError> {
    has_hashed_patient_ids(&mut *db.read().acquire().await?).await
}

/// True if a database on this connection has hashed patient ids.
pub(super) async fn has_hashed_patient_ids(database: &mut SqliteConnection) -> Result<bool, StoreError> {
    let found = sqlx::query_scalar!(
        r#"select exists(select 1 from radiographs where patient_id is not null and patient_id_hashed = 1) as "found!: bool""#
    );
    Ok(found.fetch_one(database).await?)
}

/// Sets splits in one transaction. Radiographs that were deleted meanwhile are ignored.
pub async fn assign_splits(db: &Db, splits: &[(RadiographId, Split)]) -> Result<(), StoreError> {
    let mut tx = db.begin().await?;
    for (id, split) in splits {
        let (id, split) = (id.to_string(), split.as_str());
        sqlx::query!("update radiographs set split = ? where id = ?", split, id).execute(&mut *tx).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Deletes a radiograph; false if there was none. [`Blobs::sweep`](super::Blobs::sweep) removes its file later, unless another row names it.
pub async fn delete(db: &Db, id: RadiographId) -> Result<bool, StoreError> {
    let id = id.to_string();
    let deleted = sqlx::query!("delete from radiographs where id = ?", id).execute(db.write()?).await?;
    db.erase_soon();
    Ok(deleted.rows_affected() > 0)
}

struct Row {
    id: String,
    dataset_id: String,
    sha256: String,
    file_name: String,
    label: Option<String>,
    patient_id: Option<String>,
    source: Option<String>,
    view: Option<String>,
    split: Option<String>,
    width: i64,
    height: i64,
    format: String,
    byte_length: i64,
    created_at: String,
    upload_sha256: Option<String>,
    dicom_json: Option<String>,
    flags_json: String,
    #[allow(dead_code, reason = "a column of the table; only `hash_patient_ids` reads it")]
    patient_id_hashed: i64,
    grey_low: Option<i64>,
    grey_high: Option<i64>,
    synthetic: i64,
}

impl Row {
    fn read(self) -> Result<Radiograph, StoreError> {
        Ok(Radiograph {
            id: columns::parse("radiographs.id", &self.id)?,
            dataset_id: columns::parse("radiographs.dataset_id", &self.dataset_id)?,
            sha256: columns::hash("radiographs.sha256", self.sha256)?,
            file_name: self.file_name,
            label: self.label,
            patient_id: self.patient_id,
            source: self.source,
            view: self.view,
            split: columns::parse_some("radiographs.split", self.split.as_deref())?,
            width: columns::number("radiographs.width", self.width)?,
            height: columns::number("radiographs.height", self.height)?,
            format: self.format,
            byte_length: columns::number("radiographs.byte_length", self.byte_length)?,
            created_at: columns::parse("radiographs.created_at", &self.created_at)?,
            upload_sha256: self
                .upload_sha256
                .map(|hash| columns::hash("radiographs.upload_sha256", hash))
                .transpose()?,
            dicom: self.dicom_json.map(|text| columns::from_json("radiographs.dicom_json", &text)).transpose()?,
            flags: columns::from_json("radiographs.flags_json", &self.flags_json)?,
            grey_range: match (self.grey_low, self.grey_high) {
                (Some(low), Some(high)) => Some(GreyRange {
                    low: columns::number("radiographs.grey_low", low)?,
                    high: columns::number("radiographs.grey_high", high)?,
                }),
                _ => None,
            },
            synthetic: self.synthetic != 0,
        })
    }
}

#[cfg(test)]
mod tests;
