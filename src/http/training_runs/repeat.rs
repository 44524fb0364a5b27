//! `/v1/training-runs/{id}/repeat` and `/images`: what a run was trained on, and the same run again.

use axum::{Json, extract::State, response::IntoResponse};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    find, place,
    queue::{TrainingRun, shown},
};
use crate::{
    domain::{InitialWeights, RunId, Sha256, Split},
    http::{
        ApiError, AppState,
        answer::{self, Conflict, Malformed, NotFound},
        extract::{List, ListParams, PathOf, QueryOf},
    },
    store::{self, Provenance, Run, RunImage},
};

/// A run with what is needed to repeat it.
#[derive(Serialize, ToSchema)]
pub struct RecordedRun {
    #[serde(flatten)]
    run: TrainingRun,
    /// On what and by which program it was trained; null before it starts, and for runs from before this was recorded.
    provenance: Option<Provenance>,
}

/// Which images.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ImageParams {
    /// Only those of this split.
    split: Option<Split>,
}

pub async fn recorded(state: &AppState, run: Run) -> Result<RecordedRun, ApiError> {
    let provenance = store::provenance::get(&state.db, run.id).await?;
    Ok(RecordedRun { run: shown(state, run).await?, provenance })
}

/// Lists the images that a run was trained and evaluated on, split as it was after validation was carved from train; empty before
/// it starts. The cursor is an image's hash.
#[utoipa::path(
    get, path = "/v1/training-runs/{id}/images", tag = "training",
    params(("id" = RunId, Path), ImageParams, ListParams),
    responses((status = 200, description = "A page, by hash", body = List<RunImage>), Malformed, NotFound)
)]
pub async fn list_training_run_images(
    State(state): State<AppState>,
    PathOf(id): PathOf<RunId>,
    QueryOf(ImageParams { split }): QueryOf<ImageParams>,
    QueryOf(params): QueryOf<ListParams>,
) -> Result<Json<List<RunImage>>, ApiError> {
    let page = params.page()?;
    find(&state, id).await?;
    let images = store::provenance::images(&state.db, id, split, &page).await?;
    Ok(Json(List::of(images, &page, |image| image.sha256.to_string())))
}

/// Queues the same run again: the same plan, seed, data and initial weights. On the same device and with the same program it
/// gives the same numbers. Refused when the data set or the weights are no longer those of the run.
#[utoipa::path(
    post, path = "/v1/training-runs/{id}/repeat", tag = "training",
    params(("id" = RunId, Path)),
    responses((status = 202, description = "Queued; `repeats` names the first run", body = TrainingRun), NotFound, Conflict)
)]
pub async fn repeat_training_run(
    State(state): State<AppState>,
    PathOf(id): PathOf<RunId>,
) -> Result<impl IntoResponse, ApiError> {
    let first = find(&state, id).await?;
    check_data(&state, &first).await?;
    check_weights(&state, &first).await?;
    let run = again(first);
    store::runs::create(&state.db, &run).await?;
    state.run_queued.notify_one();
    Ok(answer::accepted(place(run.id), shown(&state, run).await?))
}

fn again(first: Run) -> Run {
    Run {
        name: first.name,
        recipe: first.recipe,
        initial_weights_sha256: first.initial_weights_sha256,
        repeats: Some(first.id),
        ..Run::queued(first.dataset_id, first.dataset_fingerprint, first.plan, first.seed)
    }
}

async fn check_data(state: &AppState, run: &Run) -> Result<(), ApiError> {
    if store::datasets::get(&state.db, run.dataset_id).await?.is_none() {
        return Err(ApiError::Conflict("the data set of the run was removed".into()));
    }
    let (then, now) = (&run.dataset_fingerprint, store::datasets::fingerprint(&state.db, run.dataset_id).await?);
    if *then == now {
        return Ok(());
    }
    Err(ApiError::Conflict(format!(
        "the data set changed since the run was submitted: its fingerprint was {then} and is {now}. Submit the plan as a new run"
    )))
}

async fn check_weights(state: &AppState, run: &Run) -> Result<(), ApiError> {
    if run.plan.initial_weights == InitialWeights::Random {
        return Ok(());
    }
    let known = store::weights::list(&state.db).await?;
    let refuse = |why: String| Err(ApiError::Conflict(why));
    match &run.initial_weights_sha256 {
        Some(hash) if known.iter().any(|weights| weights.sha256 == *hash) && is_there(state, hash).await? => Ok(()),
        Some(hash) => {
            refuse(format!("the ImageNet weights {hash}, which the run started from, are gone: import them again"))
        }
        None if run.started_at.is_some() => {
            refuse("the run is from before its initial weights were recorded: submit its plan as a new run".into())
        }
        None if known.is_empty() => refuse("there are no ImageNet weights to start from: import some".into()),
        None => Ok(()),
    }
}

async fn is_there(state: &AppState, hash: &Sha256) -> Result<bool, ApiError> {
    tokio::fs::try_exists(state.blobs.path(hash)).await.map_err(ApiError::internal)
}
