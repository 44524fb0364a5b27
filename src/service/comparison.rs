//! Comparison of training runs.

use super::{Error, FieldError, Stores};
use crate::{
    domain::{RunId, Split},
    evaluation::{ComparedModel, Comparison, ComparisonInput, ModelEvaluation},
    nn,
    store::{self, Blobs, Db, Evaluation, Run},
};

/// Maximum number of runs in a comparison.
pub const MAX_COMPARED_RUNS: usize = 20;

/// Compares runs by their models of `stage`, or of their last stage, on `split`.
///
/// # Errors
/// [`Error::Invalid`] names each unknown run as `/ids/<position>`. A run without such a model is no error: it has no figures.
pub async fn compare(stores: &Stores, runs: &[RunId], split: Split, stage: Option<u32>) -> Result<Comparison, Error> {
    let Stores { db, blobs, .. } = stores;
    let mut inputs = Vec::with_capacity(runs.len());
    for run in all(db, runs).await? {
        inputs.push(comparison_input(db, blobs, run, split, stage).await?);
    }
    Ok(tokio::task::spawn_blocking(move || Comparison::new(split, stage, inputs)).await?)
}

async fn all(db: &Db, ids: &[RunId]) -> Result<Vec<Run>, Error> {
    let (mut runs, mut missing) = (Vec::with_capacity(ids.len()), Vec::new());
    for (position, &id) in ids.iter().enumerate() {
        match store::runs::get(db, id).await? {
            Some(run) => runs.push(run),
            None => missing.push(FieldError::new(format!("/ids/{position}"), format!("there is no training run {id}"))),
        }
    }
    if missing.is_empty() { Ok(runs) } else { Err(Error::Invalid(missing)) }
}

async fn comparison_input(
    db: &Db,
    blobs: &Blobs,
    run: Run,
    split: Split,
    stage: Option<u32>,
) -> Result<ComparisonInput, Error> {
    let mut evaluations = store::evaluations::of_run(db, run.id, stage, Some(split)).await?;
    // Sorted by stage; within a stage the newest is last.
    let evaluated = match evaluations.pop() {
        Some(evaluation) => evaluated(db, blobs, evaluation).await?,
        None => None,
    };
    let seconds = run.started_at.zip(run.finished_at).map(|(from, to)| to.duration_since(from).as_secs_f64());
    Ok(ComparisonInput {
        epochs: store::runs::epochs(db, run.id, 0).await?,
        id: run.id,
        name: run.name,
        recipe: run.recipe,
        status: run.status,
        plan: run.plan,
        seed: run.seed,
        dataset_id: run.dataset_id,
        dataset_fingerprint: run.dataset_fingerprint,
        training_seconds: seconds,
        evaluated,
    })
}

/// `None` if the model was deleted after its evaluation was read.
async fn evaluated(db: &Db, blobs: &Blobs, evaluation: Evaluation) -> Result<Option<ModelEvaluation>, Error> {
    let Some(model) = store::models::get(db, evaluation.model_id).await? else { return Ok(None) };
    let path = blobs.path(&model.sha256);
    let parameters = tokio::task::spawn_blocking(move || nn::parameter_count(&path)).await?.map_err(Error::internal)?;
    let outcomes = store::outcomes::of_evaluation(db, evaluation.id).await?;
    let model = ComparedModel {
        id: model.id,
        evaluation_id: evaluation.id,
        stage: evaluation.stage.unwrap_or_default(),
        classes: evaluation.classes,
        image_size: model.spec.image_size,
        parameters,
        byte_length: model.byte_length,
        synthetic: model.synthetic,
    };
    let (selection_split, confusion) = (evaluation.selection_split, evaluation.confusion_matrix);
    Ok(Some(ModelEvaluation { model, selection_split, confusion, outcomes }))
}
