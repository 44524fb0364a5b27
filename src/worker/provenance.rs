//! What a run needs to be repeated, recorded when it starts.

use jiff::Timestamp;

use super::{WorkerContext, job::PrepareError};
use crate::{
    domain::Sha256,
    store::{Origin, Page, Radiograph, Run, RunImage, StoreError, provenance},
};

/// The commit that was checked out when the program was built, by build.rs; changes that were not committed do not show. Empty
/// when it was not built in a git repository.
const GIT_COMMIT: &str = env!("BUILD_GIT_COMMIT");

/// Records device, program, initial weights and the images as they are split for this run.
pub(super) async fn record(
    context: &WorkerContext,
    run: &Run,
    weights: Option<&Sha256>,
    radiographs: &[Radiograph],
) -> Result<(), PrepareError> {
    let images = images(radiographs);
    if !is_split_as_the_first(context, run, &images).await? {
        return Err(PrepareError::SplitOtherwise);
    }
    Ok(provenance::record(&context.db, run.id, &origin(context), weights, &images).await?)
}

fn origin(context: &WorkerContext) -> Origin {
    let info = context.device_info.clone();
    Origin {
        device: info.name,
        device_backend: info.backend,
        device_description: info.description,
        device_driver: info.driver,
        version: env!("CARGO_PKG_VERSION").into(),
        git_commit: (!GIT_COMMIT.is_empty()).then(|| GIT_COMMIT.into()),
        recorded_at: Timestamp::now(),
    }
}

/// In the order of their hashes.
fn images(radiographs: &[Radiograph]) -> Vec<RunImage> {
    let image = |radiograph: &Radiograph| {
        let (label, split) = (radiograph.label.clone()?, radiograph.split?);
        Some(RunImage { sha256: radiograph.sha256.clone(), split, label })
    };
    let mut images: Vec<_> = radiographs.iter().filter_map(image).collect();
    images.sort_by(|a, b| a.sha256.cmp(&b.sha256));
    images
}

/// Whether a run that repeats another has the images where that one had them. The fingerprint does not say so alone: validation
/// is carved by patient, and patients are not in it.
async fn is_split_as_the_first(context: &WorkerContext, run: &Run, images: &[RunImage]) -> Result<bool, StoreError> {
    let Some(first) = run.repeats else { return Ok(true) };
    let whole = Page { limit: u32::MAX, after: None };
    let of_first = provenance::images(&context.db, first, None, &whole).await?;
    // A run that has not started yet, or was removed meanwhile, has none to be compared with.
    Ok(of_first.is_empty() || of_first == images)
}
