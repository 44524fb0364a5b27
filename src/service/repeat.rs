//! Repetition of training runs: the same plan, seed, data and initial weights once more.

use super::{Error, Stores};
use crate::{
    domain::{InitialWeights, RunId, Sha256},
    store::{self, Run},
};

/// Queues a run again. On the same device and with the same program it gives the same numbers.
///
/// # Errors
/// [`Error::Conflict`] where the data set or the weights are no longer those of the run.
pub async fn repeat(stores: &Stores, id: RunId) -> Result<Run, Error> {
    let first = store::runs::get(&stores.db, id).await?.ok_or(Error::NotFound("training run"))?;
    check_data(stores, &first).await?;
    check_weights(stores, &first).await?;
    let run = repetition(first);
    store::runs::create(&stores.db, &run).await?;
    Ok(run)
}

fn repetition(first: Run) -> Run {
    Run {
        name: first.name,
        recipe: first.recipe,
        initial_weights_sha256: first.initial_weights_sha256,
        repeats: Some(first.id),
        synthetic: first.synthetic,
        ..Run::queued(first.dataset_id, first.dataset_fingerprint, first.plan, first.seed)
    }
}

async fn check_data(stores: &Stores, run: &Run) -> Result<(), Error> {
    if store::datasets::get(&stores.db, run.dataset_id).await?.is_none() {
        return Err(Error::Conflict("the data set of the run was removed".into()));
    }
    let (then, now) = (&run.dataset_fingerprint, store::datasets::fingerprint(&stores.db, run.dataset_id).await?);
    if *then == now {
        return Ok(());
    }
    Err(Error::Conflict(format!(
        "the data set changed since the run was submitted: its fingerprint was {then} and is {now}. Submit the plan as a new run"
    )))
}

async fn check_weights(stores: &Stores, run: &Run) -> Result<(), Error> {
    if run.plan.initial_weights == InitialWeights::Random {
        return Ok(());
    }
    let known = store::weights::list(&stores.db).await?;
    let refuse = |why: String| Err(Error::Conflict(why));
    match &run.initial_weights_sha256 {
        Some(hash) if known.iter().any(|weights| weights.sha256 == *hash) && exists(stores, hash).await? => Ok(()),
        Some(hash) => {
            refuse(format!("the ImageNet weights {hash}, which the run started from, are gone: import them again"))
        }
        None if run.started_at.is_some() => {
            refuse("the run is from before its initial weights were recorded: submit its plan as a new run".into())
        }
        None if known.is_empty() => refuse("there are no ImageNet weights to start from: import some".into()),
        None => Ok(()),
    }
}

async fn exists(stores: &Stores, hash: &Sha256) -> Result<bool, Error> {
    tokio::fs::try_exists(stores.blobs.path(hash)).await.map_err(Error::internal)
}
