//! From the bytes of one image to its recorded answer.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use jiff::Timestamp;

use super::answer::PredictionAnswer;
use crate::{
    domain::{Flag, ModelId, Sha256},
    http::{
        ApiError, AppState,
        heatmaps::{Explained, HEATMAP_SIDE},
    },
    imaging::{self, Examined, GreyImage, ImageError},
    inference::{Classification, EngineError},
    metrics::Stage,
    store::{self, Model, Prediction},
};

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
    state.engine.load_beside(model.id, bytes).await
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
    let (input_sha256, image, flags) = examine(state, content).await?;
    let image = Arc::new(image);
    let decode_ms = started.elapsed().as_secs_f64() * 1e3;
    let mut classification = wanted.answer(state, &image).await?;
    classification.timing.preprocess_ms += decode_ms;
    let model = store::models::get(&state.db, classification.model).await?;
    let model: Model = model.ok_or_else(|| ApiError::Conflict("the model was removed meanwhile".into()))?;
    let answer = PredictionAnswer::new(&classification, model, wanted.alias.as_deref(), flags);
    record(state, &answer, classification.model, input_sha256).await?;
    if let Some(activation) = classification.activation {
        let image = state.engine.prepare(Stage::Resize, move || imaging::shrink(&image, HEATMAP_SIDE)).await?;
        state.heatmaps.keep(answer.id, Explained { image, activation });
    }
    Ok(answer)
}

/// Its hash, its grey levels, and what looks wrong with it.
async fn examine(state: &AppState, content: Content) -> Result<(Sha256, GreyImage, Vec<Flag>), ApiError> {
    let limits = imaging::Limits { max_pixels: state.limits.max_pixels };
    let work = move || -> Result<(Sha256, GreyImage, Vec<Flag>), ImageError> {
        match content {
            Content::Encoded(bytes) => {
                let Examined { image, flags, .. } = imaging::examine(&bytes, &limits)?;
                Ok((Sha256::of(&bytes), image, flags))
            }
            Content::Grey(hash, image) => {
                let flags = imaging::flags(&image);
                Ok((hash, image, flags))
            }
        }
    };
    Ok(state.engine.prepare(Stage::Decode, work).await??)
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
