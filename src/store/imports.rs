//! Background imports and their rejected files.

use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::SqliteConnection;
use utoipa::ToSchema;

use super::{Db, StoreError, columns};
use crate::domain::{DatasetId, ImportId, ImportStatus, RadiographField, RadiographId};

/// A background import.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Import {
    /// Identifier.
    pub id: ImportId,
    /// Data set.
    pub dataset_id: DatasetId,
    /// Imported folder; relative to the import root for imports over HTTP.
    pub path: String,
    /// Status.
    pub status: ImportStatus,
    /// Rows and files found.
    pub total: u64,
    /// Radiographs that were added.
    pub created: u64,
    /// Images that the data set had already.
    pub duplicates: u64,
    /// Duplicates whose label, split, patient or view differs from that of the stored radiograph, which is not changed.
    #[serde(default)]
    pub conflicting: u64,
    /// Rows and files that were rejected.
    pub rejected: u64,
    /// Reason for which the import failed as a whole.
    pub error: Option<String>,
    /// Rows that the rules of a generation exclude, and files of a folder that are left out.
    #[serde(default)]
    pub passed_over: Vec<ExcludedRows>,
    /// Time of the start.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// Time of the end.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<Timestamp>,
}

/// Rows of a source that the rules of a generation exclude for the same reason, or files of a folder that are left out for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExcludedRows {
    /// Source, by its name in COVIDx; for the import of a folder, the subfolder (`.` for the folder itself) or the label file.
    pub source: String,
    /// Reason.
    pub reason: String,
    /// Number of rows or files.
    pub rows: u64,
}

/// Kind of a rejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RejectionKind {
    /// The row cannot be read, or the file is not a usable image.
    Unusable,
    /// Another row gives the same image another class or split.
    Contradiction,
    /// The row names a missing file.
    RowWithoutFile,
    /// No row names the file.
    FileWithoutRow,
}

/// A rejected row or file of an import.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ImportRejection {
    /// Kind.
    pub kind: RejectionKind,
    /// Split file or image, relative to the folder.
    pub file: String,
    /// Line of the split file, from 1.
    pub line: Option<u32>,
    /// Reason.
    pub reason: String,
}

/// A row or file of an import about an image that the data set had already, with other values than those stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ImportConflict {
    /// Label file or image, relative to the folder.
    pub file: String,
    /// Line of the label file, from 1.
    pub line: Option<u32>,
    /// The stored radiograph, which is not changed.
    pub radiograph_id: RadiographId,
    /// Fields that differ from those stored.
    pub differs: Vec<RadiographField>,
}

/// Findings of an import about single rows and files.
#[derive(Clone, Debug, Default)]
pub struct ImportFindings {
    /// Rejected rows and files.
    pub rejections: Vec<ImportRejection>,
    /// Duplicates that differ from the stored radiograph.
    pub conflicts: Vec<ImportConflict>,
}

impl Import {
    /// A running import that starts now.
    pub fn started(dataset_id: DatasetId, path: String) -> Self {
        Self {
            id: ImportId::new(),
            dataset_id,
            path,
            status: ImportStatus::Running,
            total: 0,
            created: 0,
            duplicates: 0,
            conflicting: 0,
            rejected: 0,
            error: None,
            passed_over: Vec::new(),
            started_at: Timestamp::now(),
            finished_at: None,
        }
    }
}

/// Stores an import. An import with a `request` can resume after an interruption: [`interrupted`] returns it with this request.
pub async fn create(db: &Db, import: &Import, request: Option<&serde_json::Value>) -> Result<(), StoreError> {
    let mut tx = db.begin().await?;
    let request = request.map(serde_json::Value::to_string);
    let (id, dataset_id) = (import.id.to_string(), import.dataset_id.to_string());
    let (status, started_at) = (import.status.as_str(), columns::time(import.started_at));
    sqlx::query!(
        "insert into imports (id, dataset_id, path, status, started_at, request_json) values (?, ?, ?, ?, ?, ?)",
        id,
        dataset_id,
        import.path,
        status,
        started_at,
        request,
    )
    .execute(&mut *tx)
    .await
    .map_err(|e| StoreError::from_insert(e, "an import of this identifier"))?;
    write(&mut tx, import).await?;
    tx.commit().await?;
    Ok(())
}

/// An import by its identifier.
pub async fn get(db: &Db, id: ImportId) -> Result<Option<Import>, StoreError> {
    let id = id.to_string();
    let row = sqlx::query_as!(Row, "select * from imports where id = ?", id).fetch_optional(db.read()).await?;
    row.map(Row::read).transpose()
}

/// Rejections of an import, in order.
pub async fn rejections(db: &Db, id: ImportId) -> Result<Vec<ImportRejection>, StoreError> {
    let id = id.to_string();
    let rows = sqlx::query_as!(
        RejectionRow,
        "select kind, file, line, reason from import_rejections where import_id = ? order by sequence",
        id
    )
    .fetch_all(db.read())
    .await?;
    rows.into_iter().map(RejectionRow::read).collect()
}

/// Conflicts of an import, in order.
pub async fn conflicts(db: &Db, id: ImportId) -> Result<Vec<ImportConflict>, StoreError> {
    let id = id.to_string();
    let rows = sqlx::query!(
        "select file, line, radiograph_id, differs_json from import_conflicts where import_id = ? order by sequence",
        id
    )
    .fetch_all(db.read())
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(ImportConflict {
                file: row.file,
                line: row.line.map(|line| columns::number("import_conflicts.line", line)).transpose()?,
                radiograph_id: columns::parse("import_conflicts.radiograph_id", &row.radiograph_id)?,
                differs: columns::from_json("import_conflicts.differs_json", &row.differs_json)?,
            })
        })
        .collect()
}

/// Current rejections of a data set: those of the newest ended import of each path.
pub async fn current_rejections(db: &Db, dataset: DatasetId) -> Result<Vec<ImportRejection>, StoreError> {
    let dataset = dataset.to_string();
    let rows = sqlx::query_as!(
        RejectionRow,
        "select kind, file, line, reason from import_rejections where import_id in
           (select max(id) from imports where dataset_id = ? and status <> 'running' group by path)
           order by import_id, sequence",
        dataset
    )
    .fetch_all(db.read())
    .await?;
    rows.into_iter().map(RejectionRow::read).collect()
}

/// Writes counts, status and new findings. `Gone` when the import was deleted with its data set, `InvalidTransition` when it has
/// succeeded.
pub async fn update(db: &Db, import: &Import, new: &ImportFindings) -> Result<(), StoreError> {
    let mut tx = db.begin().await?;
    let id = import.id.to_string();
    let status = sqlx::query_scalar!("select status from imports where id = ?", id).fetch_optional(&mut *tx).await?;
    let status = status.ok_or(StoreError::Gone)?;
    columns::parse::<ImportStatus>("imports.status", &status)?.transition(import.status)?;
    write(&mut tx, import).await?;
    for rejection in &new.rejections {
        let kind = rejection.kind.as_str();
        sqlx::query!(
            "insert into import_rejections (import_id, sequence, kind, file, line, reason) values
               (?1, (select ifnull(max(sequence), 0) + 1 from import_rejections where import_id = ?1), ?2, ?3, ?4, ?5)",
            id,
            kind,
            rejection.file,
            rejection.line,
            rejection.reason,
        )
        .execute(&mut *tx)
        .await?;
    }
    for conflict in &new.conflicts {
        let radiograph_id = conflict.radiograph_id.to_string();
        let differs = columns::to_json("import_conflicts.differs_json", &conflict.differs)?;
        sqlx::query!(
            "insert into import_conflicts (import_id, sequence, file, line, radiograph_id, differs_json) values
               (?1, (select ifnull(max(sequence), 0) + 1 from import_conflicts where import_id = ?1), ?2, ?3, ?4, ?5)",
            id,
            conflict.file,
            conflict.line,
            radiograph_id,
            differs,
        )
        .execute(&mut *tx)
        .await?;
    }
    tx.commit().await?;
    Ok(())
}

async fn write(tx: &mut SqliteConnection, import: &Import) -> Result<(), StoreError> {
    let (id, status) = (import.id.to_string(), import.status.as_str());
    let total: i64 = columns::number("imports.total", import.total)?;
    let created: i64 = columns::number("imports.created", import.created)?;
    let duplicates: i64 = columns::number("imports.duplicates", import.duplicates)?;
    let conflicting: i64 = columns::number("imports.conflicting", import.conflicting)?;
    let rejected: i64 = columns::number("imports.rejected", import.rejected)?;
    let finished_at = import.finished_at.map(columns::time);
    let passed_over = columns::to_json("imports.passed_over_json", &import.passed_over)?;
    sqlx::query!(
        "update imports set status = ?, total = ?, created = ?, duplicates = ?, conflicting = ?, rejected = ?, error = ?,
           passed_over_json = ?, finished_at = ? where id = ?",
        status,
        total,
        created,
        duplicates,
        conflicting,
        rejected,
        import.error,
        passed_over,
        finished_at,
        id,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Imports that a dead process left running and that can resume, with their requests. Their counts and findings are reset.
pub async fn interrupted(db: &Db) -> Result<Vec<(Import, serde_json::Value)>, StoreError> {
    let mut tx = db.begin().await?;
    sqlx::query!(
        "delete from import_rejections where import_id in
           (select id from imports where status = 'running' and request_json is not null)"
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "delete from import_conflicts where import_id in
           (select id from imports where status = 'running' and request_json is not null)"
    )
    .execute(&mut *tx)
    .await?;
    let rows =
        sqlx::query_as!(Row, "select * from imports where status = 'running' and request_json is not null order by id")
            .fetch_all(&mut *tx)
            .await?;
    tx.commit().await?;
    let read = |row: Row| {
        let request = columns::from_json("imports.request_json", row.request_json.as_deref().unwrap_or_default())?;
        let Import { id, dataset_id, path, started_at, .. } = row.read()?;
        Ok((Import { id, started_at, ..Import::started(dataset_id, path) }, request))
    };
    rows.into_iter().map(read).collect()
}

/// Marks imports as failed that a dead process left running and that cannot resume; returns their number.
pub async fn fail_interrupted(db: &Db, reason: &str) -> Result<u64, StoreError> {
    let mut tx = db.begin().await?;
    let rows = sqlx::query_as!(Row, "select * from imports where status = 'running' and request_json is null")
        .fetch_all(&mut *tx)
        .await?;
    let mut failed = 0;
    for row in rows {
        let import = row.read()?;
        let status = import.status.transition(ImportStatus::Failed)?;
        let (error, finished_at) = (Some(reason.to_owned()), Some(Timestamp::now()));
        write(&mut tx, &Import { status, error, finished_at, ..import }).await?;
        failed += 1;
    }
    tx.commit().await?;
    Ok(failed)
}

impl RejectionKind {
    const ALL: [Self; 4] = [Self::Unusable, Self::Contradiction, Self::RowWithoutFile, Self::FileWithoutRow];

    fn as_str(self) -> &'static str {
        match self {
            Self::Unusable => "unusable",
            Self::Contradiction => "contradiction",
            Self::RowWithoutFile => "row-without-file",
            Self::FileWithoutRow => "file-without-row",
        }
    }
}

impl FromStr for RejectionKind {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or("unknown kind of rejection")
    }
}

struct RejectionRow {
    kind: String,
    file: String,
    line: Option<i64>,
    reason: String,
}

impl RejectionRow {
    fn read(self) -> Result<ImportRejection, StoreError> {
        Ok(ImportRejection {
            kind: columns::parse("import_rejections.kind", &self.kind)?,
            file: self.file,
            line: self.line.map(|line| columns::number("import_rejections.line", line)).transpose()?,
            reason: self.reason,
        })
    }
}

struct Row {
    id: String,
    dataset_id: String,
    path: String,
    status: String,
    total: i64,
    created: i64,
    duplicates: i64,
    conflicting: i64,
    rejected: i64,
    error: Option<String>,
    passed_over_json: String,
    started_at: String,
    finished_at: Option<String>,
    request_json: Option<String>,
}

impl Row {
    fn read(self) -> Result<Import, StoreError> {
        Ok(Import {
            id: columns::parse("imports.id", &self.id)?,
            dataset_id: columns::parse("imports.dataset_id", &self.dataset_id)?,
            path: self.path,
            status: columns::parse("imports.status", &self.status)?,
            total: columns::number("imports.total", self.total)?,
            created: columns::number("imports.created", self.created)?,
            duplicates: columns::number("imports.duplicates", self.duplicates)?,
            conflicting: columns::number("imports.conflicting", self.conflicting)?,
            rejected: columns::number("imports.rejected", self.rejected)?,
            error: self.error,
            passed_over: columns::from_json("imports.passed_over_json", &self.passed_over_json)?,
            started_at: columns::parse("imports.started_at", &self.started_at)?,
            finished_at: columns::parse_some("imports.finished_at", self.finished_at.as_deref())?,
        })
    }
}

#[cfg(test)]
mod tests;
