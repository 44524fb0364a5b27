//! Models: look-up, upload, aliases, and loading into the engine.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::timeout;

use super::{CHALLENGER, Error, Gate, Serving, Stores};
use crate::{
    domain::ModelId,
    nn::{self, NnError},
    store::{self, Model},
    worker::CHAMPION,
};

/// Maximum time for which a prediction waits for the row of a model that is in memory.
const MAX_READ_TIME: Duration = Duration::from_millis(500);

/// Use cases about models.
#[derive(Clone)]
pub struct Models {
    /// Store of the models.
    pub stores: Stores,
    /// Engine that serves the models.
    pub serving: Serving,
}

impl Models {
    /// The model of an identifier.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn get(&self, id: ModelId) -> Result<Model, Error> {
        store::models::get(&self.stores.db, id).await?.ok_or(Error::NotFound("model"))
    }

    /// The model of an identifier or an alias, with the alias.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn find(&self, name: &str) -> Result<(Model, Option<String>), Error> {
        match name.parse::<ModelId>() {
            Ok(id) => Ok((self.get(id).await?, None)),
            Err(_) => {
                let model = store::models::by_alias(&self.stores.db, name).await?;
                Ok((model.ok_or(Error::NotFound("model"))?, Some(name.to_owned())))
            }
        }
    }

    /// The model that has classified an image. While the database cannot be read, the model as it was read before.
    ///
    /// # Errors
    /// [`Error::Conflict`] where the model was deleted meanwhile.
    pub(super) async fn of_classification(&self, id: ModelId) -> Result<Model, Error> {
        let known = &self.serving.known_models;
        let read = store::models::get(&self.stores.db, id);
        let found = match known.get(id) {
            None => read.await?,
            Some(before) => match timeout(MAX_READ_TIME, read).await {
                Ok(Ok(found)) => found,
                Ok(Err(error)) => {
                    self.stores.db.note_damage(&error);
                    tracing::warn!(model = %id, %error, "a model cannot be read: its last known state is returned");
                    Some(before)
                }
                Err(_) => {
                    tracing::warn!(model = %id, "the database is slow or locked: the last known state of a model is returned");
                    Some(before)
                }
            },
        };
        match found {
            Some(model) => {
                known.put(&model);
                Ok(model)
            }
            None => {
                known.remove(id);
                Err(Error::Conflict("the model was removed meanwhile".into()))
            }
        }
    }

    /// Loads a model in addition to the champion, unless it is loaded already.
    ///
    /// # Errors
    /// [`Error::Engine`] where the model cannot be loaded or the limit on loaded models is reached.
    pub async fn load(&self, model: &Model) -> Result<(), Error> {
        let bytes = async { Ok::<_, Error>(self.stores.blobs.get(&model.sha256).await?) };
        self.serving.engine.ensure_loaded(model.id, bytes).await
    }

    /// Loads a model at a client's request. The champion becomes the model that serves again; no alias moves.
    ///
    /// # Errors
    /// The same errors as [`Models::load`].
    pub async fn load_named(&self, id: ModelId) -> Result<(), Error> {
        let models = self.clone();
        let load = async move {
            let _lock = models.serving.alias_lock.acquire().await;
            let model = models.get(id).await?;
            let is_champion = model.aliases.iter().any(|alias| alias == CHAMPION);
            if is_champion { models.promote(&model).await } else { models.load(&model).await }
        };
        tokio::spawn(load).await?
    }

    /// Unloads a model; its aliases stay.
    ///
    /// # Errors
    /// [`Error::Engine`] where the engine has ended.
    pub async fn unload(&self, model: &Model) -> Result<(), Error> {
        let _lock = self.serving.alias_lock.acquire().await;
        Ok(self.serving.engine.unload(model.id).await?)
    }

    /// Points an alias at a model. `champion` is loaded and warmed up first, so that a model that cannot serve leaves the old champion in
    /// service; `challenger` is loaded in addition.
    ///
    /// # Errors
    /// [`Error::Gate`] where the model does not reach the scores that `gate` requires.
    pub async fn set_alias(&self, alias: &str, model: ModelId, gate: Option<Gate>) -> Result<Model, Error> {
        if !is_alias(alias) {
            let rule = "a lower-case letter, then up to 31 lower-case letters, digits and hyphens";
            return Err(Error::Unusable(format!("the alias {alias:?} is not {rule}")));
        }
        let (models, alias) = (self.clone(), alias.to_owned());
        // A task of its own: a client that hangs up must not stop it between the database and the engine.
        tokio::spawn(async move { models.point(&alias, model, gate).await }).await?
    }

    async fn point(&self, alias: &str, model: ModelId, gate: Option<Gate>) -> Result<Model, Error> {
        let _lock = self.serving.alias_lock.acquire().await;
        let unknown = || Error::invalid("/model_id", "there is no such model; GET /v1/models lists them");
        let model = store::models::get(&self.stores.db, model).await?.ok_or_else(unknown)?;
        if let Some(gate) = gate {
            gate.check(self, &model).await?;
        }
        match alias {
            CHAMPION => self.promote(&model).await?,
            CHALLENGER => {
                self.load(&model).await?;
                store::models::set_alias(&self.stores.db, alias, model.id).await?;
                self.serving.challenger.set(Some(model.clone()));
            }
            _ => store::models::set_alias(&self.stores.db, alias, model.id).await?,
        }
        self.get(model.id).await
    }

    /// Removes an alias; `champion` can only move to another model.
    ///
    /// # Errors
    /// [`Error::NotFound`], or [`Error::Conflict`] for `champion`.
    pub async fn remove_alias(&self, alias: &str) -> Result<(), Error> {
        if alias == CHAMPION {
            let detail = "the champion serves: point the alias at another model, or unload it (/v2/repository)";
            return Err(Error::Conflict(detail.into()));
        }
        let _lock = self.serving.alias_lock.acquire().await;
        if !store::models::remove_alias(&self.stores.db, alias).await? {
            return Err(Error::NotFound("alias"));
        }
        if alias == CHALLENGER {
            self.serving.challenger.set(None);
        }
        Ok(())
    }

    /// Loads a model, warms it up and makes it champion: first in the database, then in the engine, so that a database that cannot be
    /// written leaves the old champion in service. The caller holds the alias lock.
    async fn promote(&self, model: &Model) -> Result<(), Error> {
        let bytes = self.stores.blobs.get(&model.sha256).await?;
        let commit = async { Ok::<_, Error>(store::models::set_alias(&self.stores.db, CHAMPION, model.id).await?) };
        self.serving.engine.replace(model.id, bytes, commit).await
    }

    /// Stores an uploaded model file. The network is built once and classifies generated images, so that a file that cannot serve is
    /// refused now. The model is synthetic if the file is marked so, or if `synthetic` says so, which marks the file.
    ///
    /// # Errors
    /// [`Error::Engine`] where no network can be built from the file, or where a result of the network is not finite.
    pub async fn upload(&self, bytes: bytes::Bytes, name: String, synthetic: bool) -> Result<Model, Error> {
        let spec = self.serving.engine.check(bytes.clone()).await?;
        let mark = move || -> Result<_, NnError> {
            let is_marked = nn::is_synthetic(&bytes)?;
            let bytes = if synthetic && !is_marked { nn::marked_synthetic(&bytes)? } else { bytes.into() };
            Ok((bytes, synthetic || is_marked))
        };
        let (bytes, synthetic) = tokio::task::spawn_blocking(mark).await?.map_err(Error::internal)?;
        let byte_length = bytes.len() as u64;
        // Held until the row is committed.
        let stored = self.stores.blobs.put(bytes).await?;
        let model = Model {
            id: ModelId::new(),
            run_id: None,
            stage: None,
            name,
            sha256: stored.sha256().clone(),
            byte_length,
            spec,
            synthetic,
            aliases: Vec::new(),
            created_at: Timestamp::now(),
        };
        store::models::create(&self.stores.db, &model, &[]).await?;
        Ok(model)
    }

    /// The file of a model. An earlier version stored models of phantoms without a mark in the file: they get it here.
    ///
    /// # Errors
    /// [`Error::Store`] where the file cannot be read.
    pub async fn file(&self, model: &Model) -> Result<Vec<u8>, Error> {
        let bytes = self.stores.blobs.get(&model.sha256).await?;
        if !model.synthetic {
            return Ok(bytes);
        }
        let mark = move || if nn::is_synthetic(&bytes)? { Ok(bytes) } else { nn::marked_synthetic(&bytes) };
        tokio::task::spawn_blocking(mark).await?.map_err(Error::internal)
    }

    /// Deletes a model that no alias points at, and unloads it.
    ///
    /// # Errors
    /// [`Error::NotFound`], or [`Error::Store`] where an alias points at it.
    pub async fn delete(&self, id: ModelId) -> Result<(), Error> {
        // No alias moves to the model meanwhile.
        let _lock = self.serving.alias_lock.acquire().await;
        if !store::models::delete(&self.stores.db, id).await? {
            return Err(Error::NotFound("model"));
        }
        Ok(self.serving.engine.unload(id).await?)
    }
}

/// `^[a-z][a-z0-9-]{0,31}$`
pub(super) fn is_alias(text: &str) -> bool {
    let rest = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    text.len() <= 32 && text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(rest)
}

#[cfg(test)]
mod tests {
    use super::is_alias;

    #[test]
    fn an_alias_is_a_short_lower_case_word() {
        for good in ["champion", "a", "canary-2", &"a".repeat(32)] {
            assert!(is_alias(good), "{good}");
        }
        for bad in ["", "2nd", "-a", "Champion", "a b", "é", &"a".repeat(33)] {
            assert!(!is_alias(bad), "{bad}");
        }
    }
}
