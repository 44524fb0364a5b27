//! `/v1/training-runs/{id}/repeat` and `/images`: repetition of a run, and the images it was trained on.

use axum::{Json, extract::State, response::IntoResponse};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{find, location, scheduled};
use crate::{
    domain::{RunId, Sha256, Split},
    http::{
        ApiError,
        extract::{List, ListParams, PathOf, QueryOf},
        responses::{self, Conflict, Malformed, NotFound},
    },
    service::{self, TrainingControl, TrainingRun},
    store::{self, Provenance, Run, RunImage, Stores},
};

/// A run with its provenance.
#[derive(Serialize, ToSchema)]
pub struct RecordedRun {
    #[serde(flatten)]
    run: TrainingRun,
    /// Data and program of the training; null before the run starts, and for runs from before this was recorded.
    provenance: Option<Provenance>,
}

/// Filter of images.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ImageParams {
    /// Only images of this split.
    split: Option<Split>,
}

pub async fn recorded(stores: &Stores, training: &TrainingControl, run: Run) -> Result<RecordedRun, ApiError> {
    let provenance = store::provenance::get(&stores.db, run.id).await?;
    Ok(RecordedRun { run: scheduled(stores, training, run).await?, provenance })
}

/// Lists the images that a run was trained and evaluated on, with the splits it used (after splitting validation images off train); empty
/// before the run starts. The cursor is an image's hash.
#[utoipa::path(
    get, path = "/v1/training-runs/{id}/images", tag = "training",
    params(("id" = RunId, Path), ImageParams, ListParams<Sha256>),
    responses((status = 200, description = "A page, by hash", body = List<RunImage>), Malformed, NotFound)
)]
pub async fn list_training_run_images(
    State(stores): State<Stores>,
    PathOf(id): PathOf<RunId>,
    QueryOf(ImageParams { split }): QueryOf<ImageParams>,
    QueryOf(params): QueryOf<ListParams<Sha256>>,
) -> Result<Json<List<RunImage>>, ApiError> {
    let page = params.page()?;
    find(&stores, id).await?;
    let images = store::provenance::images(&stores.db, id, split, &page).await?;
    Ok(Json(List::of(images, &page, |image| image.sha256.to_string())))
}

/// Repeats a run with the same plan, seed, data and initial weights. On the same device and with the same program the results are
/// identical. Refused if the data set or the weights have changed since.
#[utoipa::path(
    post, path = "/v1/training-runs/{id}/repeat", tag = "training",
    params(("id" = RunId, Path)),
    responses((status = 202, description = "Queued; `repeats` names the repeated run", body = TrainingRun), NotFound, Conflict)
)]
pub async fn repeat_training_run(
    State(stores): State<Stores>,
    State(training): State<TrainingControl>,
    PathOf(id): PathOf<RunId>,
) -> Result<impl IntoResponse, ApiError> {
    let run = service::repeat(&stores, id).await?;
    training.queued.notify_one();
    Ok(responses::accepted(location(run.id), scheduled(&stores, &training, run).await?))
}
