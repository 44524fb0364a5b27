//! The model that looks at a share of the images that another one answers, when the engine has nothing else to do.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicU64, Ordering},
};

use jiff::Timestamp;
use tokio::sync::Semaphore;

use super::{AppState, predictions};
use crate::{
    domain::{ModelId, PredictionId},
    imaging::GreyImage,
    inference::EngineError,
    store::{Model, Shadow},
};

/// The alias of the model that is tried against the champion.
pub const CHALLENGER: &str = "challenger";

/// Images that may be on their way to the challenger; others are answered without it.
const MOST: usize = 32;

/// Which model it is, and how often it looks.
#[derive(Clone, Debug)]
pub struct Challenger(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    model: RwLock<Option<Model>>,
    share: f64,
    /// Images so far.
    seen: AtomicU64,
    places: Arc<Semaphore>,
}

/// What a client was told.
pub(super) struct Told {
    pub(super) prediction: PredictionId,
    pub(super) class: String,
    pub(super) by: ModelId,
}

impl Challenger {
    /// None yet; it is to look at that share of the images, 0 to 1.
    pub fn new(share: f64) -> Self {
        let places = Arc::new(Semaphore::new(MOST));
        Self(Arc::new(Inner { model: RwLock::default(), share, seen: AtomicU64::new(0), places }))
    }

    /// From now on it is this model.
    pub fn set(&self, model: Option<Model>) {
        *self.0.model.write().unwrap_or_else(PoisonError::into_inner) = model;
    }

    /// The model, if this image is one of its share.
    fn chosen(&self) -> Option<Model> {
        let model = self.0.model.read().unwrap_or_else(PoisonError::into_inner).clone()?;
        let before = self.0.seen.fetch_add(1, Ordering::Relaxed);
        let due = |seen: u64| (seen as f64 * self.0.share).floor();
        (due(before + 1) > due(before)).then_some(model)
    }
}

/// Lets the challenger say what it makes of an image, some time after its client was told; nobody waits for it.
pub(super) fn challenge(state: &AppState, image: Arc<GreyImage>, told: Told) {
    let Some(model) = state.challenger.chosen().filter(|model| model.id != told.by) else { return };
    let Ok(place) = Arc::clone(&state.challenger.0.places).try_acquire_owned() else { return };
    let state = state.clone();
    tokio::spawn(async move {
        let _place = place;
        // It may have had to make room for another model.
        if let Err(error) = predictions::load_beside(&state, &model).await {
            return tracing::warn!(model = %model.id, %error, "the challenger cannot be loaded");
        }
        let answer = match state.engine.classify_when_idle(image, model.id).await {
            Ok(Some(answer)) => answer,
            // Under load it sees less.
            Ok(None) | Err(EngineError::QueueFull { .. }) => return,
            Err(error) => return tracing::warn!(model = %model.id, %error, "the challenger cannot answer"),
        };
        let (prediction, probabilities) = predictions::named(&answer);
        let shadow = Shadow {
            prediction_id: told.prediction,
            model_id: model.id,
            answered: told.class,
            prediction,
            probabilities,
            created_at: Timestamp::now(),
        };
        if state.predictions.record_shadow(shadow).is_err() {
            tracing::warn!(model = %model.id, "the disk is full or slow: an answer of the challenger is not recorded");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_looks_at_its_share_and_at_nothing_without_a_model() {
        let challenger = Challenger::new(0.3);
        assert!((0..10).all(|_| challenger.chosen().is_none()));
        challenger.set(Some(crate::store::fixtures::model(None)));
        assert_eq!((0..100).filter(|_| challenger.chosen().is_some()).count(), 30);
        challenger.set(None);
        assert!(challenger.chosen().is_none());
    }
}
