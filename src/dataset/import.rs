//! Imports a folder of labelled radiographs: COVIDx split files, or one folder per class.

mod layout;
mod ledger;
mod sources;

use std::{path::PathBuf, sync::Arc};

use futures_util::{StreamExt, stream};
use tokio_util::sync::CancellationToken;

use crate::{
    domain::Split,
    imaging::Limits,
    store::{self, Blobs, Dataset, Db, Import, RejectionKind, StoreError},
};

use super::{
    AddError, Added, NewRadiograph, PatientIds,
    folder::read_bounded,
    upload::{self, Kept},
};
use layout::{Entry, Origin};
use ledger::Ledger;
use sources::Sources;

/// What to import and within which bounds.
#[derive(Clone, Debug)]
pub struct ImportRequest {
    /// Into which data set.
    pub dataset: Dataset,
    /// The folder; over HTTP made with [`super::resolve_below`]. Nothing outside it is read.
    pub root: PathBuf,
    /// Split file of the images in `train/`, relative to the folder; `train_split.txt` if absent.
    pub train_split: Option<String>,
    /// Split file of the images in `test/`, relative to the folder; `test_split.txt` if absent.
    pub test_split: Option<String>,
    /// Bounds of one image.
    pub limits: Limits,
    /// Largest accepted file.
    pub max_bytes: u64,
    /// How patient ids are stored.
    pub patient_ids: PatientIds,
    /// Stopped before its end, it stays `running`: the server begins it again at its next start.
    pub goes_on: bool,
}

/// Why there is no image in a row or file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Refused {
    kind: RejectionKind,
    reason: String,
}

impl From<String> for Refused {
    fn from(reason: String) -> Self {
        Self { kind: RejectionKind::Unusable, reason }
    }
}

/// An image that was found, and what its place says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Candidate {
    /// Relative to the folder.
    path: String,
    label: String,
    split: Option<Split>,
    patient_id: Option<String>,
    source: Option<String>,
}

/// Imports `request` under the row `import`, which the caller has created as `running`.
///
/// Bad rows and files are recorded and passed over; importing the same folder again adds nothing. Counts go to the
/// row and to `progress` at most every half second, and once at the end. `stop` ends the import as failed between
/// two images, or leaves it running if it goes on later. The result is the row; an error means that the store failed.
pub async fn import(
    db: &Db,
    blobs: &Blobs,
    request: &ImportRequest,
    import: Import,
    stop: &CancellationToken,
    progress: &mut (dyn FnMut(&Import) + Send),
) -> Result<Import, StoreError> {
    let mut ledger = Ledger::new(db, import, progress);
    match import_all(db, blobs, request, stop, &mut ledger).await {
        Ok(()) => ledger.finish(None).await,
        Err(Failure::Import(why)) => ledger.finish(Some(why)).await,
        Err(Failure::Stopped) if request.goes_on => ledger.pause().await,
        Err(Failure::Stopped) => ledger.finish(Some(STOPPED.to_owned())).await,
        Err(Failure::Store(error)) => {
            // The row should not say `running` for ever; if it cannot be written either, the next start marks it.
            if let Err(second) = ledger.finish(Some("the store failed".to_owned())).await {
                tracing::error!(error = %second, "the failed import could not be marked as failed");
            }
            Err(error)
        }
    }
}

/// What is said of an import that was stopped for good.
const STOPPED: &str = "stopped before its end; import the folder again to complete it";

enum Failure {
    Import(String),
    Stopped,
    Store(StoreError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

async fn import_all(
    db: &Db,
    blobs: &Blobs,
    request: &ImportRequest,
    stop: &CancellationToken,
    ledger: &mut Ledger<'_>,
) -> Result<(), Failure> {
    let request = Arc::new(request.clone());
    let for_listing = Arc::clone(&request);
    let listing = move || Ok((layout::entries(&for_listing)?, Sources::read(&for_listing)));
    let (entries, sources) = blocking(listing).await.map_err(Failure::Import)?;
    ledger.begin((entries.len() + sources.problems.len()) as u64).await?;
    for (line, reason) in &sources.problems {
        ledger.reject(Origin { file: sources::FILE.into(), line: *line }, reason.clone().into());
    }

    let mut known = store::attributes::of_dataset(db, request.dataset.id).await?;

    // Reading, decoding and blobs in parallel; rows one by one in the order of the folder, so that the same folder
    // always gives the same data set.
    let parallel = std::thread::available_parallelism().map_or(1, usize::from);
    let mut kept = stream::iter(entries).map(|entry| keep(db, blobs, Arc::clone(&request), entry)).buffered(parallel);
    while let Some(outcome) = kept.next().await {
        if stop.is_cancelled() {
            return Err(Failure::Stopped);
        }
        let (origin, outcome) = outcome?;
        match outcome {
            Ok((candidate, kept)) => {
                let said = sources.of(&candidate);
                let added = upload::enter(db, kept, said).await?;
                // A folder that is imported again may have come to say more of one that was there.
                if let (Added::Duplicate(there), Some(said)) = (&added, said)
                    && known.get(&there.id).is_none_or(|known| !known.cover(said))
                {
                    store::attributes::put(db, there.id, said).await?;
                    known.insert(there.id, said.clone());
                }
                ledger.record(origin, candidate, added);
            }
            Err(refused) => ledger.reject(origin, refused),
        }
        ledger.report_if_due().await?;
    }
    Ok(())
}

/// Reads, checks and stores one image up to its row; the inner error is a reason to reject it.
async fn keep(
    db: &Db,
    blobs: &Blobs,
    request: Arc<ImportRequest>,
    Entry { origin, found }: Entry,
) -> Result<(Origin, Result<(Candidate, Kept), Refused>), StoreError> {
    let candidate = match found {
        Ok(candidate) => candidate,
        Err(refused) => return Ok((origin, Err(refused))),
    };
    let (for_reading, path) = (Arc::clone(&request), candidate.path.clone());
    let bytes = match blocking(move || read_bounded(&for_reading.root, &path, for_reading.max_bytes)).await {
        Ok(bytes) => bytes,
        Err(reason) => {
            let there = tokio::fs::symlink_metadata(request.root.join(&candidate.path)).await.is_ok();
            let kind = if there { RejectionKind::Unusable } else { RejectionKind::RowWithoutFile };
            return Ok((origin, Err(Refused { kind, reason })));
        }
    };
    let new = NewRadiograph {
        bytes,
        file_name: candidate.path.clone(),
        label: Some(candidate.label.clone()),
        patient_id: candidate.patient_id.clone(),
        source: candidate.source.clone(),
        view: None,
        split: candidate.split,
    };
    match upload::keep(db, blobs, &request.dataset, new, &request.limits, &request.patient_ids).await {
        Ok(kept) => Ok((origin, Ok((candidate, kept)))),
        Err(AddError::Store(error)) => Err(error),
        Err(refused) => Ok((origin, Err(format!("{}: {refused}", candidate.path).into()))),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| format!("reading gave up: {error}"))?
}

#[cfg(test)]
mod tests;
