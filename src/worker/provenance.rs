//! Records the provenance of a run at its start.

use jiff::Timestamp;

use super::WorkerContext;
use crate::{
    domain::Sha256,
    store::{Page, Radiograph, Run, RunEnvironment, RunImage, StoreError, provenance},
};

/// Commit from which the program was built, set by build.rs. Uncommitted changes do not show. Empty if it was built outside a git repository.
const GIT_COMMIT: &str = env!("BUILD_GIT_COMMIT");

/// Records device, program, initial weights, and the images of the run.
pub(super) async fn record(
    context: &WorkerContext,
    run: &Run,
    weights: Option<&Sha256>,
    images: &[RunImage],
) -> Result<(), StoreError> {
    provenance::record(&context.stores.db, run.id, &environment(context), weights, images).await
}

fn environment(context: &WorkerContext) -> RunEnvironment {
    let info = context.device_info.clone();
    RunEnvironment {
        device: info.name,
        device_backend: info.backend,
        device_description: info.description,
        device_driver: info.driver,
        version: env!("CARGO_PKG_VERSION").into(),
        git_commit: (!GIT_COMMIT.is_empty()).then(|| GIT_COMMIT.into()),
        recorded_at: Timestamp::now(),
    }
}

/// Images of a run with their splits in it, in order of their hashes.
pub(super) fn images(radiographs: &[Radiograph]) -> Vec<RunImage> {
    let image = |radiograph: &Radiograph| {
        let (label, split) = (radiograph.label.clone()?, radiograph.split?);
        Some(RunImage { sha256: radiograph.sha256.clone(), split, label })
    };
    let mut images: Vec<_> = radiographs.iter().filter_map(image).collect();
    images.sort_by(|a, b| a.sha256.cmp(&b.sha256));
    images
}

/// True unless the run repeats another one whose images had other splits. The fingerprint of the data set does not tell: the validation split
/// depends on patients, which are not part of it.
pub(super) async fn has_split_of_repeated(
    context: &WorkerContext,
    run: &Run,
    images: &[RunImage],
) -> Result<bool, StoreError> {
    let Some(repeated) = run.repeats else { return Ok(true) };
    let all = Page { limit: u32::MAX, after: None };
    let images_then = provenance::images(&context.stores.db, repeated, None, &all).await?;
    // A run that has not started, or was deleted, has none.
    Ok(images_then.is_empty() || images_then == images)
}
