//! Which models are loaded: the classifiers, which the engine's thread owns, and what its handles see of them.

use std::sync::{Arc, PoisonError, RwLock};

use super::{Classifier, EngineError};
use crate::domain::{ModelId, ModelSpec};

/// What the handles see.
#[derive(Clone, Debug, Default)]
pub(super) struct Shelf(Arc<RwLock<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    serving: Option<ModelId>,
    loaded: Vec<(ModelId, Arc<ModelSpec>)>,
}

impl Shelf {
    /// The model that answers whoever names none.
    pub(super) fn serving(&self) -> Option<(ModelId, Arc<ModelSpec>)> {
        let seen = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let serving = seen.serving?;
        seen.spec(serving).map(|spec| (serving, spec))
    }

    /// What a loaded model expects.
    pub(super) fn spec(&self, id: ModelId) -> Option<Arc<ModelSpec>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).spec(id)
    }
}

impl Seen {
    fn spec(&self, id: ModelId) -> Option<Arc<ModelSpec>> {
        self.loaded.iter().find(|(loaded, _)| *loaded == id).map(|(_, spec)| Arc::clone(spec))
    }
}

/// The classifiers, the least recently used first.
pub(super) struct Models {
    classifiers: Vec<Classifier>,
    serving: Option<ModelId>,
    most: usize,
    shelf: Shelf,
}

impl Models {
    /// None yet, and never more than `most`.
    pub(super) fn new(most: usize, shelf: Shelf) -> Self {
        Self { classifiers: Vec::new(), serving: None, most, shelf }
    }

    /// Takes a model in, `serve`s it if told to, and lets go of those that were not used for longest. The serving one always stays.
    pub(super) fn install(&mut self, fresh: Classifier, serve: bool) -> Result<(), EngineError> {
        let id = fresh.id();
        let serving = if serve { Some(id) } else { self.serving };
        if self.most == 1 && serving.is_some_and(|serving| serving != id) {
            return Err(EngineError::NoRoom);
        }
        self.classifiers.retain(|loaded| loaded.id() != id);
        self.classifiers.push(fresh);
        self.serving = serving;
        while self.classifiers.len() > self.most {
            let last = self.classifiers.len() - 1;
            let oldest = self.classifiers[..last].iter().position(|loaded| Some(loaded.id()) != serving);
            self.classifiers.remove(oldest.unwrap_or(0));
        }
        self.show();
        Ok(())
    }

    /// Lets go of a model, if it is loaded.
    pub(super) fn unload(&mut self, id: ModelId) {
        self.serving = self.serving.filter(|serving| *serving != id);
        // Shown before it goes: who asks meanwhile is not sent to it.
        self.show_without(id);
        self.classifiers.retain(|loaded| loaded.id() != id);
    }

    /// The one that is meant: that, or the serving one.
    pub(super) fn meant(&self, wanted: Option<ModelId>) -> Option<ModelId> {
        wanted.or(self.serving)
    }

    /// A loaded one, which counts as used now.
    pub(super) fn take_up(&mut self, id: ModelId) -> Option<&Classifier> {
        let at = self.classifiers.iter().position(|loaded| loaded.id() == id)?;
        self.classifiers[at..].rotate_left(1);
        self.classifiers.last()
    }

    /// How many are loaded.
    pub(super) fn count(&self) -> usize {
        self.classifiers.len()
    }

    fn show(&self) {
        let loaded = self.classifiers.iter().map(|loaded| (loaded.id(), Arc::clone(loaded.spec()))).collect();
        *self.shelf.0.write().unwrap_or_else(PoisonError::into_inner) = Seen { serving: self.serving, loaded };
    }

    fn show_without(&self, id: ModelId) {
        let mut seen = self.shelf.0.write().unwrap_or_else(PoisonError::into_inner);
        seen.serving = self.serving;
        seen.loaded.retain(|(loaded, _)| *loaded != id);
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
    fn the_least_recently_used_goes_and_the_serving_one_stays() {
        let shelf = Shelf::default();
        let mut models = Models::new(3, shelf.clone());
        let made = [classifier(), classifier(), classifier(), classifier(), classifier()];
        let ids = made.each_ref().map(Classifier::id);
        let mut made = made.into_iter();
        let mut install = |models: &mut Models, serve| models.install(made.next().unwrap(), serve).unwrap();
        install(&mut models, true);
        install(&mut models, false);
        install(&mut models, false);
        assert_eq!(shelf.serving().unwrap().0, ids[0]);
        assert_eq!(models.take_up(ids[1]).unwrap().id(), ids[1]);
        install(&mut models, false);
        let loaded = |shelf: &Shelf| ids.map(|id| shelf.spec(id).is_some());
        assert_eq!(loaded(&shelf), [true, true, false, true, false], "the third was not used since");
        install(&mut models, true);
        assert_eq!(loaded(&shelf), [false, true, false, true, true], "the first serves no more");
        assert_eq!((shelf.serving().unwrap().0, models.count()), (ids[4], 3));
        assert!(models.take_up(ids[0]).is_none());
        models.unload(ids[4]);
        assert!(shelf.serving().is_none() && models.meant(None).is_none());
        assert_eq!(models.meant(Some(ids[1])), Some(ids[1]));
    }

    #[test]
    fn a_place_for_one_is_the_serving_models() {
        let mut models = Models::new(1, Shelf::default());
        models.install(classifier(), false).unwrap();
        models.install(classifier(), true).unwrap();
        assert!(matches!(models.install(classifier(), false), Err(EngineError::NoRoom)));
        models.install(classifier(), true).unwrap();
        assert_eq!(models.count(), 1);
    }
}
