//! Prediction: from the bytes of an image to a recorded classification.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use bytes::Bytes;
use jiff::Timestamp;

use super::{
    Error, Limits, Models,
    heatmaps::{Explained, HEATMAP_SIDE},
};
use crate::{
    domain::{GreyRange, InputStatistics, ModelId, PredictionId, QualityFlag, Sha256},
    imaging::{self, ExaminedImage, GreyImage, ImageError},
    inference::{Classification, Engine, EngineError},
    metrics::Stage,
    store::{Model, ObservedPrediction, Prediction, Shadow},
};

/// Decodes, classifies and records images; cheap to clone.
#[derive(Clone)]
pub struct Predictor {
    /// The models that classify.
    pub models: Models,
    /// Limits on images.
    pub limits: Limits,
    /// Name of the API key that is recorded with each prediction; `None` where the server has no key.
    pub key: Option<&'static str>,
}

/// The model that classifies the images of a request, and whether it explains them.
#[derive(Debug)]
pub struct ModelSelection {
    /// `None`: the champion at the time of each image.
    model: Option<Model>,
    alias: Option<String>,
    explain: bool,
}

/// An image as it was received.
#[derive(Debug)]
pub enum Content {
    /// An encoded file.
    Encoded(Bytes),
    /// Grey levels, with their hash.
    Grey(Sha256, GreyImage),
}

/// A decoded image with everything that is computed from it before inference.
pub struct DecodedImage {
    /// SHA-256 of the received content.
    pub sha256: Sha256,
    /// Grey image at its own size.
    pub image: GreyImage,
    flags: Vec<QualityFlag>,
    grey_range: GreyRange,
    statistics: InputStatistics,
}

/// A recorded prediction, with what a front end needs to present it.
pub struct NewPrediction {
    /// Identifier of the record.
    pub id: PredictionId,
    /// Most probable class.
    pub class: String,
    /// Probability of each class.
    pub probabilities: BTreeMap<String, f32>,
    /// The model that classified.
    pub model: Model,
    /// Alias by which the client selected the model.
    pub alias: Option<String>,
    /// Quality flags of the image.
    pub flags: Vec<QualityFlag>,
    /// Range of grey levels of the image.
    pub grey_range: GreyRange,
    /// Timing, and the activation map where one was requested.
    pub classification: Classification,
}

/// The prediction that a client received, for the comparison with the challenger's.
struct ServedPrediction {
    id: PredictionId,
    class: String,
    model: ModelId,
}

impl ModelSelection {
    /// This model, without explanations.
    pub fn of(model: Model) -> Self {
        Self { model: Some(model), alias: None, explain: false }
    }
}

impl Predictor {
    /// The inference engine.
    pub fn engine(&self) -> &Engine {
        &self.models.serving.engine
    }

    /// Selects a model by identifier or alias and loads it; without a name, the champion.
    ///
    /// # Errors
    /// [`Error::NotFound`], or those of [`Models::load`].
    pub async fn select(&self, name: Option<&str>, explain: bool) -> Result<ModelSelection, Error> {
        let Some(name) = name else { return Ok(ModelSelection { model: None, alias: None, explain }) };
        let (model, alias) = self.models.find(name).await?;
        self.models.load(&model).await?;
        Ok(ModelSelection { model: Some(model), alias, explain })
    }

    /// Decodes an image on a blocking thread.
    ///
    /// # Errors
    /// [`Error::Image`] where it cannot be decoded.
    pub async fn decode(&self, content: Content) -> Result<DecodedImage, Error> {
        let limits = self.limits.image();
        let work = move || -> Result<DecodedImage, ImageError> {
            let (sha256, image, flags, grey_range) = match content {
                Content::Encoded(bytes) => {
                    let ExaminedImage { image, flags, grey_range, .. } = imaging::examine(&bytes, &limits)?;
                    (Sha256::of(&bytes), image, flags, grey_range)
                }
                Content::Grey(hash, image) => {
                    let (flags, grey_range) = (imaging::quality_flags(&image), imaging::grey_range(&image));
                    (hash, image, flags, grey_range)
                }
            };
            let statistics = imaging::statistics(&image);
            Ok(DecodedImage { sha256, image, flags, grey_range, statistics })
        };
        Ok(self.engine().prepare(Stage::Decode, work).await??)
    }

    /// Decodes, classifies and records one image. The challenger may classify it too, later; an explained image is stored for its overlay.
    ///
    /// # Errors
    /// [`Error::Image`], [`Error::Engine`], or [`Error::Conflict`] where the model was deleted meanwhile.
    pub async fn predict(&self, selection: &ModelSelection, content: Content) -> Result<NewPrediction, Error> {
        let started = Instant::now();
        let DecodedImage { sha256, image, flags, grey_range, statistics } = self.decode(content).await?;
        let image = Arc::new(image);
        let decode_ms = started.elapsed().as_secs_f64() * 1e3;
        let mut classification = self.classify(selection, &image).await?;
        classification.timing.preprocess_ms += decode_ms;
        let model = self.models.of_classification(classification.model).await?;
        let (class, probabilities) = most_probable(&classification);
        let (id, alias) = (PredictionId::new(), selection.alias.clone());
        let prediction = NewPrediction { id, class, probabilities, model, alias, flags, grey_range, classification };
        self.record(&prediction, sha256, statistics, started).await?;
        let served = ServedPrediction { id, class: prediction.class.clone(), model: prediction.model.id };
        self.shadow(Arc::clone(&image), served);
        if let Some(activation) = prediction.classification.activation.clone() {
            let image = self.engine().prepare(Stage::Resize, move || imaging::shrink(&image, HEATMAP_SIDE)).await?;
            self.models.serving.heatmaps.insert(id, Explained { image, activation });
        }
        Ok(prediction)
    }

    /// Classifies by the selected model. A model that was unloaded since it was selected, to make room for others, is loaded once more.
    async fn classify(&self, selection: &ModelSelection, image: &Arc<GreyImage>) -> Result<Classification, Error> {
        let ModelSelection { model, explain, .. } = selection;
        let id = model.as_ref().map(|model| model.id);
        match (self.engine().classify(Arc::clone(image), id, *explain).await, model) {
            (Err(EngineError::NotLoaded(_)), Some(model)) => self.models.load(model).await?,
            (classified, _) => return Ok(classified?),
        }
        Ok(self.engine().classify(Arc::clone(image), id, *explain).await?)
    }

    /// Hands the prediction to the log, which writes it later: a full disk must not delay responses. Where the operator wants a record of each
    /// response, waits until it is written.
    async fn record(
        &self,
        new: &NewPrediction,
        input_sha256: Sha256,
        image: InputStatistics,
        started: Instant,
    ) -> Result<(), Error> {
        let prediction = Prediction {
            id: new.id,
            model_id: new.classification.model,
            input_sha256,
            prediction: new.class.clone(),
            probabilities: new.probabilities.clone(),
            timing: serde_json::to_value(new.classification.timing).map_err(Error::internal)?,
            key: self.key.map(str::to_owned),
            feedback: None,
            feedback_at: None,
            created_at: Timestamp::now(),
        };
        let milliseconds = started.elapsed().as_secs_f64() * 1e3;
        let (log, observed) = (&self.models.serving.log, ObservedPrediction { prediction, milliseconds, image });
        if self.models.serving.record_before_response {
            return Ok(log.record_durably(observed).await?);
        }
        if log.record(observed).is_err() {
            self.engine().metrics().unrecorded();
            tracing::warn!(prediction = %new.id, "disk full or slow: a prediction is returned and not recorded");
        }
        Ok(())
    }

    /// Starts a shadow prediction by the challenger, if the image belongs to its share. It runs when the engine is idle; nobody waits
    /// for it.
    fn shadow(&self, image: Arc<GreyImage>, served: ServedPrediction) {
        let Some((model, permit)) = self.models.serving.challenger.claim(served.model) else { return };
        let predictor = self.clone();
        tokio::spawn(async move {
            let _permit = permit;
            predictor.record_shadow(image, &model, served).await;
        });
    }

    async fn record_shadow(&self, image: Arc<GreyImage>, model: &Model, served: ServedPrediction) {
        // The challenger may have been unloaded to make room for another model.
        if let Err(error) = self.models.load(model).await {
            return tracing::warn!(model = %model.id, %error, "challenger cannot be loaded");
        }
        let serving = &self.models.serving;
        let classification = match serving.engine.classify_when_idle(image, model.id).await {
            Ok(Some(classification)) => classification,
            // Under load the challenger gets fewer images.
            Ok(None) | Err(EngineError::QueueFull { .. }) => return,
            Err(error) => return tracing::warn!(model = %model.id, %error, "challenger cannot classify"),
        };
        let (prediction, probabilities) = most_probable(&classification);
        let shadow = Shadow {
            prediction_id: served.id,
            model_id: model.id,
            answered: served.class,
            prediction,
            probabilities,
            created_at: Timestamp::now(),
        };
        if serving.log.record_shadow(shadow).is_err() {
            tracing::warn!(model = %model.id, "disk full or slow: a shadow prediction is not recorded");
        }
    }
}

/// The most probable class, and the probability of each class by its name.
pub(super) fn most_probable(classification: &Classification) -> (String, BTreeMap<String, f32>) {
    let (names, probabilities) = (classification.spec.classes.names(), &classification.probabilities);
    let best = (0..names.len()).max_by(|&a, &b| probabilities[a].total_cmp(&probabilities[b]));
    let best = best.map(|class| names[class].clone()).unwrap_or_default();
    (best, names.iter().cloned().zip(probabilities.iter().copied()).collect())
}
