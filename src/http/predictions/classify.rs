//! From the bytes of one image to its recorded answer.

use std::{sync::Arc, thread::available_parallelism, time::Instant};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::answer::PredictionAnswer;
use crate::{
    domain::{ModelId, Sha256},
    http::{ApiError, AppState},
    imaging::{self, GreyImage, ImageError},
    store::{self, Model, Prediction},
};

/// Requests that may hold an image in memory at once; one more is told to come back.
const MAX_REQUESTS: usize = 128;

/// Bounds the requests inside and the images decoded at once (a core each).
#[derive(Clone)]
pub(super) struct Admission {
    places: Arc<Semaphore>,
    decoders: Arc<Semaphore>,
}

/// The model that shall answer.
pub(super) struct Wanted {
    id: Option<ModelId>,
    alias: Option<String>,
}

impl Default for Admission {
    fn default() -> Self {
        let cores = available_parallelism().map_or(1, usize::from);
        Self { places: Arc::new(Semaphore::new(MAX_REQUESTS)), decoders: Arc::new(Semaphore::new(cores)) }
    }
}

impl Admission {
    /// A place until dropped; 429 when all are taken.
    pub(super) fn enter(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        let full = |_| ApiError::Busy(format!("{MAX_REQUESTS} requests are being answered: try again"));
        Arc::clone(&self.places).try_acquire_owned().map_err(full)
    }
}

impl Wanted {
    /// Resolves `?model=`; 404 when there is no such model, 409 when it is not the one that serves.
    pub(super) async fn find(state: &AppState, asked: Option<&str>) -> Result<Self, ApiError> {
        let Some(asked) = asked else { return Ok(Self { id: None, alias: None }) };
        let (model, alias) = match asked.parse::<ModelId>() {
            Ok(id) => (store::models::get(&state.db, id).await?, None),
            Err(_) => (store::models::by_alias(&state.db, asked).await?, Some(asked.to_owned())),
        };
        let wanted = Self { id: Some(model.ok_or(ApiError::NotFound("model"))?.id), alias };
        if let Some((serving, _)) = state.engine.current() {
            wanted.check(serving)?;
        }
        Ok(wanted)
    }

    fn check(&self, serving: ModelId) -> Result<(), ApiError> {
        match self.id {
            Some(id) if id != serving => Err(ApiError::Conflict(format!(
                "model {id} does not serve, {serving} does: PUT /v1/models/aliases/champion {{\"model_id\": \"{id}\"}} first"
            ))),
            _ => Ok(()),
        }
    }
}

/// Decodes, classifies and records one image.
pub(super) async fn classify(
    state: &AppState,
    admission: &Admission,
    wanted: &Wanted,
    bytes: Bytes,
) -> Result<PredictionAnswer, ApiError> {
    let started = Instant::now();
    let (input_sha256, image) = decode(state, admission, bytes).await?;
    let decode_ms = started.elapsed().as_secs_f64() * 1e3;
    let mut classification = state.engine.classify(image).await?;
    classification.timing.preprocess_ms += decode_ms;
    // The model may have been switched since it was asked for.
    wanted.check(classification.model)?;
    let model = store::models::get(&state.db, classification.model).await?;
    let model: Model = model.ok_or_else(|| ApiError::Conflict("the model was removed meanwhile".into()))?;
    let answer = PredictionAnswer::new(&classification, model, wanted.alias.as_deref());
    record(state, &answer, classification.model, input_sha256).await?;
    Ok(answer)
}

async fn decode(state: &AppState, admission: &Admission, bytes: Bytes) -> Result<(Sha256, GreyImage), ApiError> {
    let _decoder = admission.decoders.acquire().await.map_err(ApiError::internal)?;
    let limits = imaging::Limits { max_pixels: state.limits.max_pixels };
    let work = move || -> Result<(Sha256, GreyImage), ImageError> {
        let (_, image) = imaging::decode(&bytes, &limits)?;
        Ok((Sha256::of(&bytes), image))
    };
    Ok(tokio::task::spawn_blocking(work).await.map_err(ApiError::internal)??)
}

async fn record(state: &AppState, answer: &PredictionAnswer, model_id: ModelId, input: Sha256) -> Result<(), ApiError> {
    let prediction = Prediction {
        id: answer.id,
        model_id,
        input_sha256: input,
        prediction: answer.prediction.clone(),
        probabilities: answer.probabilities.clone(),
        timing: serde_json::to_value(answer.timing).map_err(ApiError::internal)?,
        created_at: Timestamp::now(),
    };
    Ok(store::predictions::create(&state.db, &prediction).await?)
}
