//! Import of labelled radiographs from a folder (COVIDx label files, NumPy arrays, or one folder per class) or from the sources of COVIDx.

mod candidate;
mod class_names;
mod entry;
mod generate;
mod image_array;
mod layout;
mod recorder;
mod shown_path;
mod sources;
mod split_names;

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
    AddError, AddOutcome, NewRadiograph, PatientIds,
    upload::{self, StagedRadiograph},
};
use candidate::Candidate;
pub use class_names::{ClassMapping, unknown_target};
use entry::{EntryOrigin, ImportEntry};
pub use generate::{
    ClinicalRules, Generation, GenerationMethod, RadiographyRules, RsnaRules, Rules, RulesError, SourceFolders,
    TestRules,
};
pub use image_array::{ImageArray, labels as array_labels};
use recorder::ImportRecorder;
use shown_path::shown_path;

/// Import request.
#[derive(Clone, Debug)]
pub struct ImportRequest {
    /// Target data set.
    pub dataset: Dataset,
    /// Source of the images. Paths from HTTP requests must be resolved with [`super::resolve_below`], so that nothing outside of the import
    /// folders is read.
    pub from: ImportSource,
    /// Limits of an image.
    pub limits: Limits,
    /// Maximum size of a file in bytes.
    pub max_bytes: u64,
    /// Pseudonymisation of patient ids.
    pub patient_ids: PatientIds,
    /// If true, a stopped import stays `running`, and the server resumes it at its next start.
    pub resumable: bool,
}

/// Source of the images.
#[derive(Clone, Debug)]
pub enum ImportSource {
    /// A folder with labels.
    Folder(LabelledFolder),
    /// The sources of COVIDx.
    Sources(Generation),
}

/// Folder in the COVIDx layout, with NumPy arrays, or with one folder per class.
#[derive(Clone, Debug)]
pub struct LabelledFolder {
    /// The folder.
    pub root: PathBuf,
    /// Label file of the training images, relative to the folder. Default: `train_split.txt`, else `train.txt`.
    pub train_split: Option<String>,
    /// Label file of the validation images, relative to the folder. Default: `validation_split.txt`, else `val.txt`.
    pub validation_split: Option<String>,
    /// Label file of the test images, relative to the folder. Default: `test_split.txt`, else `test.txt`.
    pub test_split: Option<String>,
    /// Classes of the data set by the class names of label files and folders.
    pub class_mapping: ClassMapping,
}

/// Reason why a row or file has no image to import.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rejection {
    kind: RejectionKind,
    reason: String,
}

impl From<String> for Rejection {
    fn from(reason: String) -> Self {
        Self { kind: RejectionKind::Unusable, reason }
    }
}

/// Runs the import `request`. Its row `import` was created by the caller with the status `running`.
///
/// Invalid rows and files are recorded as rejections and skipped. Importing the same folder again adds nothing. Counts are written to the row
/// and passed to `progress` at most twice a second and at the end. `stop` ends the import between two images: as failed, or still running if
/// it is resumable. Returns the final row; an error means that the store failed.
pub async fn import(
    db: &Db,
    blobs: &Blobs,
    request: &ImportRequest,
    import: Import,
    stop: &CancellationToken,
    progress: &mut (dyn FnMut(&Import) + Send),
) -> Result<Import, StoreError> {
    let mut recorder = ImportRecorder::new(db, import, progress);
    match import_all(db, blobs, request, stop, &mut recorder).await {
        Ok(()) => recorder.finish(None).await,
        Err(ImportFailure::Import(reason)) => recorder.finish(Some(reason)).await,
        Err(ImportFailure::Stopped) if request.resumable => recorder.pause().await,
        Err(ImportFailure::Stopped) => recorder.finish(Some(STOPPED.to_owned())).await,
        Err(ImportFailure::Store(error)) => {
            // The row must not stay `running`. If this write fails too, the next start of the server marks it as failed.
            if let Err(second) = recorder.finish(Some("the store failed".to_owned())).await {
                tracing::error!(error = %second, "cannot mark the import as failed");
            }
            Err(error)
        }
    }
}

/// Error message of an import that was stopped and cannot be resumed.
const STOPPED: &str = "the import was stopped; import the folder again to complete it";

/// Reason why an import ended early.
enum ImportFailure {
    Import(String),
    Stopped,
    Store(StoreError),
}

impl From<StoreError> for ImportFailure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

async fn import_all(
    db: &Db,
    blobs: &Blobs,
    request: &ImportRequest,
    stop: &CancellationToken,
    recorder: &mut ImportRecorder<'_>,
) -> Result<(), ImportFailure> {
    let request = Arc::new(request.clone());
    let listed = Arc::clone(&request);
    let (entries, passed_over) = blocking(move || list(&listed)).await.map_err(ImportFailure::Import)?;
    recorder.begin(entries.len() as u64, passed_over).await?;

    let mut known = store::attributes::of_dataset(db, request.dataset.id).await?;

    // Images are read, decoded and stored in parallel, but rows are written in the order of the folder, so that a folder always gives the
    // same data set. There are more tasks than cores, because most of them wait for the disk.
    let parallel = 4 * std::thread::available_parallelism().map_or(1, usize::from);
    // Spawned tasks, so that they proceed while rows are written; they are aborted when this future is dropped.
    let start = |(position, entry)| {
        AbortOnDropHandle::new(tokio::spawn(stage(db.clone(), blobs.clone(), Arc::clone(&request), position, entry)))
    };
    let mut staged = stream::iter((1..).zip(entries)).map(start).buffered(parallel);
    let (mut outcomes, mut last_insert) = (Vec::with_capacity(BATCH_ROWS), Instant::now());
    while let Some(outcome) = staged.next().await {
        if stop.is_cancelled() {
            return Err(ImportFailure::Stopped);
        }
        let failed = |error: JoinError| StoreError::Task(format!("the task of an image failed: {error}"));
        outcomes.push(outcome.map_err(failed)??);
        if outcomes.len() == BATCH_ROWS || last_insert.elapsed() >= MAX_BATCH_TIME {
            insert_batch(db, mem::take(&mut outcomes), &mut known, recorder).await?;
            recorder.report_if_due().await?;
            last_insert = Instant::now();
        }
    }
    Ok(insert_batch(db, outcomes, &mut known, recorder).await?)
}

/// Maximum number of rows per transaction. A commit costs as much as decoding a small image.
const BATCH_ROWS: usize = 64;
/// Maximum time during which rows are collected for a transaction.
const MAX_BATCH_TIME: Duration = Duration::from_millis(250);

/// A staged image, or the reason for its rejection.
type StagedEntry = (EntryOrigin, Result<(Candidate, StagedRadiograph), Rejection>);

/// Inserts the rows of staged images and records the outcome of each entry, in order.
async fn insert_batch(
    db: &Db,
    entries: Vec<StagedEntry>,
    known: &mut HashMap<RadiographId, Attributes>,
    recorder: &mut ImportRecorder<'_>,
) -> Result<(), StoreError> {
    let (mut results, mut staged) = (Vec::new(), Vec::new());
    for (origin, result) in entries {
        let candidate = result.map(|(candidate, image)| {
            staged.push(image);
            candidate
        });
        results.push((origin, candidate));
    }
    let candidates = results.iter().filter_map(|(_, candidate)| candidate.as_ref().ok());
    let rows = staged.into_iter().zip(candidates.map(|candidate| candidate.attributes.as_ref())).collect();
    let mut outcomes = upload::insert_all(db, rows).await?.into_iter();
    for (origin, candidate) in results {
        match candidate {
            Ok(candidate) => {
                let outcome = outcomes.next().expect("one outcome per staged image");
                update_attributes(db, &candidate, &outcome, known).await?;
                recorder.record(origin, candidate, outcome);
            }
            Err(rejection) => recorder.reject(origin, rejection),
        }
    }
    Ok(())
}

/// Stores new attributes of a known image: a folder that is imported again may contain more metadata than before.
async fn update_attributes(
    db: &Db,
    candidate: &Candidate,
    outcome: &AddOutcome,
    known: &mut HashMap<RadiographId, Attributes>,
) -> Result<(), StoreError> {
    if let (AddOutcome::Duplicate(existing, _), Some(attributes)) = (outcome, &candidate.attributes)
        && known.get(&existing.id).is_none_or(|known| !known.cover(attributes))
    {
        store::attributes::put(db, existing.id, attributes).await?;
        known.insert(existing.id, attributes.clone());
    }
    Ok(())
}

/// The entries to import, and the numbers of rows that the rules exclude, or of files that no label refers to.
///
/// # Errors
/// The source cannot be read or contains nothing to import.
fn list(request: &ImportRequest) -> Result<(Vec<ImportEntry>, Vec<ExcludedRows>), String> {
    let classes = &request.dataset.classes;
    match &request.from {
        ImportSource::Folder(folder) => layout::entries(folder, classes, &request.limits),
        ImportSource::Sources(generation) => generate::entries(generation, classes),
    }
}

/// Reads, validates and stores an image without its row. The inner error is the reason for its rejection. `position` is that of the entry
/// in the import, from 1.
async fn stage(
    db: Db,
    blobs: Blobs,
    request: Arc<ImportRequest>,
    position: usize,
    ImportEntry { origin, candidate }: ImportEntry,
) -> Result<StagedEntry, StoreError> {
    let reading = Arc::clone(&request);
    let read = match blocking(move || Ok(read(&reading, position, origin, candidate))).await {
        Ok(read) => read,
        Err(reason) => return Ok((EntryOrigin { file: format!("file {position}"), line: None }, Err(reason.into()))),
    };
    let (origin, candidate, bytes) = match read {
        (origin, Ok((candidate, bytes))) => (origin, candidate, bytes),
        (origin, Err(rejection)) => return Ok((origin, Err(rejection))),
    };
    let new = NewRadiograph {
        bytes: bytes.into(),
        file_name: Some(candidate.path.clone()),
        label: Some(candidate.label.clone()),
        patient_id: candidate.patient_id.clone(),
        source: candidate.source.clone(),
        view: None,
        split: candidate.split,
    };
    match upload::stage(&db, &blobs, &request.dataset, new, &request.limits, &request.patient_ids).await {
        Ok(staged) => Ok((origin, Ok((candidate, staged)))),
        Err(AddError::Store(error)) => Err(error),
        Err(error) => Ok((origin, Err(format!("{}: {error}", candidate.path).into()))),
    }
}

/// Reads an image. Where its name must not be stored, the paths of the origin, the candidate and the reason are replaced.
fn read(
    request: &ImportRequest,
    position: usize,
    origin: EntryOrigin,
    candidate: Result<Candidate, Rejection>,
) -> (EntryOrigin, Result<(Candidate, Vec<u8>), Rejection>) {
    let (path, content) = match &candidate {
        Ok(candidate) => (candidate.path.clone(), Some(candidate.content.read(request.max_bytes, &request.limits))),
        Err(_) => (origin.file.clone(), None),
    };
    let read = content.as_ref().and_then(|content| content.as_deref().ok());
    let shown = match &request.from {
        ImportSource::Folder(folder) if candidate.as_ref().map_or(origin.line.is_none(), Candidate::is_file) => {
            shown_path(&folder.root, &path, &request.dataset.classes, position, read)
        }
        // The names in published collections identify nobody, and label files refer to them.
        _ => path.clone(),
    };
    let origin = if origin.file == path { EntryOrigin { file: shown.clone(), ..origin } } else { origin };
    let hide = |Rejection { kind, reason }| Rejection { kind, reason: reason.replace(&path, &shown) };
    match (candidate, content) {
        (Ok(candidate), Some(Ok(bytes))) => (origin, Ok((Candidate { path: shown, ..candidate }, bytes))),
        (Err(rejection), _) | (_, Some(Err(rejection))) => (origin, Err(hide(rejection))),
        (Ok(_), None) => unreachable!("the content of a candidate was read"),
    }
}

/// Runs `work` on the blocking thread pool.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, String> + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| format!("reading failed: {error}"))?
}
