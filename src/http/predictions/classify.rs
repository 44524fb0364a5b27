//! From the bytes of one image to its recorded answer.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use jiff::Timestamp;

use super::answer::PredictionAnswer;
use crate::{
    domain::{InputStatistics, ModelId, QualityFlag, Sha256},
    http::{
        ApiError, AppState,
        challenger::{Told, challenge},
        heatmaps::{Explained, HEATMAP_SIDE},
    },
    imaging::{self, Examined, GreyImage, ImageError},
    inference::{Classification, EngineError},
    metrics::Stage,
    store::{self, Model, ObservedPrediction, Prediction},
};

/// Name of the one key that there is.
const ADMIN: &str = "admin";

/// The model that shall answer, and whether it shall explain.
pub(in crate::http) struct Wanted {
    /// `None`: whoever serves when the image's turn comes.
    model: Option<Model>,
    alias: Option<String>,
    explain: bool,
}

impl Wanted {
    /// Resolves `?model=`, and loads that model where it is not loaded yet; 404 when there is no such model.
    pub(super) async fn find(state: &AppState, asked: Option<&str>, explain: bool) -> Result<Self, ApiError> {
        let Some(asked) = asked else { return Ok(Self { model: None, alias: None, explain }) };
        let (model, alias) = find_model(state, asked).await?;
        load_beside(state, &model).await?;
        Ok(Self { model: Some(model), alias, explain })
    }

    /// This one, without explanations.
    pub(in crate::http) fn model(model: Model) -> Self {
        Self { model: Some(model), alias: None, explain: false }
    }

    /// The engine's answer. A model that had to make room for others since it was asked for is loaded once more.
    async fn answer(&self, state: &AppState, image: &Arc<GreyImage>) -> Result<Classification, ApiError> {
        let id = self.model.as_ref().map(|model| model.id);
        match (state.engine.classify(Arc::clone(image), id, self.explain).await, &self.model) {
            (Err(EngineError::NotLoaded(_)), Some(model)) => load_beside(state, model).await?,
            (answer, _) => return Ok(answer?),
        }
        Ok(state.engine.classify(Arc::clone(image), id, self.explain).await?)
    }
}

/// Lets a model answer beside the one that serves, if it does not yet.
pub(in crate::http) async fn load_beside(state: &AppState, model: &Model) -> Result<(), ApiError> {
    let bytes = async { Ok::<_, ApiError>(state.blobs.get(&model.sha256).await?) };
    state.engine.ensure_loaded(model.id, bytes).await
}

/// A model by its identifier or an alias, which is then given back; 404 when there is none.
pub(in crate::http) async fn find_model(state: &AppState, asked: &str) -> Result<(Model, Option<String>), ApiError> {
    let (model, alias) = match asked.parse::<ModelId>() {
        Ok(id) => (store::models::get(&state.db, id).await?, None),
        Err(_) => (store::models::by_alias(&state.db, asked).await?, Some(asked.to_owned())),
    };
    Ok((model.ok_or(ApiError::NotFound("model"))?, alias))
}

/// An image as it came in.
pub(in crate::http) enum Content {
    /// A file.
    Encoded(Bytes),
    /// Grey levels, with the hash over them.
    Grey(Sha256, GreyImage),
}

/// Decodes, classifies and records one image, and keeps its explanation if there shall be one.
pub(super) async fn classify(
    state: &AppState,
    wanted: &Wanted,
    content: Content,
) -> Result<PredictionAnswer, ApiError> {
    let started = Instant::now();
    let Looked { sha256, image, flags, statistics } = look(state, content).await?;
    let image = Arc::new(image);
    let decode_ms = started.elapsed().as_secs_f64() * 1e3;
    let mut classification = wanted.answer(state, &image).await?;
    classification.timing.preprocess_ms += decode_ms;
    let model = store::models::get(&state.db, classification.model).await?;
    let model: Model = model.ok_or_else(|| ApiError::Conflict("the model was removed meanwhile".into()))?;
    let answer = PredictionAnswer::new(&classification, model, wanted.alias.as_deref(), flags);
    record(state, &answer, classification.model, sha256, statistics, started)?;
    let told = Told { prediction: answer.id, class: answer.prediction.clone(), by: classification.model };
    challenge(state, Arc::clone(&image), told);
    if let Some(activation) = classification.activation {
        let image = state.engine.prepare(Stage::Resize, move || imaging::shrink(&image, HEATMAP_SIDE)).await?;
        state.heatmaps.keep(answer.id, Explained { image, activation });
    }
    Ok(answer)
}

/// An image, and what is seen before any network sees it.
pub(in crate::http) struct Looked {
    /// Of what was sent.
    pub(in crate::http) sha256: Sha256,
    pub(in crate::http) image: GreyImage,
    /// What looks wrong.
    flags: Vec<QualityFlag>,
    /// What it is like.
    statistics: InputStatistics,
}

/// Decodes and looks, on a blocking thread.
pub(in crate::http) async fn look(state: &AppState, content: Content) -> Result<Looked, ApiError> {
    let limits = imaging::Limits { max_pixels: state.limits.max_pixels };
    let work = move || -> Result<Looked, ImageError> {
        let (sha256, image, flags) = match content {
            Content::Encoded(bytes) => {
                let Examined { image, flags, .. } = imaging::examine(&bytes, &limits)?;
                (Sha256::of(&bytes), image, flags)
            }
            Content::Grey(hash, image) => {
                let flags = imaging::quality_flags(&image);
                (hash, image, flags)
            }
        };
        let statistics = imaging::statistics(&image);
        Ok(Looked { sha256, image, flags, statistics })
    };
    Ok(state.engine.prepare(Stage::Decode, work).await??)
}

/// Soon, and not before the answer: a disk that is full must not keep clients from theirs.
fn record(
    state: &AppState,
    answer: &PredictionAnswer,
    model_id: ModelId,
    input_sha256: Sha256,
    image: InputStatistics,
    began: Instant,
) -> Result<(), ApiError> {
    let prediction = Prediction {
        id: answer.id,
        model_id,
        input_sha256,
        prediction: answer.prediction.clone(),
        probabilities: answer.probabilities.clone(),
        timing: serde_json::to_value(answer.timing).map_err(ApiError::internal)?,
        key: state.admin_key.as_ref().map(|_| ADMIN.to_owned()),
        feedback: None,
        feedback_at: None,
        created_at: Timestamp::now(),
    };
    let milliseconds = began.elapsed().as_secs_f64() * 1e3;
    if state.predictions.record(ObservedPrediction { prediction, milliseconds, image }).is_err() {
        state.engine.metrics().unrecorded();
        tracing::warn!(prediction = %answer.id, "the disk is full or slow: a prediction is answered and not recorded");
    }
    Ok(())
}
