//! Promotes a model of the first successful run to champion.

use std::{cmp::Reverse, sync::Arc};

use super::WorkerContext;
use crate::{
    domain::{ModelId, RunEvent},
    evaluation::PairedTest,
    inference::Classifier,
    nn::NnError,
    store::{Db, Evaluation, Run, StoreError, Stores, evaluations, events, models, outcomes},
    training::selection_score,
};

/// Alias of the model that classifies images.
pub const CHAMPION: &str = "champion";

/// Promotes a model of the run and publishes it, unless there is a champion: that of the latest stage that is not significantly worse than
/// the best one. A model must pass its self-test: if it does not, the next one is tried, and the run's events say so.
pub(super) async fn promote_first(context: &WorkerContext, run: &Run) -> Result<(), StoreError> {
    let Stores { db, blobs, .. } = &context.stores;
    if models::by_alias(db, CHAMPION).await?.is_some() {
        return Ok(());
    }
    let of_run = evaluations::of_run(db, run.id, None, Some(run.plan.selection.split)).await?;
    for evaluation in in_order(db, of_run, run).await? {
        let Some(model) = models::get(db, evaluation.model_id).await? else { continue };
        let bytes = Arc::new(blobs.get(&model.sha256).await?);
        if let Err(error) = check(context, model.id, &bytes).await {
            tracing::error!(run = %run.id, model = %model.id, stage = model.stage, %error, "the model cannot become champion");
            let message = format!("{} cannot become champion: {error}", model.name);
            events::append(db, run.id, &RunEvent::Warning { message }).await?;
            continue;
        }
        models::set_alias(db, CHAMPION, model.id).await?;
        tracing::info!(run = %run.id, model = %model.id, stage = model.stage, "the first champion");
        (context.publish)(model.id, Arc::unwrap_or_clone(bytes));
        return Ok(());
    }
    Ok(())
}

/// Loads the model on the device that trained it, which runs its self-test.
async fn check(context: &WorkerContext, id: ModelId, bytes: &Arc<Vec<u8>>) -> Result<(), NnError> {
    let (bytes, device) = (Arc::clone(bytes), context.device.clone());
    let load = move || Classifier::load(id, &bytes, &device, 1).map(drop);
    let failed = |error: tokio::task::JoinError| NnError::Device(format!("the self-test of the model ended: {error}"));
    tokio::task::spawn_blocking(load).await.map_err(failed)?
}

/// The evaluations in the order in which their models are to be tried: first those that are not significantly worse than the best one, the
/// latest first, because later stages see larger images and a difference within chance says nothing; then the others by descending score.
async fn in_order(db: &Db, evaluations: Vec<Evaluation>, run: &Run) -> Result<Vec<Evaluation>, StoreError> {
    let mut by_score = best_first(evaluations, run).into_iter();
    let Some(best) = by_score.next() else { return Ok(Vec::new()) };
    let outcomes_of_best = Arc::new(outcomes::of_evaluation(db, best.id).await?);
    let (mut equal, mut worse) = (Vec::new(), Vec::new());
    for evaluation in by_score {
        let outcomes = outcomes::of_evaluation(db, evaluation.id).await?;
        let (reference, classes) = (Arc::clone(&outcomes_of_best), best.classes.len());
        let test = move || PairedTest::new(&reference, &outcomes, classes);
        let test = tokio::task::spawn_blocking(test)
            .await
            .map_err(|error| StoreError::Task(format!("the paired test failed: {error}")))?;
        // Nothing shows that a model is as good if its predictions are not stored.
        let is_worse = test.map_or(true, |test| test.is_worse(run.plan.selection.metric));
        if is_worse { &mut worse } else { &mut equal }.push(evaluation);
    }
    equal.push(best);
    equal.sort_by_key(|evaluation| Reverse(evaluation.stage));
    Ok([equal, worse].concat())
}

/// The evaluations by descending selection score. On a tie the later stage comes first, which trained on larger images.
fn best_first(mut evaluations: Vec<Evaluation>, run: &Run) -> Vec<Evaluation> {
    let score = |evaluation: &Evaluation| {
        selection_score(run.plan.selection.metric, &evaluation.confusion_matrix, evaluation.loss)
    };
    evaluations.reverse();
    evaluations.sort_by(|a, b| score(b).total_cmp(&score(a)));
    evaluations
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use burn::tensor::Device;

    use super::*;
    use crate::{
        domain::{Architecture, ConfusionMatrix, EvaluatedImage, ModelSpec, Sha256},
        nn::{DeviceChoice, Network},
        store::{EvaluationRecord, Model, fixtures},
    };

    /// Promotes a model of a run with two stages, of which the second scores best; `usable` says which stages pass the self-test. The stage
    /// of the champion, and the number of warnings.
    async fn promoted(usable: [bool; 2]) -> (Option<u32>, usize) {
        let folder = tempfile::tempdir().unwrap();
        let stores = Stores::open(folder.path()).await.unwrap();
        let dataset = fixtures::stored_dataset(&stores.db).await;
        let run = fixtures::stored_run(&stores.db, &dataset).await;
        for (stage, usable) in (1..).zip(usable) {
            let of_run = fixtures::model(Some(&run));
            let spec = ModelSpec { architecture: Architecture::SimpleCnn, image_size: 32, ..of_run.spec.clone() };
            let mut file = Network::random(&spec, stage.into(), &Device::flex()).to_bytes(&spec);
            if !usable {
                let last = file.len() - 4;
                file[last..].copy_from_slice(&f32::NAN.to_le_bytes());
            }
            let blob = stores.blobs.put(file).await.unwrap();
            let model = Model { stage: Some(stage), sha256: blob.sha256().clone(), spec, ..of_run };
            let scores = fixtures::evaluation(&model, &dataset, run.plan.selection.split);
            models::create(&stores.db, &model, &[scores]).await.unwrap();
        }
        let (device, device_info) = DeviceChoice::Cpu.open(None).unwrap();
        let published = Arc::new(Mutex::new(Vec::new()));
        let publish = Arc::clone(&published);
        let context = WorkerContext {
            publish: Arc::new(move |id, _| publish.lock().unwrap().push(id)),
            ..WorkerContext::idle(stores.clone(), device, device_info, 1)
        };
        promote_first(&context, &run).await.unwrap();
        let champion = models::by_alias(&stores.db, CHAMPION).await.unwrap();
        assert_eq!(*published.lock().unwrap(), champion.iter().map(|model| model.id).collect::<Vec<_>>());
        let events = events::list(&stores.db, run.id, 0, 100).await.unwrap();
        let warnings = events.iter().filter(|event| matches!(event.event, RunEvent::Warning { .. }));
        (champion.and_then(|model| model.stage), warnings.count())
    }

    /// Stages in the order in which their models are tried. Each stage classifies so many of 60 images wrongly.
    async fn tried(wrong: &[usize]) -> Vec<u32> {
        let (_folder, db) = fixtures::db().await;
        let dataset = fixtures::stored_dataset(&db).await;
        let run = fixtures::stored_run(&db, &dataset).await;
        for (stage, &wrong) in (1..).zip(wrong) {
            let model = Model { stage: Some(stage), ..fixtures::model(Some(&run)) };
            let image = |at: usize| {
                let truth = at % 3;
                let predicted = if at < wrong { (truth + 1) % 3 } else { truth };
                let probabilities = (0..3).map(|class| if class == predicted { 0.8 } else { 0.1 }).collect();
                EvaluatedImage { sha256: Sha256::of(&at.to_le_bytes()), patient: None, truth, predicted, probabilities }
            };
            let images: Vec<EvaluatedImage> = (0..60).map(image).collect();
            let mut confusion_matrix = ConfusionMatrix::new(3);
            images.iter().for_each(|image| confusion_matrix.record(image.truth, image.predicted));
            let evaluation = fixtures::evaluation(&model, &dataset, run.plan.selection.split);
            let evaluation = Evaluation { confusion_matrix, ..evaluation };
            fixtures::store_evaluated(&db, &model, &EvaluationRecord { evaluation, images }).await.unwrap();
        }
        let of_run = evaluations::of_run(&db, run.id, None, Some(run.plan.selection.split)).await.unwrap();
        in_order(&db, of_run, &run).await.unwrap().into_iter().filter_map(|evaluation| evaluation.stage).collect()
    }

    #[tokio::test]
    async fn the_latest_stage_that_is_not_significantly_worse_than_the_best_is_first() {
        assert_eq!(tried(&[2, 4, 3]).await, [3, 2, 1], "a few images are chance");
        assert_eq!(tried(&[20, 2, 5]).await, [3, 2, 1]);
        assert_eq!(tried(&[2, 4, 25]).await, [2, 1, 3]);
        assert_eq!(tried(&[2, 30, 25]).await, [1, 3, 2]);
        assert!(tried(&[]).await.is_empty());
    }

    #[tokio::test]
    async fn a_model_that_fails_its_self_test_does_not_become_champion() {
        assert_eq!(promoted([true, true]).await, (Some(2), 0));
        assert_eq!(promoted([true, false]).await, (Some(1), 1), "the next best");
        assert_eq!(promoted([false, false]).await, (None, 2));
    }
}
