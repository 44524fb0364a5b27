//! Models and aliases.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::SqliteConnection;
use utoipa::ToSchema;

use super::{Db, Evaluation, EvaluationRecord, Page, StoreError, columns, evaluations, events, outcomes};
use crate::domain::{ModelId, ModelSpec, RunEvent, RunId, Sha256};

/// A model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Model {
    /// Identifier.
    pub id: ModelId,
    /// Run that trained it; null for an uploaded model.
    pub run_id: Option<RunId>,
    /// Stage of that run, from 1.
    pub stage: Option<u32>,
    /// Name; `model1`, `model2`, … for the stages of a run.
    pub name: String,
    /// Hash of the safetensors file.
    pub sha256: Sha256,
    /// Size of the file, in bytes.
    pub byte_length: u64,
    /// Architecture, classes and preprocessing.
    pub spec: ModelSpec,
    /// True if it was trained on synthetic phantoms.
    pub synthetic: bool,
    /// Aliases that point at it.
    pub aliases: Vec<String>,
    /// Time of creation.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// A change of an alias.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AliasChange {
    /// Number among the changes of all aliases.
    pub sequence: u64,
    /// Model to which the alias points since then.
    pub model_id: ModelId,
    /// Time of the change.
    #[schema(value_type = String, format = DateTime)]
    pub moved_at: Timestamp,
}

/// Query for models that meet a condition, each with its aliases.
macro_rules! select {
    ($condition:literal $(, $argument:expr)*) => {
        sqlx::query_as!(
            Row,
            r#"select id, run_id, stage, name, sha256, byte_length, spec_json, synthetic, created_at,
                 (select json_group_array(alias order by alias) from aliases where model_id = models.id)
                   as "aliases_json!: String"
               from models "# + $condition
            $(, $argument)*
        )
    };
}

/// Stores a model with its aliases and evaluations in one transaction. The model of a stage is an event of its run.
pub async fn create(db: &Db, model: &Model, evaluations: &[Evaluation]) -> Result<(), StoreError> {
    let mut tx = db.begin().await?;
    insert_named(&mut tx, model).await?;
    for evaluation in evaluations {
        evaluations::insert(&mut tx, evaluation).await?;
    }
    db.commit(tx).await
}

/// [`create`] within a transaction, with the predictions for each image.
pub(super) async fn create_in(
    tx: &mut SqliteConnection,
    model: &Model,
    evaluations: &[EvaluationRecord],
) -> Result<(), StoreError> {
    insert_named(tx, model).await?;
    for record in evaluations {
        evaluations::insert(tx, &record.evaluation).await?;
        outcomes::insert(tx, record).await?;
    }
    Ok(())
}

async fn insert_named(tx: &mut SqliteConnection, model: &Model) -> Result<(), StoreError> {
    insert(tx, model).await?;
    for alias in &model.aliases {
        point(tx, alias, model.id).await?;
    }
    if let (Some(run), Some(stage)) = (model.run_id, model.stage) {
        events::append_in(tx, run, &RunEvent::Stage { stage, model_id: model.id }).await?;
    }
    Ok(())
}

async fn insert(tx: &mut SqliteConnection, model: &Model) -> Result<(), StoreError> {
    let (id, run_id) = (model.id.to_string(), model.run_id.map(|id| id.to_string()));
    let sha256 = model.sha256.as_str();
    let byte_length: i64 = columns::number("models.byte_length", model.byte_length)?;
    let spec = columns::to_json("models.spec_json", &model.spec)?;
    let created_at = columns::time(model.created_at);
    sqlx::query!(
        "insert into models (id, run_id, stage, name, sha256, byte_length, spec_json, synthetic, created_at)
           values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        id,
        run_id,
        model.stage,
        model.name,
        sha256,
        byte_length,
        spec,
        model.synthetic,
        created_at,
    )
    .execute(tx)
    .await
    .map_err(|e| StoreError::from_insert(e, "a model of this identifier"))?;
    Ok(())
}

/// A model by its identifier.
pub async fn get(db: &Db, id: ModelId) -> Result<Option<Model>, StoreError> {
    get_in(&mut *db.read().acquire().await?, id).await
}

async fn get_in(tx: &mut SqliteConnection, id: ModelId) -> Result<Option<Model>, StoreError> {
    let id = id.to_string();
    let row = select!("where id = ?", id).fetch_optional(tx).await?;
    row.map(Row::read).transpose()
}

/// A page of models in order of creation, optionally of one run.
pub async fn list(db: &Db, run: Option<RunId>, page: &Page) -> Result<Vec<Model>, StoreError> {
    let run = run.map(|id| id.to_string());
    let after = page.after();
    let rows = select!("where id > ?1 and (?2 is null or run_id = ?2) order by id limit ?3", after, run, page.limit)
        .fetch_all(db.read())
        .await?;
    rows.into_iter().map(Row::read).collect()
}

/// Deletes a model with its evaluations; false if there was none, `InUse` while an alias points at it.
/// [`Blobs::sweep`](super::Blobs::sweep) removes its file later, unless another row names it.
pub async fn delete(db: &Db, id: ModelId) -> Result<bool, StoreError> {
    let mut tx = db.begin().await?;
    let Some(model) = get_in(&mut tx, id).await? else { return Ok(false) };
    // SQLite reports `on delete restrict` as a trigger's error, not as a foreign key's. Hence the check beforehand; the transaction holds
    // the write lock, so that no alias can be set in between.
    if !model.aliases.is_empty() {
        return Err(StoreError::InUse("an alias points at the model"));
    }
    let id = id.to_string();
    sqlx::query!("delete from models where id = ?", id).execute(&mut *tx).await?;
    tx.commit().await?;
    db.erase_soon();
    Ok(true)
}

/// Points an alias to a model. `Gone` if there is no such model.
pub async fn set_alias(db: &Db, alias: &str, id: ModelId) -> Result<(), StoreError> {
    let mut tx = db.begin().await?;
    point(&mut tx, alias, id).await?;
    tx.commit().await?;
    Ok(())
}

/// Deletes an alias; false if there was none. Its history is retained.
pub async fn remove_alias(db: &Db, alias: &str) -> Result<bool, StoreError> {
    let removed = sqlx::query!("delete from aliases where alias = ?", alias).execute(db.write()?).await?;
    Ok(removed.rows_affected() > 0)
}

async fn point(tx: &mut SqliteConnection, alias: &str, id: ModelId) -> Result<(), StoreError> {
    let id = id.to_string();
    let now = columns::time(Timestamp::now());
    sqlx::query!(
        "insert into aliases (alias, model_id, updated_at) values (?, ?, ?)
           on conflict (alias) do update set model_id = excluded.model_id, updated_at = excluded.updated_at",
        alias,
        id,
        now
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!("insert into alias_history (alias, model_id, moved_at) values (?, ?, ?)", alias, id, now)
        .execute(tx)
        .await?;
    Ok(())
}

/// A page of the changes of an alias, newest first.
pub async fn alias_history(db: &Db, alias: &str, page: &Page) -> Result<Vec<AliasChange>, StoreError> {
    // Without a cursor the page begins with the newest change.
    let before = page.after.as_deref().and_then(|after| after.parse().ok()).unwrap_or(i64::MAX);
    let rows = sqlx::query!(
        "select sequence, model_id, moved_at from alias_history where alias = ? and sequence < ?
           order by sequence desc limit ?",
        alias,
        before,
        page.limit,
    )
    .fetch_all(db.read())
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(AliasChange {
                sequence: columns::number("alias_history.sequence", row.sequence)?,
                model_id: columns::parse("alias_history.model_id", &row.model_id)?,
                moved_at: columns::parse("alias_history.moved_at", &row.moved_at)?,
            })
        })
        .collect()
}

/// The model to which an alias points.
pub async fn by_alias(db: &Db, alias: &str) -> Result<Option<Model>, StoreError> {
    let row =
        select!("where id = (select model_id from aliases where alias = ?)", alias).fetch_optional(db.read()).await?;
    row.map(Row::read).transpose()
}

struct Row {
    id: String,
    run_id: Option<String>,
    stage: Option<i64>,
    name: String,
    sha256: String,
    byte_length: i64,
    spec_json: String,
    synthetic: i64,
    created_at: String,
    aliases_json: String,
}

impl Row {
    fn read(self) -> Result<Model, StoreError> {
        Ok(Model {
            id: columns::parse("models.id", &self.id)?,
            run_id: columns::parse_some("models.run_id", self.run_id.as_deref())?,
            stage: self.stage.map(|stage| columns::number("models.stage", stage)).transpose()?,
            name: self.name,
            sha256: columns::hash("models.sha256", self.sha256)?,
            byte_length: columns::number("models.byte_length", self.byte_length)?,
            spec: columns::from_json("models.spec_json", &self.spec_json)?,
            synthetic: self.synthetic != 0,
            aliases: columns::from_json("aliases", &self.aliases_json)?,
            created_at: columns::parse("models.created_at", &self.created_at)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{domain::Split, store::fixtures};

    #[tokio::test]
    async fn returns_a_model_with_its_aliases_and_evaluations() {
        let (_dir, db) = fixtures::db().await;
        let dataset = fixtures::stored_dataset(&db).await;
        let run = fixtures::stored_run(&db, &dataset).await;
        let model = Model { aliases: vec!["best".into(), "production".into()], ..fixtures::model(Some(&run)) };
        let scores = [Split::Train, Split::Test].map(|split| fixtures::evaluation(&model, &dataset, split));
        create(&db, &model, &scores).await.unwrap();
        assert_eq!(get(&db, model.id).await.unwrap(), Some(model.clone()));
        assert_eq!(by_alias(&db, "best").await.unwrap(), Some(model.clone()));
        assert_eq!(evaluations::of_model(&db, model.id).await.unwrap(), scores);
        assert_eq!(get(&db, ModelId::new()).await.unwrap(), None);
    }

    #[tokio::test]
    async fn stores_no_model_whose_evaluation_cannot_be_stored() {
        let (_dir, db) = fixtures::db().await;
        let dataset = fixtures::stored_dataset(&db).await;
        let model = fixtures::model(None);
        let diverged = Evaluation { loss: f64::NAN, ..fixtures::evaluation(&model, &dataset, Split::Test) };
        assert!(create(&db, &model, &[diverged]).await.is_err());
        assert_eq!(get(&db, model.id).await.unwrap(), None);
    }

    #[tokio::test]
    async fn lists_all_models_or_those_of_one_run() {
        let (_dir, db) = fixtures::db().await;
        let dataset = fixtures::stored_dataset(&db).await;
        let run = fixtures::stored_run(&db, &dataset).await;
        let (first, second, upload) = (fixtures::model(Some(&run)), fixtures::model(Some(&run)), fixtures::model(None));
        for model in [&first, &second, &upload] {
            create(&db, model, &[]).await.unwrap();
        }
        let page = fixtures::first_page();
        assert_eq!(list(&db, Some(run.id), &page).await.unwrap(), [first.clone(), second.clone()]);
        assert_eq!(list(&db, None, &page).await.unwrap(), [first.clone(), second.clone(), upload]);
        let rest = Page { limit: 1, after: Some(first.id.to_string()) };
        assert_eq!(list(&db, None, &rest).await.unwrap(), [second]);
    }

    #[tokio::test]
    async fn an_alias_moves_between_models_and_protects_its_model_from_deletion() {
        let (_dir, db) = fixtures::db().await;
        let (old, new) = (fixtures::model(None), fixtures::model(None));
        create(&db, &old, &[]).await.unwrap();
        create(&db, &new, &[]).await.unwrap();
        assert_eq!(by_alias(&db, "production").await.unwrap(), None);
        set_alias(&db, "production", old.id).await.unwrap();
        assert_eq!(by_alias(&db, "production").await.unwrap().unwrap().aliases, ["production"]);
        assert!(matches!(delete(&db, old.id).await, Err(StoreError::InUse(_))));

        set_alias(&db, "production", new.id).await.unwrap();
        assert_eq!(by_alias(&db, "production").await.unwrap().unwrap().id, new.id);
        assert!(delete(&db, old.id).await.unwrap());
        assert!(!delete(&db, old.id).await.unwrap());
        let first = Page { limit: 1, after: None };
        let newest = alias_history(&db, "production", &first).await.unwrap();
        assert_eq!(newest.iter().map(|moved| moved.model_id).collect::<Vec<_>>(), [new.id]);
        let rest = Page { limit: 9, after: Some(newest[0].sequence.to_string()) };
        let rest = alias_history(&db, "production", &rest).await.unwrap();
        assert_eq!(
            rest.iter().map(|moved| moved.model_id).collect::<Vec<_>>(),
            [old.id],
            "the history outlives the model"
        );
        let nowhere = set_alias(&db, "production", old.id).await;
        assert!(matches!(nowhere, Err(StoreError::Gone)));
    }

    #[tokio::test]
    async fn deleting_a_model_deletes_its_evaluations() {
        let (_dir, db) = fixtures::db().await;
        let dataset = fixtures::stored_dataset(&db).await;
        let model = fixtures::model(None);
        let evaluation = fixtures::evaluation(&model, &dataset, Split::Test);
        create(&db, &model, std::slice::from_ref(&evaluation)).await.unwrap();
        assert!(delete(&db, model.id).await.unwrap());
        assert_eq!(evaluations::get(&db, evaluation.id).await.unwrap(), None);
    }
}
