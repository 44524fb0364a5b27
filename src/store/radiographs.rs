//! Radiographs: the rows; the images are blobs.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::SqliteConnection;
use utoipa::ToSchema;

use super::{Attributes, Db, Page, StoreError, attributes, columns, looks};
use crate::domain::{DatasetId, DicomAttributes, Fingerprint, QualityFlag, RadiographId, Sha256, Split};

/// A stored radiograph.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Radiograph {
    /// Identifier.
    pub id: RadiographId,
    /// Its data set.
    pub dataset_id: DatasetId,
    /// Of the stored bytes.
    pub sha256: Sha256,
    /// Of the uploaded bytes, where others are stored: those of a DICOM, or without metadata. Null for what came in before this was kept.
    #[serde(default)]
    pub upload_sha256: Option<Sha256>,
    /// As uploaded, unless something in a DICOM header is found in it.
    pub file_name: String,
    /// Class, if known.
    pub label: Option<String>,
    /// Patient, a keyed hash.
    pub patient_id: Option<String>,
    /// Origin.
    pub source: Option<String>,
    /// Projection.
    pub view: Option<String>,
    /// Split.
    pub split: Option<Split>,
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Of the stored bytes, `png` or `jpeg`; a DICOM is stored as PNG.
    pub format: String,
    /// Size of the stored bytes.
    pub byte_length: u64,
    /// What is kept of a DICOM header.
    #[serde(default)]
    pub dicom: Option<DicomAttributes>,
    /// What looks wrong with it.
    #[serde(default)]
    pub flags: Vec<QualityFlag>,
    /// When it was stored.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// Filter of a radiograph list; absent fields do not filter.
#[derive(Clone, Debug, Default)]
pub struct RadiographFilter {
    /// Split.
    pub split: Option<Split>,
    /// Class.
    pub label: Option<String>,
    /// Origin.
    pub source: Option<String>,
}

/// Changes to a radiograph; absent fields stay.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RadiographPatch {
    /// Class.
    pub label: Option<String>,
    /// Patient.
    pub patient_id: Option<String>,
    /// Origin.
    pub source: Option<String>,
    /// Projection.
    pub view: Option<String>,
    /// Split.
    pub split: Option<Split>,
}

/// What is known of a radiograph as it comes in, beside its row.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beside<'a> {
    /// What it looks like, and the version that made that.
    pub look: Option<(u32, &'a Fingerprint)>,
    /// What its folder says about it.
    pub attributes: Option<&'a Attributes>,
}

/// Inserts, all in one transaction; of each the radiograph already there with the same content in the same data set, if any, and then
/// nothing changes of that.
pub async fn insert_all(
    db: &Db,
    radiographs: &[(&Radiograph, Beside<'_>)],
) -> Result<Vec<Option<Radiograph>>, StoreError> {
    if radiographs.is_empty() {
        return Ok(Vec::new()); // and nobody else waits for a transaction
    }
    let mut tx = db.begin().await?;
    let mut there = Vec::with_capacity(radiographs.len());
    for (radiograph, beside) in radiographs {
        there.push(insert_in(&mut tx, radiograph, *beside).await?);
    }
    tx.commit().await?;
    Ok(there)
}

pub(super) async fn insert_in(
    tx: &mut SqliteConnection,
    radiograph: &Radiograph,
    Beside { look, attributes }: Beside<'_>,
) -> Result<Option<Radiograph>, StoreError> {
    let there = find_in(tx, radiograph.dataset_id, &radiograph.sha256).await?;
    if there.is_none() {
        insert_row(tx, radiograph).await?;
        if let Some((version, look)) = look {
            looks::put_in(tx, radiograph.id, version, look).await?;
        }
        if let Some(attributes) = attributes {
            attributes::put_in(tx, radiograph.id, attributes).await?;
        }
    }
    Ok(there)
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
    sqlx::query!(
        "insert into radiographs (id, dataset_id, sha256, file_name, label, patient_id, source, view, split, width,
           height, format, byte_length, created_at, upload_sha256, dicom_json, flags_json,
           patient_id_hashed) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1)",
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
    )
    .execute(tx)
    .await
    .map_err(|e| StoreError::from_insert(e, "a radiograph of this identifier"))?;
    Ok(())
}

/// One.
pub async fn get(db: &Db, id: RadiographId) -> Result<Option<Radiograph>, StoreError> {
    get_in(&mut *db.read().acquire().await?, id).await
}

async fn get_in(tx: &mut SqliteConnection, id: RadiographId) -> Result<Option<Radiograph>, StoreError> {
    let id = id.to_string();
    let row = sqlx::query_as!(Row, "select * from radiographs where id = ?", id).fetch_optional(tx).await?;
    row.map(Row::read).transpose()
}

/// By content, stored or uploaded.
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
        // Two look-ups. Asked with `or` and in the order of ids, SQLite would go through the whole data set.
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

/// A page.
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

/// All that have a label and a split, ordered by sha256 (a stable order across imports).
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

/// All of a split that have a label, in the order in which they came in.
pub async fn labelled_in_order(db: &Db, dataset: DatasetId, split: Split) -> Result<Vec<Radiograph>, StoreError> {
    let (dataset, split) = (dataset.to_string(), split.as_str());
    // By the row's number and not by its identifier: an import names images on many threads and enters them one by one.
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

/// All, ordered by sha256.
pub async fn all(db: &Db, dataset: DatasetId) -> Result<Vec<Radiograph>, StoreError> {
    let dataset = dataset.to_string();
    let rows = sqlx::query_as!(Row, "select * from radiographs where dataset_id = ? order by sha256", dataset)
        .fetch_all(db.read())
        .await?;
    rows.into_iter().map(Row::read).collect()
}

/// Changes named fields; the radiograph afterwards.
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

/// Hashes the patient ids that an earlier version stored as they came; how many rows had one. `is_hash` tells those that were hashed by
/// then already.
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

/// Sets many splits in one transaction; a radiograph deleted meanwhile is passed over, as it has no split to set.
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
    let deleted = sqlx::query!("delete from radiographs where id = ?", id).execute(db.write()).await?;
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
    #[allow(dead_code, reason = "a column of the table; only `hash_patient_ids` asks for it")]
    patient_id_hashed: i64,
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
        })
    }
}

#[cfg(test)]
mod tests;
