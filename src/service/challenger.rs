//! Challenger: a model that classifies a share of the champion's images in the background, for comparison.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{domain::ModelId, store::Model};

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

    /// The model, if the next image, which the model `served_by` classified, belongs to its share. The permit is held until the shadow
    /// prediction is recorded.
    pub(super) fn claim(&self, served_by: ModelId) -> Option<(Model, OwnedSemaphorePermit)> {
        let model = self.for_next_image().filter(|model| model.id != served_by)?;
        let permit = Arc::clone(&self.0.permits).try_acquire_owned().ok()?;
        Some((model, permit))
    }

    /// The model, if the next image belongs to its share.
    fn for_next_image(&self) -> Option<Model> {
        let model = self.0.model.read().unwrap_or_else(PoisonError::into_inner).clone()?;
        let before = self.0.images.fetch_add(1, Ordering::Relaxed);
        let due = |images: u64| (images as f64 * self.0.share).floor();
        (due(before + 1) > due(before)).then_some(model)
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
