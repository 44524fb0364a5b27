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
    metrics::Stage,
    store::{self, Model, Prediction},
};

/// The model that shall answer, and whether it shall explain.
pub(in crate::http) struct Wanted {
    id: Option<ModelId>,
    alias: Option<String>,
    explain: bool,
}

impl Wanted {
    /// Resolves `?model=`; 404 when there is no such model, 409 when it is not the one that serves.
    pub(super) async fn find(state: &AppState, asked: Option<&str>, explain: bool) -> Result<Self, ApiError> {
        let Some(asked) = asked else { return Ok(Self { id: None, alias: None, explain }) };
        let (model, alias) = find_model(state, asked).await?;
        let wanted = Self { id: Some(model.id), alias, explain };
        if let Some((serving, _)) = state.engine.current() {
            wanted.check(serving)?;
        }
        Ok(wanted)
    }

    /// This one, without explanations.
    pub(in crate::http) fn model(id: ModelId) -> Self {
        Self { id: Some(id), alias: None, explain: false }
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
    let mut classification = state.engine.classify(Arc::clone(&image), wanted.explain).await?;
    classification.timing.preprocess_ms += decode_ms;
    // The model may have been switched since it was asked for.
    wanted.check(classification.model)?;
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
