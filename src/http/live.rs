//! `/v1/models/{id}/live`: how a model does while it serves.

use axum::{Json, extract::State};
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiError, AppState,
    answer::{Malformed, NotFound},
    extract::{PathOf, QueryOf},
    models,
};
use crate::{
    domain::{InputHistograms, ModelId, NOTICE, PredictionId, PredictionStats},
    evaluation::{Agreement, Drift, LiveTraffic},
    imaging,
    store::{self, PredictionPair},
};

/// Longest time that is looked back on, in hours.
const MOST_HOURS: u32 = 24 * 31;

/// Planes that are in memory at once while the training images are counted.
const PLANES: u32 = 1000;

/// Newest disagreements that are named.
const NAMED: u32 = 20;

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(get_live))
}

/// How far back.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct LiveParams {
    /// Hours to look back on, 1 to 744.
    #[serde(default = "a_day")]
    #[param(minimum = 1, maximum = 744, default = 24)]
    hours: u32,
}

fn a_day() -> u32 {
    24
}

/// How a model did since then.
#[derive(Serialize, ToSchema)]
struct Live {
    model_id: ModelId,
    /// Since when; the hour in which that lies is counted whole.
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    /// All of it.
    #[serde(flatten)]
    traffic: LiveTraffic,
    /// Whether the images are like those that the model was trained on.
    drift: LiveDrift,
    /// What clinicians say of it.
    feedback: Disagreement,
    /// What it says, as the challenger, about images that another model answered.
    shadow: Shadowing,
    /// Hour by hour; those without predictions are left out.
    hours: Vec<LiveHour>,
    /// For research only.
    notice: &'static str,
}

/// The images beside those of training.
#[derive(Serialize, ToSchema)]
struct LiveDrift {
    /// Training images that were counted; 0 where none are known: an uploaded model's, or those that were removed.
    trained_images: u64,
    /// By statistic; empty without training images.
    statistics: Vec<Drift>,
}

/// How far others agree.
#[derive(Serialize, ToSchema)]
struct Disagreement {
    #[serde(flatten)]
    agreement: Agreement,
    /// What the model said and what the other one said.
    pairs: Vec<PredictionPair>,
}

/// A challenger beside who answered.
#[derive(Serialize, ToSchema)]
struct Shadowing {
    #[serde(flatten)]
    disagreement: Disagreement,
    /// The newest predictions on which they differ.
    newest: Vec<PredictionId>,
}

/// An hour.
#[derive(Serialize, ToSchema)]
struct LiveHour {
    /// Its beginning.
    #[schema(value_type = String, format = DateTime)]
    from: Timestamp,
    #[serde(flatten)]
    traffic: LiveTraffic,
    /// As of all.
    drift: Vec<Drift>,
}

/// Volume, classes, confidence, latency, drift of the images against those of training, and disagreement: with clinicians' feedback, and
/// of a challenger with the model that answered. Counts stay when single predictions are removed; feedback goes with them.
#[utoipa::path(get, path = "/v1/models/{id}/live", tag = "models", params(("id" = ModelId, Path), LiveParams), responses(
    (status = 200, body = Live),
    Malformed,
    NotFound
))]
async fn get_live(
    State(state): State<AppState>,
    PathOf(id): PathOf<ModelId>,
    QueryOf(LiveParams { hours }): QueryOf<LiveParams>,
) -> Result<Json<Live>, ApiError> {
    if !(1..=MOST_HOURS).contains(&hours) {
        return Err(ApiError::Malformed(format!("hours must be 1 to {MOST_HOURS}")));
    }
    models::find(&state, id).await?;
    state.predictions.flush().await;
    let since = Timestamp::now() - i64::from(hours).hours();
    let trained = baseline(&state, id).await?;
    // At once: beside a run that trains, each reader's thread waits for a processor.
    let (counted, feedback, shadowed, newest) = tokio::try_join!(
        store::prediction_stats::hours(&state.db, id, since),
        store::predictions::feedback_of(&state.db, id, since),
        store::shadows::pairs(&state.db, id),
        store::shadows::disagreements(&state.db, id, NAMED),
    )?;
    let (feedback, disagreement) = (Disagreement::of(feedback), Disagreement::of(shadowed));
    let mut all = PredictionStats::default();
    counted.iter().for_each(|(_, counts)| all.merge(counts));
    let drift_of = |counts: &PredictionStats| match trained.images() {
        0 => Vec::new(),
        _ => Drift::of_all(&trained, counts.inputs()),
    };
    let hour = |(from, counts): &(Timestamp, PredictionStats)| LiveHour {
        from: *from,
        traffic: LiveTraffic::of(counts),
        drift: drift_of(counts),
    };
    Ok(Json(Live {
        model_id: id,
        since,
        traffic: LiveTraffic::of(&all),
        drift: LiveDrift { trained_images: trained.images(), statistics: drift_of(&all) },
        feedback,
        shadow: Shadowing { disagreement, newest },
        hours: counted.iter().map(hour).collect(),
        notice: NOTICE,
    }))
}

impl Disagreement {
    fn of(pairs: Vec<PredictionPair>) -> Self {
        let count =
            |of: &dyn Fn(&PredictionPair) -> bool| pairs.iter().filter(|pair| of(pair)).map(|pair| pair.count).sum();
        let (compared, agreed) = (count(&|_| true), count(&|pair| pair.said == pair.other));
        Self { agreement: Agreement::of(compared, agreed), pairs }
    }
}

/// What the training images are like: counted when it is first asked for, and kept, for they may be removed.
async fn baseline(state: &AppState, model: ModelId) -> Result<InputHistograms, ApiError> {
    if let Some(known) = store::prediction_stats::baseline(&state.db, model).await? {
        return Ok(known);
    }
    let (mut counts, mut after) = (InputHistograms::default(), String::new());
    loop {
        let (planes, last) = store::prediction_stats::training_thumbnails(&state.db, model, &after, PLANES).await?;
        let Some(last) = last else { break };
        after = last;
        let count = move || {
            for of in planes {
                counts.record(&imaging::statistics_of_plane(&of.plane, of.width, of.height));
            }
            counts
        };
        counts = tokio::task::spawn_blocking(count).await.map_err(ApiError::internal)?;
    }
    if counts.images() > 0 {
        store::prediction_stats::put_baseline(&state.db, model, &counts).await?;
    }
    Ok(counts)
}
