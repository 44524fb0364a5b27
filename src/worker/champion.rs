//! Promotes a model of the first successful run to champion.

use super::WorkerContext;
use crate::{
    store::{Evaluation, Run, StoreError, Stores, evaluations, models},
    training::selection_score,
};

/// Alias of the model that classifies images.
pub const CHAMPION: &str = "champion";

/// Promotes the model of the run's best stage and publishes it, unless there is a champion.
pub(super) async fn promote_first(context: &WorkerContext, run: &Run) -> Result<(), StoreError> {
    let Stores { db, blobs, .. } = &context.stores;
    if models::by_alias(db, CHAMPION).await?.is_some() {
        return Ok(());
    }
    let of_run = evaluations::of_run(db, run.id, None, Some(run.plan.selection.split)).await?;
    let Some(best) = best(&of_run, run) else { return Ok(()) };
    let Some(model) = models::get(db, best.model_id).await? else { return Ok(()) };
    let bytes = blobs.get(&model.sha256).await?;
    models::set_alias(db, CHAMPION, model.id).await?;
    tracing::info!(run = %run.id, model = %model.id, stage = model.stage, "the first champion");
    (context.publish)(model.id, bytes);
    Ok(())
}

/// The evaluation with the best selection score. On a tie the later stage wins, which trained on larger images.
fn best<'a>(evaluations: &'a [Evaluation], run: &Run) -> Option<&'a Evaluation> {
    let score = |evaluation: &Evaluation| {
        selection_score(run.plan.selection.metric, &evaluation.confusion_matrix, evaluation.loss)
    };
    evaluations.iter().max_by(|a, b| score(a).total_cmp(&score(b)))
}
