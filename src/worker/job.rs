//! From a run in the store to a training job: samples, validation split and weights.

use std::sync::Arc;

use super::{WorkerContext, provenance};
use crate::{
    dataset,
    domain::{ClassList, InitialWeights, RunEvent, Sha256, Split, TrainingPlan},
    store::{Blobs, Radiograph, Run, StoreError, checkpoints, datasets, events, radiographs, weights},
    training::{Checkpoint, ReadImage, Sample, TrainingJob},
};

/// Share of the training images that chooses epochs when the data set has no validation split of its own.
pub const VALIDATION_FRACTION: f64 = 0.1;

/// Why a run cannot start.
#[derive(Debug, thiserror::Error)]
pub(super) enum PrepareError {
    /// The database or the blobs.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Removed while the run waited.
    #[error("the data set was removed after the run was submitted")]
    NoDataset,
    /// Its numbers would be filed under data they do not come from.
    #[error("the data set changed after the run was submitted: submit the run again")]
    Changed,
    /// A label outside the class list.
    #[error("radiograph {file_name} is labelled {label}, which is no class of the data set")]
    Label {
        /// The radiograph.
        file_name: String,
        /// Its label.
        label: String,
    },
    /// ImageNet weights asked for and not there.
    #[error(
        "the plan starts from ImageNet weights and none are imported: import some (`thorax weights import FILE` or \
         POST /v1/admin/weights) or set initial_weights to random"
    )]
    NoWeights,
    /// The weights of the run that it repeats.
    #[error("the ImageNet weights {0}, which the run is to start from, are gone: import them again")]
    WeightsGone(Sha256),
    /// Its numbers would be those of another run.
    #[error(
        "the images are no longer split as in the run that this one repeats: patient ids changed. Submit the plan as a new run"
    )]
    SplitOtherwise,
}

/// A job and what is recorded with it.
pub(super) struct PreparedJob {
    pub(super) job: TrainingJob,
    pub(super) synthetic: bool,
    /// Number of the checkpoint that it goes on from, or 0.
    pub(super) sequence: u32,
}

/// Reads all that the run needs, but for the images themselves.
pub(super) async fn prepare(context: &WorkerContext, run: &Run) -> Result<PreparedJob, PrepareError> {
    let WorkerContext { db, blobs, caches, device, max_pixels, give_way, max_yield, .. } = context;
    let dataset = datasets::get(db, run.dataset_id).await?.ok_or(PrepareError::NoDataset)?;
    if datasets::fingerprint(db, run.dataset_id).await? != run.dataset_fingerprint {
        return Err(PrepareError::Changed);
    }
    let radiographs = with_validation(radiographs::labelled(db, run.dataset_id).await?, &run.plan, run.seed.into());
    let samples = samples(&radiographs, &dataset.classes)?;
    let weights = initial_weights(context, run).await?;
    provenance::record(context, run, weights.as_ref(), &radiographs).await?;
    let (sequence, checkpoint) = last_good_checkpoint(context, run).await?;
    let job = TrainingJob {
        samples,
        plan: run.plan.clone(),
        classes: dataset.classes,
        read: reader(blobs.clone()),
        cache: caches.folder(run.dataset_id),
        max_pixels: *max_pixels,
        body: body(blobs, weights.as_ref()).await?,
        seed: run.seed.into(),
        device: device.clone(),
        give_way: Arc::clone(give_way),
        max_yield: *max_yield,
        checkpoint,
    };
    Ok(PreparedJob { job, synthetic: dataset.synthetic, sequence })
}

/// The newest checkpoint that is whole, and its number; what was recorded after it goes, for it will be recorded again.
async fn last_good_checkpoint(context: &WorkerContext, run: &Run) -> Result<(u32, Option<Checkpoint>), StoreError> {
    let WorkerContext { db, checkpoints: files, .. } = context;
    for stored in checkpoints::of_run(db, run.id).await? {
        let (files, id, file) = (files.clone(), run.id, stored.file.clone());
        let read = move || {
            let bytes = files.read(id, &file).map_err(|error| error.to_string())?;
            Checkpoint::read(&bytes).map_err(|error| error.to_string())
        };
        match tokio::task::spawn_blocking(read).await.unwrap_or_else(|panic| Err(panic.to_string())) {
            Ok(checkpoint) => {
                checkpoints::rewind(db, id, Some(&stored)).await?;
                tracing::info!(run = %id, position = %stored.position, "training goes on");
                return Ok((stored.sequence, Some(checkpoint)));
            }
            Err(error) => {
                tracing::warn!(run = %id, error, "a checkpoint is damaged: the one before is used");
                let message = format!("a checkpoint is damaged and the one before is used: {error}");
                events::append(db, id, &RunEvent::Warning { message }).await?;
            }
        }
    }
    checkpoints::rewind(db, run.id, None).await?;
    Ok((0, None))
}

/// Carves a validation split from the training images, by patient, if the plan selects on one and there is none. For
/// this run alone: the data set stays as it is, and the test split is not touched.
fn with_validation(all: Vec<Radiograph>, plan: &TrainingPlan, seed: u64) -> Vec<Radiograph> {
    let has_validation = all.iter().any(|radiograph| radiograph.split == Some(Split::Validation));
    if plan.selection.split != Split::Validation || has_validation {
        return all;
    }
    let (train, rest): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|radiograph| radiograph.split == Some(Split::Train));
    let (train, mut validation) = dataset::carve_validation(&train, VALIDATION_FRACTION, seed);
    for radiograph in &mut validation {
        radiograph.split = Some(Split::Validation);
    }
    [train, validation, rest].concat()
}

fn samples(radiographs: &[Radiograph], classes: &ClassList) -> Result<Vec<Sample>, PrepareError> {
    let labelled =
        radiographs.iter().filter_map(|radiograph| Some((radiograph, radiograph.label.as_ref()?, radiograph.split?)));
    let sample = |(radiograph, label, split): (&Radiograph, &String, Split)| {
        let unknown = || PrepareError::Label { file_name: radiograph.file_name.clone(), label: label.clone() };
        let class = classes.index_of(label).ok_or_else(unknown)?;
        Ok(Sample { class, split, key: radiograph.sha256.to_string() })
    };
    labelled.map(sample).collect()
}

/// Checks the hash: what is read is decoded into a cache that outlives the run, under this hash.
fn reader(blobs: Blobs) -> ReadImage {
    Arc::new(move |sample| {
        let hash = Sha256::try_from(sample.key.clone()).map_err(std::io::Error::other)?;
        let bytes = std::fs::read(blobs.path(&hash))?;
        let found = Sha256::of(&bytes);
        if found == hash {
            Ok(bytes)
        } else {
            Err(std::io::Error::other(format!("corrupt: its bytes have the hash {found}")))
        }
    })
}

/// The weights that the run was told to start from, else the newest imported ones; none if the plan asks for none.
async fn initial_weights(context: &WorkerContext, run: &Run) -> Result<Option<Sha256>, PrepareError> {
    if run.plan.initial_weights == InitialWeights::Random {
        return Ok(None);
    }
    let mut known = weights::list(&context.db).await?.into_iter().map(|weights| weights.sha256);
    let chosen = match &run.initial_weights_sha256 {
        Some(wanted) => known.find(|hash| hash == wanted).ok_or_else(|| PrepareError::WeightsGone(wanted.clone())),
        None => known.next().ok_or(PrepareError::NoWeights),
    };
    chosen.map(Some)
}

async fn body(blobs: &Blobs, weights: Option<&Sha256>) -> Result<Option<Vec<u8>>, PrepareError> {
    match weights {
        Some(hash) => Ok(Some(blobs.get(hash).await?)),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_image_that_is_no_longer_what_its_hash_says_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).unwrap();
        let hash = blobs.put(b"a radiograph".to_vec()).await.unwrap().sha256().clone();
        let sample = Sample { class: 0, split: Split::Train, key: hash.to_string() };
        let read = reader(blobs.clone());
        assert_eq!(read(&sample).unwrap(), b"a radiograph");
        std::fs::write(blobs.path(&hash), "a radiograpi").unwrap();
        assert!(read(&sample).unwrap_err().to_string().contains("corrupt"));
    }
}
