//! The pool of loaded models: the classifiers, owned by the engine thread, and the view of them that engine handles read.

use std::sync::{Arc, PoisonError, RwLock};

use super::{Classifier, EngineError};
use crate::domain::{ModelId, ModelSpec};

/// Read-only view of the pool for engine handles.
#[derive(Clone, Debug, Default)]
pub(super) struct PoolView(Arc<RwLock<PoolSnapshot>>);

#[derive(Debug, Default)]
struct PoolSnapshot {
    serving: Option<ModelId>,
    loaded: Vec<(ModelId, Arc<ModelSpec>)>,
}

impl PoolView {
    /// The model that serves requests that name none.
    pub(super) fn serving(&self) -> Option<(ModelId, Arc<ModelSpec>)> {
        let snapshot = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let serving = snapshot.serving?;
        snapshot.spec(serving).map(|spec| (serving, spec))
    }

    /// Specification of a model, if it is loaded.
    pub(super) fn spec(&self, id: ModelId) -> Option<Arc<ModelSpec>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).spec(id)
    }
}

impl PoolSnapshot {
    fn spec(&self, id: ModelId) -> Option<Arc<ModelSpec>> {
        self.loaded.iter().find(|(loaded, _)| *loaded == id).map(|(_, spec)| Arc::clone(spec))
    }
}

/// The loaded classifiers, least recently used first.
pub(super) struct ModelPool {
    classifiers: Vec<Classifier>,
    serving: Option<ModelId>,
    capacity: usize,
    view: PoolView,
}

impl ModelPool {
    /// An empty pool of at most `capacity` models.
    pub(super) fn new(capacity: usize, view: PoolView) -> Self {
        Self { classifiers: Vec::new(), serving: None, capacity, view }
    }

    /// Adds a model, makes it the serving one if `serve` is true, and evicts the least recently used models beyond the capacity. The
    /// serving model is never evicted.
    ///
    /// # Errors
    /// `ModelLimitReached` if the capacity is 1 and another model serves.
    pub(super) fn install(&mut self, classifier: Classifier, serve: bool) -> Result<(), EngineError> {
        let id = classifier.id();
        let serving = if serve { Some(id) } else { self.serving };
        if self.capacity == 1 && serving.is_some_and(|serving| serving != id) {
            return Err(EngineError::ModelLimitReached);
        }
        self.classifiers.retain(|loaded| loaded.id() != id);
        self.classifiers.push(classifier);
        self.serving = serving;
        while self.classifiers.len() > self.capacity {
            let last = self.classifiers.len() - 1;
            let oldest = self.classifiers[..last].iter().position(|loaded| Some(loaded.id()) != serving);
            self.classifiers.remove(oldest.unwrap_or(0));
        }
        self.publish();
        Ok(())
    }

    /// Removes a model, if it is loaded.
    pub(super) fn unload(&mut self, id: ModelId) {
        self.serving = self.serving.filter(|serving| *serving != id);
        // The view changes first, so that no new request is sent to the model.
        self.publish_without(id);
        self.classifiers.retain(|loaded| loaded.id() != id);
    }

    /// The requested model, or the serving one if the request names none.
    pub(super) fn resolve(&self, requested: Option<ModelId>) -> Option<ModelId> {
        requested.or(self.serving)
    }

    /// A loaded model, which becomes the most recently used one.
    pub(super) fn touch(&mut self, id: ModelId) -> Option<&Classifier> {
        let at = self.classifiers.iter().position(|loaded| loaded.id() == id)?;
        self.classifiers[at..].rotate_left(1);
        self.classifiers.last()
    }

    /// Number of loaded models.
    pub(super) fn count(&self) -> usize {
        self.classifiers.len()
    }

    fn publish(&self) {
        let loaded = self.classifiers.iter().map(|loaded| (loaded.id(), Arc::clone(loaded.spec()))).collect();
        *self.view.0.write().unwrap_or_else(PoisonError::into_inner) = PoolSnapshot { serving: self.serving, loaded };
    }

    fn publish_without(&self, id: ModelId) {
        let mut snapshot = self.view.0.write().unwrap_or_else(PoisonError::into_inner);
        snapshot.serving = self.serving;
        snapshot.loaded.retain(|(loaded, _)| *loaded != id);
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::inference::fixtures;

    fn classifier() -> Classifier {
        Classifier::load(ModelId::new(), &fixtures::model(1), &Device::flex(), 1).unwrap()
    }

    #[test]
    fn evicts_the_least_recently_used_model_but_never_the_serving_one() {
        let view = PoolView::default();
        let mut models = ModelPool::new(3, view.clone());
        let classifiers = [classifier(), classifier(), classifier(), classifier(), classifier()];
        let ids = classifiers.each_ref().map(Classifier::id);
        let mut classifiers = classifiers.into_iter();
        let mut install = |models: &mut ModelPool, serve| models.install(classifiers.next().unwrap(), serve).unwrap();
        install(&mut models, true);
        install(&mut models, false);
        install(&mut models, false);
        assert_eq!(view.serving().unwrap().0, ids[0]);
        assert_eq!(models.touch(ids[1]).unwrap().id(), ids[1]);
        install(&mut models, false);
        let loaded = |view: &PoolView| ids.map(|id| view.spec(id).is_some());
        assert_eq!(loaded(&view), [true, true, false, true, false], "the third was the least recently used");
        install(&mut models, true);
        assert_eq!(loaded(&view), [false, true, false, true, true], "the first no longer serves");
        assert_eq!((view.serving().unwrap().0, models.count()), (ids[4], 3));
        assert!(models.touch(ids[0]).is_none());
        models.unload(ids[4]);
        assert!(view.serving().is_none() && models.resolve(None).is_none());
        assert_eq!(models.resolve(Some(ids[1])), Some(ids[1]));
    }

    #[test]
    fn pool_of_one_refuses_a_model_beside_the_serving_one() {
        let mut models = ModelPool::new(1, PoolView::default());
        models.install(classifier(), false).unwrap();
        models.install(classifier(), true).unwrap();
        assert!(matches!(models.install(classifier(), false), Err(EngineError::ModelLimitReached)));
        models.install(classifier(), true).unwrap();
        assert_eq!(models.count(), 1);
    }
}
