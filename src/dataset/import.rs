//! Imports labelled radiographs: a folder with COVIDx split files, arrays of NumPy, or one folder per class; or the sources of COVIDx.

mod candidate;
mod generate;
mod image_array;
mod layout;
mod ledger;
mod sources;

use std::{
    collections::HashMap,
    mem,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use tokio::task::JoinError;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    domain::RadiographId,
    imaging::Limits,
    store::{self, Attributes, Blobs, Dataset, Db, ExcludedRows, Import, RejectionKind, StoreError},
};

use super::{
    AddError, Added, NewRadiograph, PatientIds,
    upload::{self, Kept},
};
use candidate::Candidate;
pub use generate::{
    ClinicalRules, GenerateBy, Generation, RadiographyRules, RsnaRules, Rules, RulesError, SourceFolders, TestRules,
};
pub use image_array::{ImageArray, labels as array_labels};
use layout::{Entry, Origin};
use ledger::Ledger;

/// What to import and within which bounds.
#[derive(Clone, Debug)]
pub struct ImportRequest {
    /// Into which data set.
    pub dataset: Dataset,
    /// From where. Over HTTP each path is made with [`super::resolve_below`]; nothing outside the folders is read.
    pub from: ImportFrom,
    /// Bounds of one image.
    pub limits: Limits,
    /// Largest accepted file.
    pub max_bytes: u64,
    /// How patient ids are stored.
    pub patient_ids: PatientIds,
    /// Stopped before its end, it stays `running`: the server begins it again at its next start.
    pub goes_on: bool,
}

/// Where the images are.
#[derive(Clone, Debug)]
pub enum ImportFrom {
    /// In a folder that says their classes.
    Folder(LabelledFolder),
    /// In the sources of COVIDx.
    Sources(Generation),
}

/// A folder in the COVIDx layout, with arrays of NumPy, or with one folder a class.
#[derive(Clone, Debug)]
pub struct LabelledFolder {
    /// The folder.
    pub root: PathBuf,
    /// Split file of the images in `train/`, relative to the folder; `train_split.txt` if absent.
    pub train_split: Option<String>,
    /// Split file of the images in `test/`, relative to the folder; `test_split.txt` if absent.
    pub test_split: Option<String>,
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
    let (entries, passed_over) = blocking(move || list(&for_listing)).await.map_err(Failure::Import)?;
    ledger.begin(entries.len() as u64, passed_over).await?;

    let mut known = store::attributes::of_dataset(db, request.dataset.id).await?;

    // Reading, decoding and blobs in parallel; rows in the order of the folder, so that the same folder always gives the same data set.
    // More than there are cores, for most of them wait for the disk.
    let parallel = 4 * std::thread::available_parallelism().map_or(1, usize::from);
    // Tasks of their own, so that they go on while rows are written; they end with whoever waits for them.
    let begin =
        |entry| AbortOnDropHandle::new(tokio::spawn(keep(db.clone(), blobs.clone(), Arc::clone(&request), entry)));
    let mut kept = stream::iter(entries).map(begin).buffered(parallel);
    let (mut outcomes, mut entered) = (Vec::with_capacity(ROWS), Instant::now());
    while let Some(outcome) = kept.next().await {
        if stop.is_cancelled() {
            return Err(Failure::Stopped);
        }
        let given_up = |error: JoinError| StoreError::Blob(format!("an image was given up: {error}"));
        outcomes.push(outcome.map_err(given_up)??);
        if outcomes.len() == ROWS || entered.elapsed() >= LONGEST {
            enter(db, mem::take(&mut outcomes), &mut known, ledger).await?;
            ledger.report_if_due().await?;
            entered = Instant::now();
        }
    }
    Ok(enter(db, outcomes, &mut known, ledger).await?)
}

/// Images whose rows are written in one transaction, and for how long they are collected: a commit costs as much as a small image.
const ROWS: usize = 64;
const LONGEST: Duration = Duration::from_millis(250);

/// An image on its way up to its row, or the reason to reject it.
type Outcome = (Origin, Result<(Candidate, Kept), Refused>);

/// Writes the rows of images that are kept, and records what became of each, in order.
async fn enter(
    db: &Db,
    outcomes: Vec<Outcome>,
    known: &mut HashMap<RadiographId, Attributes>,
    ledger: &mut Ledger<'_>,
) -> Result<(), StoreError> {
    let (mut described, mut kept) = (Vec::new(), Vec::new());
    for (origin, outcome) in outcomes {
        let candidate = outcome.map(|(candidate, image)| {
            kept.push(image);
            candidate
        });
        described.push((origin, candidate));
    }
    let said = described.iter().filter_map(|(_, candidate)| candidate.as_ref().ok());
    let rows = kept.into_iter().zip(said.map(|candidate| candidate.attributes.as_ref())).collect();
    let mut added = upload::enter(db, rows).await?.into_iter();
    for (origin, candidate) in described {
        match candidate {
            Ok(candidate) => {
                let added = added.next().expect("one for each image that is kept");
                learn_more(db, &candidate, &added, known).await?;
                ledger.record(origin, candidate, added);
            }
            Err(refused) => ledger.reject(origin, refused),
        }
    }
    Ok(())
}

/// A folder that is imported again may have come to say more of an image that was there.
async fn learn_more(
    db: &Db,
    candidate: &Candidate,
    added: &Added,
    known: &mut HashMap<RadiographId, Attributes>,
) -> Result<(), StoreError> {
    if let (Added::Duplicate(there), Some(said)) = (added, &candidate.attributes)
        && known.get(&there.id).is_none_or(|known| !known.cover(said))
    {
        store::attributes::put(db, there.id, said).await?;
        known.insert(there.id, said.clone());
    }
    Ok(())
}

/// All images that are to be imported, and what is passed over; an error means that there is nothing to be imported there.
fn list(request: &ImportRequest) -> Result<(Vec<Entry>, Vec<ExcludedRows>), String> {
    let classes = &request.dataset.classes;
    match &request.from {
        ImportFrom::Folder(folder) => Ok((layout::entries(folder, classes, &request.limits)?, Vec::new())),
        ImportFrom::Sources(generation) => generate::entries(generation, classes),
    }
}

/// Reads, checks and stores one image up to its row; the inner error is a reason to reject it.
async fn keep(
    db: Db,
    blobs: Blobs,
    request: Arc<ImportRequest>,
    Entry { origin, found }: Entry,
) -> Result<Outcome, StoreError> {
    let candidate = match found {
        Ok(candidate) => candidate,
        Err(refused) => return Ok((origin, Err(refused))),
    };
    let (content, max_bytes, limits) = (candidate.content.clone(), request.max_bytes, request.limits);
    let bytes = match blocking(move || Ok(content.read(max_bytes, &limits))).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(refused)) => return Ok((origin, Err(refused))),
        Err(reason) => return Ok((origin, Err(reason.into()))),
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
    match upload::keep(&db, &blobs, &request.dataset, new, &request.limits, &request.patient_ids).await {
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
