//! Challenger: a model that classifies a share of the champion's images in the background, for comparison.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicU64, Ordering},
};

use jiff::Timestamp;
use tokio::sync::Semaphore;

use super::{Predictor, predictor::most_probable};
use crate::{
    domain::{ModelId, PredictionId},
    imaging::GreyImage,
    inference::EngineError,
    store::{Model, Shadow},
};

/// Alias of the model that is compared with the champion.
pub const CHALLENGER: &str = "challenger";

/// Maximum number of images that wait for the challenger; further images are not compared.
const MAX_PENDING: usize = 32;

/// The challenger and its share of the images; cheap to clone.
#[derive(Clone, Debug)]
pub struct Challenger(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    model: RwLock<Option<Model>>,
    share: f64,
    /// Images so far.
    images: AtomicU64,
    permits: Arc<Semaphore>,
}

/// The prediction that a client received.
pub(super) struct ServedPrediction {
    pub(super) id: PredictionId,
    pub(super) class: String,
    pub(super) model: ModelId,
}

impl Challenger {
    /// No model yet; one that is set later gets this share of the images, 0 to 1.
    pub fn new(share: f64) -> Self {
        let permits = Arc::new(Semaphore::new(MAX_PENDING));
        Self(Arc::new(Inner { model: RwLock::default(), share, images: AtomicU64::new(0), permits }))
    }

    /// Replaces the model.
    pub fn set(&self, model: Option<Model>) {
        *self.0.model.write().unwrap_or_else(PoisonError::into_inner) = model;
    }

    /// The model, if the next image belongs to its share.
    fn for_next_image(&self) -> Option<Model> {
        let model = self.0.model.read().unwrap_or_else(PoisonError::into_inner).clone()?;
        let before = self.0.images.fetch_add(1, Ordering::Relaxed);
        let due = |images: u64| (images as f64 * self.0.share).floor();
        (due(before + 1) > due(before)).then_some(model)
    }
}

impl Predictor {
    /// Starts a shadow prediction by the challenger, if the image belongs to its share. It runs when the engine is idle; nobody waits
    /// for it.
    pub(super) fn shadow(&self, image: Arc<GreyImage>, served: ServedPrediction) {
        let challenger = &self.models.serving.challenger;
        let Some(model) = challenger.for_next_image().filter(|model| model.id != served.model) else { return };
        let Ok(permit) = Arc::clone(&challenger.0.permits).try_acquire_owned() else { return };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_challenger_gets_its_share_of_the_images_and_none_without_a_model() {
        let challenger = Challenger::new(0.3);
        assert!((0..10).all(|_| challenger.for_next_image().is_none()));
        challenger.set(Some(crate::store::fixtures::model(None)));
        assert_eq!((0..100).filter(|_| challenger.for_next_image().is_some()).count(), 30);
        challenger.set(None);
        assert!(challenger.for_next_image().is_none());
    }
}
