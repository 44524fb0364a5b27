//! Data sets and their statistics.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::Digest;
use sqlx::SqliteConnection;
use utoipa::ToSchema;

use super::{Db, Page, StoreError, columns, runs};
use crate::domain::{ClassList, DatasetId, QualityFlag, Sha256, Split};

/// A data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Dataset {
    /// Identifier.
    pub id: DatasetId,
    /// Unique name.
    pub name: String,
    /// Free text.
    pub description: Option<String>,
    /// Classes, in the order of the network's outputs.
    pub classes: ClassList,
    /// True if it contains synthetic phantoms (`thorax phantoms`, `thorax demo`), or was created for them. Its runs and models are synthetic, too.
    pub synthetic: bool,
    /// Quality flags with which this data set rejects a radiograph. Others are stored with their flags.
    #[serde(default)]
    pub refuse: Vec<QualityFlag>,
    /// Time of creation.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// Counts by split and class, such as `images.train.normal`. Radiographs without a split count as `unassigned`, without a label as
/// `unlabelled`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Distribution {
    /// Number of images.
    pub images: BTreeMap<String, BTreeMap<String, u64>>,
    /// Number of different patients. A radiograph without a patient id counts as one patient.
    pub patients: BTreeMap<String, BTreeMap<String, u64>>,
}

impl Dataset {
    /// A data set with the default classes that rejects no quality flag.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            id: DatasetId::new(),
            name: name.into(),
            description: None,
            classes: ClassList::default(),
            synthetic: false,
            refuse: Vec::new(),
            created_at: Timestamp::now(),
        }
    }
}

/// Query for data sets that meet a condition. A data set is synthetic as soon as it contains a phantom.
macro_rules! select {
    ($condition:literal $(, $argument:expr)*) => {
        sqlx::query_as!(
            Row,
            r#"select id, name, description, classes_json, refuse_json, created_at,
                 (synthetic = 1 or exists (select 1 from radiographs where dataset_id = datasets.id and synthetic = 1))
                   as "synthetic!: i64"
               from datasets "# + $condition
            $(, $argument)*
        )
    };
}

/// Stores a data set; `Exists` if the name is in use.
pub async fn create(db: &Db, dataset: &Dataset) -> Result<(), StoreError> {
    let mut tx = db.begin().await?;
    insert_in(&mut tx, dataset).await?;
    tx.commit().await?;
    Ok(())
}

/// The data set of this name. Stores this one if there is none, so that concurrent callers get the same one.
pub async fn find_or_create(db: &Db, dataset: Dataset) -> Result<Dataset, StoreError> {
    let mut tx = db.begin().await?;
    if let Some(known) = find_by_name_in(&mut tx, &dataset.name).await? {
        return Ok(known);
    }
    insert_in(&mut tx, &dataset).await?;
    tx.commit().await?;
    Ok(dataset)
}

async fn insert_in(tx: &mut SqliteConnection, dataset: &Dataset) -> Result<(), StoreError> {
    let id = dataset.id.to_string();
    let classes = columns::to_json("datasets.classes_json", &dataset.classes)?;
    let refuse = columns::to_json("datasets.refuse_json", &dataset.refuse)?;
    let created_at = columns::time(dataset.created_at);
    sqlx::query!(
        "insert into datasets (id, name, description, classes_json, synthetic, refuse_json, created_at)
           values (?, ?, ?, ?, ?, ?, ?)",
        id,
        dataset.name,
        dataset.description,
        classes,
        dataset.synthetic,
        refuse,
        created_at,
    )
    .execute(tx)
    .await
    .map_err(|e| StoreError::from_insert(e, "a data set of this name"))?;
    Ok(())
}

/// A data set by its identifier.
pub async fn get(db: &Db, id: DatasetId) -> Result<Option<Dataset>, StoreError> {
    let id = id.to_string();
    let row = select!("where id = ?", id).fetch_optional(db.read()).await?;
    row.map(Row::read).transpose()
}

/// A data set by its unique name.
pub async fn find_by_name(db: &Db, name: &str) -> Result<Option<Dataset>, StoreError> {
    find_by_name_in(&mut *db.read().acquire().await?, name).await
}

async fn find_by_name_in(tx: &mut SqliteConnection, name: &str) -> Result<Option<Dataset>, StoreError> {
    let row = select!("where name = ?", name).fetch_optional(tx).await?;
    row.map(Row::read).transpose()
}

/// A page of data sets in order of creation.
pub async fn list(db: &Db, page: &Page) -> Result<Vec<Dataset>, StoreError> {
    let after = page.after();
    let rows = select!("where id > ? order by id limit ?", after, page.limit).fetch_all(db.read()).await?;
    rows.into_iter().map(Row::read).collect()
}

/// Deletes a data set without radiographs, with its imports; false if there was none, or if it has radiographs.
pub async fn delete_empty(db: &Db, id: DatasetId) -> Result<bool, StoreError> {
    let id = id.to_string();
    let deleted = sqlx::query!(
        "delete from datasets where id = ?1 and not exists (select 1 from radiographs where dataset_id = ?1)",
        id
    )
    .execute(db.write()?)
    .await?;
    Ok(deleted.rows_affected() > 0)
}

/// Deletes a data set with its radiographs and imports; false if there was none, `InUse` while a run on it is not final.
/// [`Blobs::sweep`](super::Blobs::sweep) removes the files later, unless another row names them.
pub async fn delete(db: &Db, id: DatasetId) -> Result<bool, StoreError> {
    let mut tx = db.begin().await?;
    if runs::count_active_in(&mut tx, id).await? > 0 {
        return Err(StoreError::InUse("a training run on this data set has not ended"));
    }
    let id = id.to_string();
    let deleted = sqlx::query!("delete from datasets where id = ?", id).execute(&mut *tx).await?.rows_affected();
    tx.commit().await?;
    db.erase_soon();
    Ok(deleted > 0)
}

/// Images and patients by split and class.
pub async fn distribution(db: &Db, id: DatasetId) -> Result<Distribution, StoreError> {
    let id = id.to_string();
    let rows = sqlx::query!(
        r#"select ifnull(split, 'unassigned') as "split!: String", ifnull(label, 'unlabelled') as "label!: String",
             count(*) as "images!: i64",
             count(distinct patient_id) + count(*) - count(patient_id) as "patients!: i64"
           from radiographs where dataset_id = ? group by 1, 2"#,
        id
    )
    .fetch_all(db.read())
    .await?;
    let mut counted = Distribution::default();
    for row in rows {
        let images = columns::number("images", row.images)?;
        let patients = columns::number("patients", row.patients)?;
        counted.images.entry(row.split.clone()).or_default().insert(row.label.clone(), images);
        counted.patients.entry(row.split).or_default().insert(row.label, patients);
    }
    Ok(counted)
}

/// SHA-256 over image hashes, labels and splits, independent of the order of insertion.
pub async fn fingerprint(db: &Db, id: DatasetId) -> Result<String, StoreError> {
    let id = id.to_string();
    let rows = sqlx::query!("select sha256, label, split from radiographs where dataset_id = ? order by sha256", id)
        .fetch_all(db.read())
        .await?;
    let mut digest = sha2::Sha256::new();
    for row in rows {
        // One JSON array a line, so that no label can be read as two fields or two lines.
        let line = serde_json::json!([row.sha256, row.label, row.split]).to_string();
        digest.update(line);
        digest.update("\n");
    }
    Ok(Sha256::from_digest(&digest.finalize()).into())
}

/// Patients who occur in more than one split, with these splits.
pub async fn patients_in_several_splits(db: &Db, id: DatasetId) -> Result<Vec<(String, Vec<Split>)>, StoreError> {
    let id = id.to_string();
    let rows = sqlx::query!(
        r#"select distinct patient_id as "patient_id!", split as "split!" from radiographs
           where dataset_id = ?1 and split is not null and patient_id in
             (select patient_id from radiographs where dataset_id = ?1 group by patient_id
              having count(distinct split) > 1)"#,
        id
    )
    .fetch_all(db.read())
    .await?;
    let mut patients: BTreeMap<String, Vec<Split>> = BTreeMap::new();
    for row in rows {
        patients.entry(row.patient_id).or_default().push(columns::parse("radiographs.split", &row.split)?);
    }
    patients.values_mut().for_each(|splits| splits.sort());
    Ok(patients.into_iter().collect())
}

struct Row {
    id: String,
    name: String,
    description: Option<String>,
    classes_json: String,
    synthetic: i64,
    created_at: String,
    refuse_json: String,
}

impl Row {
    fn read(self) -> Result<Dataset, StoreError> {
        Ok(Dataset {
            id: columns::parse("datasets.id", &self.id)?,
            name: self.name,
            description: self.description,
            classes: columns::from_json("datasets.classes_json", &self.classes_json)?,
            synthetic: self.synthetic != 0,
            refuse: columns::from_json("datasets.refuse_json", &self.refuse_json)?,
            created_at: columns::parse("datasets.created_at", &self.created_at)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        domain::RunStatus,
        store::{RadiographPatch, fixtures, imports, radiographs},
    };

    #[tokio::test]
    async fn returns_a_data_set_as_stored() {
        let (_dir, db) = fixtures::db().await;
        let dataset = fixtures::stored_dataset(&db).await;
        assert_eq!(get(&db, dataset.id).await.unwrap(), Some(dataset.clone()));
        assert_eq!(find_by_name(&db, "covidx").await.unwrap(), Some(dataset));
        assert_eq!(get(&db, DatasetId::new()).await.unwrap(), None);
        assert_eq!(find_by_name(&db, "other").await.unwrap(), None);
    }

    #[tokio::test]
    async fn refuses_a_name_in_use() {
        let (_dir, db) = fixtures::db().await;
        fixtures::stored_dataset(&db).await;
        let again = create(&db, &fixtures::dataset("covidx")).await;
        assert!(matches!(again, Err(StoreError::Exists("a data set of this name"))));
    }

    #[tokio::test]
    async fn pages_have_no_gap_and_no_overlap() {
        let (_dir, db) = fixtures::db().await;
        let made: Vec<_> = (0..5).map(|i| fixtures::dataset(&format!("set-{i}"))).collect();
        for dataset in made.iter().rev() {
            create(&db, dataset).await.unwrap();
        }
        let mut seen = Vec::new();
        let mut page = Page { limit: 2, after: None };
        loop {
            let items = list(&db, &page).await.unwrap();
            let Some(last) = items.last() else { break };
            page.after = Some(last.id.to_string());
            seen.extend(items);
        }
        assert_eq!(seen, made);
    }

    #[tokio::test]
    async fn deleting_a_data_set_deletes_its_rows_and_no_others() {
        let (_dir, db) = fixtures::db().await;
        let (dataset, other) = (fixtures::stored_dataset(&db).await, fixtures::dataset("other"));
        create(&db, &other).await.unwrap();
        let shared = fixtures::stored_radiograph(&db, &dataset, "shared").await;
        fixtures::stored_radiograph(&db, &other, "shared").await;
        let import = fixtures::stored_import(&db, &dataset).await;

        assert!(delete(&db, dataset.id).await.unwrap());
        assert_eq!(radiographs::get(&db, shared.id).await.unwrap(), None);
        assert_eq!(imports::get(&db, import.id).await.unwrap(), None);
        assert_eq!(radiographs::all(&db, other.id).await.unwrap().len(), 1);
        assert!(!delete(&db, dataset.id).await.unwrap());
    }

    #[tokio::test]
    async fn a_data_set_cannot_be_deleted_during_a_run_on_it_and_the_run_outlives_it() {
        let (_dir, db) = fixtures::db().await;
        let dataset = fixtures::stored_dataset(&db).await;
        let run = fixtures::stored_run(&db, &dataset).await;
        assert!(matches!(delete(&db, dataset.id).await, Err(StoreError::InUse(_))));
        assert!(get(&db, dataset.id).await.unwrap().is_some());
        runs::cancel(&db, run.id).await.unwrap();
        assert!(delete(&db, dataset.id).await.unwrap());
        assert_eq!(runs::get(&db, run.id).await.unwrap().unwrap().status, RunStatus::Cancelled);
    }

    #[tokio::test]
    async fn counts_patients_once_per_split_and_class_and_unknown_ones_individually() {
        let (_dir, db) = fixtures::db().await;
        let dataset = fixtures::stored_dataset(&db).await;
        let rows = [
            ("a", Some("p1"), Some("normal"), Some(Split::Train)),
            ("b", Some("p1"), Some("normal"), Some(Split::Train)),
            ("c", None, Some("normal"), Some(Split::Train)),
            ("d", None, Some("normal"), Some(Split::Train)),
            ("e", Some("p1"), Some("pneumonia"), Some(Split::Train)),
            ("f", Some("p2"), None, None),
        ];
        for (content, patient, label, split) in rows {
            let mut radiograph = fixtures::radiograph(&dataset, content);
            radiograph.patient_id = patient.map(String::from);
            radiograph.label = label.map(String::from);
            radiograph.split = split;
            radiographs::insert_all(&db, &[(&radiograph, radiographs::RadiographExtras::default())]).await.unwrap();
        }
        let counted = serde_json::to_value(distribution(&db, dataset.id).await.unwrap()).unwrap();
        let expected = serde_json::json!({
            "images": {"train": {"normal": 4, "pneumonia": 1}, "unassigned": {"unlabelled": 1}},
            "patients": {"train": {"normal": 3, "pneumonia": 1}, "unassigned": {"unlabelled": 1}},
        });
        assert_eq!(counted, expected);
        assert_eq!(distribution(&db, DatasetId::new()).await.unwrap(), Distribution::default());
    }

    #[tokio::test]
    async fn the_fingerprint_depends_on_the_content_and_not_on_the_order_of_insertion() {
        let (_dir, db) = fixtures::db().await;
        let (dataset, reversed) = (fixtures::stored_dataset(&db).await, fixtures::dataset("reversed"));
        create(&db, &reversed).await.unwrap();
        for (forwards, backwards) in [("a", "c"), ("b", "b"), ("c", "a")] {
            fixtures::stored_radiograph(&db, &dataset, forwards).await;
            fixtures::stored_radiograph(&db, &reversed, backwards).await;
        }
        let before = fingerprint(&db, dataset.id).await.unwrap();
        assert_eq!(before.len(), 64);
        assert_eq!(before, fingerprint(&db, reversed.id).await.unwrap());

        let id = radiographs::all(&db, dataset.id).await.unwrap()[0].id;
        let mut seen = vec![before];
        let changes = [
            RadiographPatch { label: Some("pneumonia".into()), ..Default::default() },
            RadiographPatch { split: Some(Split::Test), ..Default::default() },
        ];
        for change in changes {
            radiographs::patch(&db, id, &change).await.unwrap();
            let now = fingerprint(&db, dataset.id).await.unwrap();
            assert!(!seen.contains(&now));
            seen.push(now);
        }
        radiographs::delete(&db, id).await.unwrap();
        assert!(!seen.contains(&fingerprint(&db, dataset.id).await.unwrap()));
    }

    #[tokio::test]
    async fn finds_patients_in_two_splits_and_ignores_images_without_patient() {
        let (_dir, db) = fixtures::db().await;
        let dataset = fixtures::stored_dataset(&db).await;
        let rows = [
            ("a", Some("both"), Some(Split::Test)),
            ("b", Some("both"), Some(Split::Train)),
            ("c", Some("both"), Some(Split::Train)),
            ("d", Some("train only"), Some(Split::Train)),
            ("e", Some("train only"), None),
            ("f", None, Some(Split::Train)),
            ("g", None, Some(Split::Test)),
        ];
        for (content, patient, split) in rows {
            let mut radiograph = fixtures::radiograph(&dataset, content);
            radiograph.patient_id = patient.map(String::from);
            radiograph.split = split;
            radiographs::insert_all(&db, &[(&radiograph, radiographs::RadiographExtras::default())]).await.unwrap();
        }
        let leaking = patients_in_several_splits(&db, dataset.id).await.unwrap();
        assert_eq!(leaking, [("both".to_owned(), vec![Split::Train, Split::Test])]);
    }
}
