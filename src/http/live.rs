//! `/v1/models/{id}/live`: monitoring of a model in service.

use axum::{Json, extract::State};
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::{
    ApiError, AppState,
    extract::{PathOf, QueryOf},
    models,
    responses::{Malformed, NotFound},
};
use crate::{
    domain::{ModelId, NOTICE, PredictionId, PredictionStats},
    evaluation::{Agreement, Drift, LiveTraffic},
    service::{self, Serving},
    store::{self, PredictionPair, Stores},
};

/// Maximum length of the time window, in hours.
const MAX_HOURS: u32 = 24 * 31;

/// Number of latest disagreements in a response.
const LATEST: u32 = 20;

/// The routes of this file.
pub(super) fn router() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(get_live))
}

/// Time window.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct LiveParams {
    /// Length of the time window in hours, 1 to 744.
    #[serde(default = "a_day")]
    #[param(minimum = 1, maximum = 744, default = 24)]
    hours: u32,
}

fn a_day() -> u32 {
    24
}

/// Traffic of a model in a time window.
#[derive(Serialize, ToSchema)]
struct Live {
    model_id: ModelId,
    /// Start of the time window; its hour is counted as a whole.
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    /// Total over the time window.
    #[serde(flatten)]
    traffic: LiveTraffic,
    /// Drift of the input images against the training images.
    drift: LiveDrift,
    /// Agreement with clinicians' feedback.
    feedback: Disagreement,
    /// Agreement, as the challenger, with the model that served.
    shadow: Shadowing,
    /// By hour; hours without predictions are omitted.
    hours: Vec<LiveHour>,
    /// For research only.
    notice: &'static str,
}

/// Drift of the input images against the training images.
#[derive(Serialize, ToSchema)]
struct LiveDrift {
    /// Number of training images in the baseline; 0 where none are known (uploaded model, deleted images).
    trained_images: u64,
    /// Drift by statistic; empty without training images.
    statistics: Vec<Drift>,
}

/// Agreement with another source of labels.
#[derive(Serialize, ToSchema)]
struct Disagreement {
    #[serde(flatten)]
    agreement: Agreement,
    /// Counts of each pair of classes: the model's and the other one.
    pairs: Vec<PredictionPair>,
}

/// Agreement of a challenger with the model that served.
#[derive(Serialize, ToSchema)]
struct Shadowing {
    #[serde(flatten)]
    disagreement: Disagreement,
    /// Latest predictions on which they disagree.
    newest: Vec<PredictionId>,
}

/// One hour of traffic.
#[derive(Serialize, ToSchema)]
struct LiveHour {
    /// Start of the hour.
    #[schema(value_type = String, format = DateTime)]
    from: Timestamp,
    #[serde(flatten)]
    traffic: LiveTraffic,
    /// Drift in this hour.
    drift: Vec<Drift>,
}

/// Monitors a model in service: volume, classes, confidence, latency, drift of the images against the training images, and agreement
/// with clinicians' feedback and with a challenger. Counts are kept when single predictions are deleted; feedback is deleted with them.
#[utoipa::path(get, path = "/v1/models/{id}/live", tag = "models", params(("id" = ModelId, Path), LiveParams), responses(
    (status = 200, description = "Statistics of the time window", body = Live),
    Malformed,
    NotFound
))]
async fn get_live(
    State(stores): State<Stores>,
    State(serving): State<Serving>,
    PathOf(id): PathOf<ModelId>,
    QueryOf(LiveParams { hours }): QueryOf<LiveParams>,
) -> Result<Json<Live>, ApiError> {
    if !(1..=MAX_HOURS).contains(&hours) {
        return Err(ApiError::Malformed(format!("hours must be 1 to {MAX_HOURS}")));
    }
    models::find(&stores, id).await?;
    serving.log.flush().await;
    let since = Timestamp::now() - i64::from(hours).hours();
    let trained = service::input_baseline(&stores.db, id).await?;
    // Concurrently: while a run trains, each reader thread waits for a CPU.
    let (counted, feedback, shadowed, newest) = tokio::try_join!(
        store::prediction_stats::hours(&stores.db, id, since),
        store::predictions::feedback_of(&stores.db, id, since),
        store::shadows::pairs(&stores.db, id),
        store::shadows::disagreements(&stores.db, id, LATEST),
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
