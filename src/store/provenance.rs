//! Provenance of runs: device, program, and images with their splits, for repeating a run.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::SqliteConnection;
use utoipa::ToSchema;

use super::{Db, Page, StoreError, columns};
use crate::domain::{RunId, Sha256, Split};

/// Device and program that trained a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunEnvironment {
    /// Device, `cpu` or `vulkan:N`.
    pub device: String,
    /// Backend, `flex` or `vulkan`.
    pub device_backend: String,
    /// Name of the processor or adapter, as in `/v1/admin/devices`.
    pub device_description: String,
    /// Driver of the GPU with its version; null for a processor, and for runs from before this was recorded.
    pub device_driver: Option<String>,
    /// Version of the program.
    pub version: String,
    /// Commit from which the program was built; null if it was built outside a git repository.
    pub git_commit: Option<String>,
    /// Time of the first start of the run.
    #[schema(value_type = String, format = DateTime)]
    pub recorded_at: Timestamp,
}

/// Provenance of a run, in addition to its plan, seed and data fingerprint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Provenance {
    /// Device and program.
    #[serde(flatten)]
    pub environment: RunEnvironment,
    /// Number of images in each split, after a validation split was split off.
    #[schema(value_type = BTreeMap<String, u64>)]
    pub images: BTreeMap<Split, u64>,
}

/// An image as a run used it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunImage {
    /// Hash of its bytes.
    pub sha256: Sha256,
    /// Split, after a validation split was split off.
    pub split: Split,
    /// Label.
    pub label: String,
}

/// Records the provenance of a run in one transaction. A run that resumes keeps the provenance of its first start. `Gone` if there
/// is no such run.
pub async fn record(
    db: &Db,
    id: RunId,
    environment: &RunEnvironment,
    initial_weights: Option<&Sha256>,
    images: &[RunImage],
) -> Result<(), StoreError> {
    let mut tx = db.begin().await?;
    let (run, weights) = (id.to_string(), initial_weights.map(Sha256::as_str));
    let result = sqlx::query!("update runs set initial_weights_sha256 = ? where id = ?", weights, run);
    columns::must_exist(&result.execute(&mut *tx).await?)?;
    if insert(&mut tx, id, environment).await? {
        insert_images(&mut tx, id, images).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// True if the run had no provenance.
async fn insert(tx: &mut SqliteConnection, id: RunId, environment: &RunEnvironment) -> Result<bool, StoreError> {
    let (id, recorded_at) = (id.to_string(), columns::time(environment.recorded_at));
    let inserted = sqlx::query!(
        "insert into run_provenance (run_id, device, device_backend, device_description, device_driver, version, git_commit, recorded_at)
           values (?, ?, ?, ?, ?, ?, ?, ?) on conflict (run_id) do nothing",
        id,
        environment.device,
        environment.device_backend,
        environment.device_description,
        environment.device_driver,
        environment.version,
        environment.git_commit,
        recorded_at,
    )
    .execute(tx)
    .await?;
    Ok(inserted.rows_affected() > 0)
}

/// In one statement: thousands of images take milliseconds instead of seconds.
async fn insert_images(tx: &mut SqliteConnection, id: RunId, images: &[RunImage]) -> Result<(), StoreError> {
    let id = id.to_string();
    let images = serde_json::to_string(images).map_err(|why| StoreError::Row(format!("run_images: {why}")))?;
    sqlx::query!(
        "insert into run_images (run_id, sha256, split, label)
           select ?1, value ->> 'sha256', value ->> 'split', value ->> 'label' from json_each(?2)",
        id,
        images
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Provenance of a run; `None` before its first start, and for runs from before this was recorded.
pub async fn get(db: &Db, id: RunId) -> Result<Option<Provenance>, StoreError> {
    let id = id.to_string();
    let row =
        sqlx::query_as!(Row, "select * from run_provenance where run_id = ?", id).fetch_optional(db.read()).await?;
    let Some(row) = row else { return Ok(None) };
    let counts =
        sqlx::query!(r#"select split, count(*) as "images!: i64" from run_images where run_id = ? group by split"#, id)
            .fetch_all(db.read())
            .await?;
    let mut images = BTreeMap::new();
    for count in counts {
        let split = columns::parse("run_images.split", &count.split)?;
        images.insert(split, columns::number("images", count.images)?);
    }
    Ok(Some(Provenance { environment: row.read()?, images }))
}

/// A page of a run's images in order of their hashes, which are the cursor; optionally of one split.
pub async fn images(db: &Db, id: RunId, split: Option<Split>, page: &Page) -> Result<Vec<RunImage>, StoreError> {
    let (id, split, after) = (id.to_string(), split.map(Split::as_str), page.after());
    let rows = sqlx::query!(
        "select sha256, split, label from run_images where run_id = ?1 and sha256 > ?2 and (?3 is null or split = ?3)
           order by sha256 limit ?4",
        id,
        after,
        split,
        page.limit,
    )
    .fetch_all(db.read())
    .await?;
    let read = rows.into_iter().map(|row| {
        Ok(RunImage {
            sha256: columns::hash("run_images.sha256", row.sha256)?,
            split: columns::parse("run_images.split", &row.split)?,
            label: row.label,
        })
    });
    read.collect()
}

struct Row {
    #[allow(dead_code, reason = "a column")]
    run_id: String,
    device: String,
    device_backend: String,
    device_description: String,
    version: String,
    git_commit: Option<String>,
    recorded_at: String,
    device_driver: Option<String>,
}

impl Row {
    fn read(self) -> Result<RunEnvironment, StoreError> {
        Ok(RunEnvironment {
            device: self.device,
            device_backend: self.device_backend,
            device_description: self.device_description,
            device_driver: self.device_driver,
            version: self.version,
            git_commit: self.git_commit,
            recorded_at: columns::parse("run_provenance.recorded_at", &self.recorded_at)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{fixtures, runs};

    fn environment(device: &str) -> RunEnvironment {
        RunEnvironment {
            device: device.into(),
            device_backend: "flex".into(),
            device_description: "a processor".into(),
            device_driver: Some("a driver 1.2".into()),
            version: "0.1.0".into(),
            git_commit: Some("c0ffee".into()),
            recorded_at: Timestamp::now(),
        }
    }

    fn image(name: &str, split: Split) -> RunImage {
        RunImage { sha256: Sha256::of(name.as_bytes()), split, label: "normal".into() }
    }

    #[tokio::test]
    async fn returns_provenance_with_counts_and_deletes_it_with_its_run() {
        let (_dir, db) = fixtures::db().await;
        let dataset = fixtures::stored_dataset(&db).await;
        let run = fixtures::stored_run(&db, &dataset).await;
        assert_eq!(get(&db, run.id).await.unwrap(), None);
        let (environment, weights) = (environment("cpu"), Sha256::of(b"weights"));
        let mut all = vec![image("a", Split::Train), image("b", Split::Test), image("c", Split::Train)];
        record(&db, run.id, &environment, Some(&weights), &all).await.unwrap();
        let found = get(&db, run.id).await.unwrap().unwrap();
        assert_eq!(
            (found.environment, found.images),
            (environment, BTreeMap::from([(Split::Train, 2), (Split::Test, 1)]))
        );
        assert_eq!(runs::get(&db, run.id).await.unwrap().unwrap().initial_weights_sha256, Some(weights));

        all.sort_by(|a, b| a.sha256.cmp(&b.sha256));
        assert_eq!(images(&db, run.id, None, &fixtures::first_page()).await.unwrap(), all);
        let rest = Page { limit: 1, after: Some(all[0].sha256.to_string()) };
        assert_eq!(images(&db, run.id, None, &rest).await.unwrap(), all[1..2]);
        let test = images(&db, run.id, Some(Split::Test), &fixtures::first_page()).await.unwrap();
        assert_eq!(test, [image("b", Split::Test)]);

        runs::cancel(&db, run.id).await.unwrap();
        runs::delete(&db, run.id).await.unwrap();
        assert_eq!(get(&db, run.id).await.unwrap(), None);
        assert_eq!(images(&db, run.id, None, &fixtures::first_page()).await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_run_that_resumes_keeps_its_first_provenance() {
        let (_dir, db) = fixtures::db().await;
        let dataset = fixtures::stored_dataset(&db).await;
        let run = fixtures::stored_run(&db, &dataset).await;
        let images = [image("a", Split::Train)];
        record(&db, run.id, &environment("cpu"), None, &images).await.unwrap();
        record(&db, run.id, &environment("vulkan"), None, &images).await.unwrap();
        let found = get(&db, run.id).await.unwrap().unwrap();
        assert_eq!((found.environment.device.as_str(), found.images[&Split::Train]), ("cpu", 1));
    }

    #[tokio::test]
    async fn refuses_the_provenance_of_a_missing_run() {
        let (_dir, db) = fixtures::db().await;
        let refused = record(&db, RunId::new(), &environment("cpu"), None, &[]).await;
        assert!(matches!(refused, Err(StoreError::Gone)));
    }
}
