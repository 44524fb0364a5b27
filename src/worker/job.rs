//! Prepares the training job of a stored run: samples, validation split, initial weights and checkpoint.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use super::{WorkerContext, provenance};
use crate::{
    dataset,
    domain::{ClassList, InitialWeights, RunEvent, Sha256, Split, TrainingPlan},
    store::{Blobs, Radiograph, Run, StoreError, Stores, checkpoints, datasets, events, radiographs, weights},
    training::{Checkpoint, ReadImage, Sample, TrainingJob},
};

/// Share of the training images that is split off for validation if the data set has no validation split.
pub const VALIDATION_FRACTION: f64 = 0.1;

/// Reason for which a run cannot start.
#[derive(Debug, thiserror::Error)]
pub(super) enum PrepareError {
    /// The database or a blob failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The data set was deleted while the run was queued.
    #[error("the data set was deleted after the run was submitted")]
    NoDataset,
    /// The data set no longer has the fingerprint that is recorded with the run.
    #[error(
        "the data set changed after the run was submitted: undo the change (radiographs that were added, removed, relabelled or moved to \
         another split) and resume the run, or submit it again"
    )]
    Changed,
    /// A label that is not a class.
    #[error("radiograph {file_name} has the label {label}, which is not a class of the data set")]
    Label {
        /// File name of the radiograph.
        file_name: String,
        /// Its label.
        label: String,
    },
    /// The plan needs ImageNet weights, and none are imported.
    #[error(
        "the plan starts from ImageNet weights, and none are imported: import some (`thorax weights import FILE` or \
         POST /v1/admin/weights) or set initial_weights to random"
    )]
    NoWeights,
    /// The run repeats another one, whose ImageNet weights are missing.
    #[error("the ImageNet weights {0}, from which the run starts, are missing: import them again")]
    MissingWeights(Sha256),
    /// The plan needs more memory than the device has.
    #[error("the run does not fit in the memory of the device {device}: {why}")]
    Memory {
        /// Name of the device.
        device: String,
        /// Estimate and advice.
        why: String,
    },
    /// The run repeats another one, whose validation split cannot be reproduced.
    #[error(
        "the split differs from that of the repeated run, because patient ids have changed: submit the plan as a new run"
    )]
    SplitChanged,
}

/// A job, with data that is recorded with its results.
pub(super) struct PreparedJob {
    pub(super) job: TrainingJob,
    pub(super) synthetic: bool,
    /// Number of the checkpoint from which training resumes, or 0.
    pub(super) sequence: u32,
}

/// Reads everything that the run needs except the images.
pub(super) async fn prepare(context: &WorkerContext, run: &Run) -> Result<PreparedJob, PrepareError> {
    let WorkerContext { stores, device, device_info, max_pixels, wait_until_idle, max_yield, .. } = context;
    // Checked at submission too, but the run may have been submitted to a process with another device.
    if let Some(why) = device_info.memory_bytes.and_then(|memory| run.plan.exceeds_memory(memory)) {
        return Err(PrepareError::Memory { device: device_info.name.clone(), why });
    }
    let Stores { db, blobs, caches, .. } = stores;
    let dataset = datasets::get(db, run.dataset_id).await?.ok_or(PrepareError::NoDataset)?;
    if datasets::fingerprint(db, run.dataset_id).await? != run.dataset_fingerprint {
        return Err(PrepareError::Changed);
    }
    let radiographs = with_validation(radiographs::labelled(db, run.dataset_id).await?, &run.plan, run.seed.into());
    let samples = samples(&radiographs, &dataset.classes)?;
    let weights = initial_weights(context, run).await?;
    let images = provenance::images(&radiographs);
    if !provenance::has_split_of_repeated(context, run, &images).await? {
        return Err(PrepareError::SplitChanged);
    }
    provenance::record(context, run, weights.as_ref(), &images).await?;
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
        wait_until_idle: Arc::clone(wait_until_idle),
        max_yield: *max_yield,
        checkpoint,
    };
    Ok(PreparedJob { job, synthetic: dataset.synthetic, sequence })
}

/// The newest undamaged checkpoint and its number, or 0. Rewinds the run to it.
async fn last_good_checkpoint(context: &WorkerContext, run: &Run) -> Result<(u32, Option<Checkpoint>), StoreError> {
    let Stores { db, checkpoints: files, .. } = &context.stores;
    for stored in checkpoints::of_run(db, run.id).await? {
        let (files, id, file) = (files.clone(), run.id, stored.file.clone());
        let read = move || {
            let bytes = files.read(id, &file).map_err(|error| error.to_string())?;
            Checkpoint::read(&bytes).map_err(|error| error.to_string())
        };
        match tokio::task::spawn_blocking(read).await.unwrap_or_else(|panic| Err(panic.to_string())) {
            Ok(checkpoint) => {
                checkpoints::rewind(db, id, Some(&stored)).await?;
                tracing::info!(run = %id, position = %stored.position, "training resumes");
                return Ok((stored.sequence, Some(checkpoint)));
            }
            Err(error) => {
                tracing::warn!(run = %id, error, "a checkpoint is damaged: using the previous one");
                let message = format!("a checkpoint is damaged, using the previous one: {error}");
                events::append(db, id, &RunEvent::Warning { message }).await?;
            }
        }
    }
    checkpoints::rewind(db, run.id, None).await?;
    Ok((0, None))
}

/// Splits a validation set off the training images, by patient, if the plan selects epochs on one and the data set has none. Only for this
/// run: the data set is not changed. The test split is not used.
pub fn with_validation(all: Vec<Radiograph>, plan: &TrainingPlan, seed: u64) -> Vec<Radiograph> {
    let has_validation = all.iter().any(|radiograph| radiograph.split == Some(Split::Validation));
    if plan.selection.split != Split::Validation || has_validation {
        return all;
    }
    let (train, rest): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|radiograph| radiograph.split == Some(Split::Train));
    let (train, mut validation) = dataset::split_off_validation(&train, VALIDATION_FRACTION, seed);
    for radiograph in &mut validation {
        radiograph.split = Some(Split::Validation);
    }
    [train, validation, rest].concat()
}

fn samples(radiographs: &[Radiograph], classes: &ClassList) -> Result<Vec<Sample>, PrepareError> {
    let labelled =
        radiographs.iter().filter_map(|radiograph| Some((radiograph, radiograph.label.as_ref()?, radiograph.split?)));
    let patients = radiographs.iter().filter_map(|radiograph| radiograph.patient_id.as_deref());
    let patients: BTreeSet<&str> = patients.collect();
    let numbers: HashMap<&str, u32> = patients.into_iter().zip(0..).collect();
    let sample = |(radiograph, label, split): (&Radiograph, &String, Split)| {
        let unknown = || PrepareError::Label { file_name: radiograph.file_name.clone(), label: label.clone() };
        let class = classes.index_of(label).ok_or_else(unknown)?;
        let patient = radiograph.patient_id.as_deref().map(|id| numbers[id]);
        Ok(Sample { class, split, key: radiograph.sha256.to_string(), patient })
    };
    labelled.map(sample).collect()
}

/// Reads and verifies images. Verified, because the decoded image is cached under the hash beyond the run.
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

/// The ImageNet weights recorded with the run, else the newest imported ones; `None` if the plan starts from random weights.
async fn initial_weights(context: &WorkerContext, run: &Run) -> Result<Option<Sha256>, PrepareError> {
    if run.plan.initial_weights == InitialWeights::Random {
        return Ok(None);
    }
    let mut known = weights::list(&context.stores.db).await?.into_iter().map(|weights| weights.sha256);
    let chosen = match &run.initial_weights_sha256 {
        Some(recorded) => {
            known.find(|hash| hash == recorded).ok_or_else(|| PrepareError::MissingWeights(recorded.clone()))
        }
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
    async fn refuses_a_damaged_image() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(folder.path()).unwrap();
        let hash = blobs.put(b"a radiograph".to_vec()).await.unwrap().sha256().clone();
        let sample = Sample { class: 0, split: Split::Train, key: hash.to_string(), patient: None };
        let read = reader(blobs.clone());
        assert_eq!(read(&sample).unwrap(), b"a radiograph");
        std::fs::write(blobs.path(&hash), "a radiograpi").unwrap();
        assert!(read(&sample).unwrap_err().to_string().contains("corrupt"));
    }
}
