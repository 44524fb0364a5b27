//! Jobs at work: one after the other, image by image when the engine is idle, so that neither clients nor training wait for them.

use std::{sync::Arc, time::Duration};

use futures_util::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use crate::{
    dataset::{self, ArchiveFile},
    domain::{PredictionJobId, RadiographId},
    http::{
        ApiError, AppState,
        predictions::{self, Content},
    },
    imaging::GreyImage,
    inference::{Classification, EngineError},
    store::{self, JobResult, Model, Page, PredictionJob, RadiographFilter, StoreError},
};

/// Images that are decoded or wait for the engine at once.
const UNDER_WAY: usize = 4;

/// Results that are written in one transaction, and how long the first of them waits.
const ROWS: usize = 64;
const LONGEST: Duration = Duration::from_secs(1);

/// Radiographs whose rows are read at once.
const PAGE: u32 = 100;

/// How long to wait before an image is offered again that the engine had no time for.
const PAUSE: Duration = Duration::from_millis(50);

/// An image to be scored.
struct Item {
    radiograph_id: Option<RadiographId>,
    file_name: String,
    label: Option<String>,
    content: Result<Vec<u8>, String>,
}

/// Why a job does not go on.
enum Stop {
    /// It cannot.
    Failed(String),
    /// It was removed.
    Removed,
    /// The server ends; it goes on at the next start.
    Later,
}

impl Stop {
    fn model_removed() -> Self {
        Self::Failed("its model was removed".into())
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Goes on with the jobs that an earlier process left, and removes archives that no job has any more.
///
/// # Errors
/// When the folder cannot be read, or the database fails.
pub async fn resume(state: &AppState) -> Result<(), StoreError> {
    let folder = &state.jobs.folder;
    let failed = |source| StoreError::File { path: folder.to_path_buf(), source };
    let mut entries = match tokio::fs::read_dir(folder).await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            start(state);
            return Ok(());
        }
        entries => entries.map_err(failed)?,
    };
    while let Some(entry) = entries.next_entry().await.map_err(failed)? {
        let path = entry.path();
        let id = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        let job = match id {
            Some(id) => store::prediction_jobs::get(&state.db, id).await?,
            None => None,
        };
        if job.is_none_or(|job| job.finished_at.is_some()) {
            tokio::fs::remove_file(&path).await.map_err(failed)?;
        }
    }
    start(state);
    Ok(())
}

/// Works through the queue, after those who are at it already.
pub(super) fn start(state: &AppState) {
    let state = state.clone();
    state.tasks.clone().spawn(async move {
        let turn = Arc::clone(&state.jobs.turn);
        tokio::select! {
            () = state.shutdown.cancelled() => {}
            () = async {
                let _turn = turn.lock().await;
                work(&state).await;
            } => {}
        }
    });
}

async fn work(state: &AppState) {
    loop {
        let job = match store::prediction_jobs::claim(&state.db).await {
            Ok(Some(job)) => job,
            Ok(None) => return,
            Err(error) => return tracing::error!(%error, "the queue of prediction jobs cannot be read"),
        };
        let id = job.id;
        tracing::info!(job = %id, total = job.total, done = job.done(), "prediction job begins");
        let error = match score_all(state, &job).await {
            Ok(()) => None,
            Err(Stop::Failed(why)) => Some(why),
            Err(Stop::Removed) => {
                tracing::info!(job = %id, "prediction job was removed");
                continue;
            }
            Err(Stop::Later) => return,
        };
        if let Err(error) = store::prediction_jobs::finish(&state.db, id, error.as_deref()).await {
            return tracing::error!(job = %id, %error, "the end of a prediction job cannot be written; it goes on at the next start");
        }
        tracing::info!(job = %id, error, "prediction job ended");
        remove_archive(state, id).await;
    }
}

/// At a job's end; one that cannot be removed now is at the next start.
pub(super) async fn remove_archive(state: &AppState, id: PredictionJobId) {
    match tokio::fs::remove_file(state.jobs.archive(id)).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(job = %id, %error, "the archive of a prediction job cannot be removed");
        }
        _ => {}
    }
}

async fn score_all(state: &AppState, job: &PredictionJob) -> Result<(), Stop> {
    let model = store::models::get(&state.db, job.model_id).await?;
    let model = Arc::new(model.ok_or_else(Stop::model_removed)?);
    let score = |(sequence, item)| {
        let (state, model) = (state.clone(), Arc::clone(&model));
        async move { score(&state, &model, sequence, item?).await }
    };
    let first = job.done();
    let numbered = items(state, job).await?.enumerate().map(|(at, item)| (first + at as u64, item));
    let mut scored = numbered.map(score).buffered(UNDER_WAY);
    let (mut results, mut written) = (Vec::with_capacity(ROWS), Instant::now());
    loop {
        let next = scored.next().await;
        let ended = next.is_none();
        match next.transpose() {
            Ok(result) => results.extend(result),
            Err(stop) => {
                write(state, job, &mut results).await?;
                return Err(stop);
            }
        }
        if ended || results.len() == ROWS || written.elapsed() >= LONGEST {
            write(state, job, &mut results).await?;
            written = Instant::now();
        }
        if ended {
            return Ok(());
        }
    }
}

/// As soon as the disk takes them.
async fn write(state: &AppState, job: &PredictionJob, results: &mut Vec<JobResult>) -> Result<(), Stop> {
    loop {
        match store::prediction_jobs::append(&state.db, job.id, results).await {
            Ok(true) => break,
            Ok(false) => return Err(Stop::Removed),
            Err(error) if error.is_disk_error() => {
                tracing::warn!(job = %job.id, %error, "the results of a prediction job wait for the disk");
                sleep(LONGEST).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    results.clear();
    Ok(())
}

/// The images that are left of a job, in their order.
async fn items(state: &AppState, job: &PredictionJob) -> Result<BoxStream<'static, Result<Item, Stop>>, Stop> {
    if job.dataset_id.is_none() {
        return Ok(of_archive(state, job));
    }
    // Radiographs that were removed meanwhile are not counted in, so the last one that was done says where to go on.
    let last = match job.done().checked_sub(1) {
        Some(last) => store::prediction_jobs::results(&state.db, job.id, last, 1).await?,
        None => Vec::new(),
    };
    let after = last.first().and_then(|result| result.radiograph_id).map(|id| id.to_string());
    Ok(of_dataset(state, job, after))
}

fn of_dataset(state: &AppState, job: &PredictionJob, after: Option<String>) -> BoxStream<'static, Result<Item, Stop>> {
    let (state, dataset) = (state.clone(), job.dataset_id);
    let filter = RadiographFilter { split: job.split, ..RadiographFilter::default() };
    let page = move |after: Option<String>| {
        let (state, filter) = (state.clone(), filter.clone());
        async move {
            let Some(dataset) = dataset else { return Ok(None) };
            let page = Page { limit: PAGE, after };
            let radiographs = store::radiographs::list(&state.db, dataset, &filter, &page).await?;
            let Some(last) = radiographs.last().map(|radiograph| radiograph.id.to_string()) else { return Ok(None) };
            let blobs = state.blobs.clone();
            let items = stream::iter(radiographs).then(move |radiograph| {
                let blobs = blobs.clone();
                async move {
                    let content = blobs.get(&radiograph.sha256).await.map_err(|error| error.to_string());
                    let (id, file_name, label) = (Some(radiograph.id), radiograph.file_name, radiograph.label);
                    Ok(Item { radiograph_id: id, file_name, label, content })
                }
            });
            Ok::<_, Stop>(Some((items, Some(last))))
        }
    };
    stream::try_unfold(after, page).try_flatten().boxed()
}

/// Read on a thread that may block, an image ahead.
fn of_archive(state: &AppState, job: &PredictionJob) -> BoxStream<'static, Result<Item, Stop>> {
    let (path, skip, max_bytes) = (state.jobs.archive(job.id), job.done(), state.limits.max_upload_bytes as u64);
    let (sender, receiver) = mpsc::channel(1);
    tokio::task::spawn_blocking(move || {
        let mut send = |ArchiveFile { name, content }: ArchiveFile| {
            let item = Item { radiograph_id: None, file_name: name, label: None, content };
            sender.blocking_send(Ok(item)).is_ok()
        };
        if let Err(error) = dataset::read_archive(&path, skip, max_bytes, &mut send) {
            // Nobody waits for it where the job was given up.
            sender.blocking_send(Err(Stop::Failed(format!("the archive {error}")))).ok();
        }
    });
    let next = |mut receiver: mpsc::Receiver<_>| async move { receiver.recv().await.map(|item| (item, receiver)) };
    stream::unfold(receiver, next).boxed()
}

async fn score(state: &AppState, model: &Model, sequence: u64, item: Item) -> Result<JobResult, Stop> {
    let Item { radiograph_id, file_name, label, content } = item;
    let empty = JobResult {
        sequence,
        radiograph_id,
        file_name,
        sha256: None,
        label,
        prediction: None,
        probabilities: None,
        problem: None,
    };
    let looked = match content {
        Ok(bytes) => predictions::look(state, Content::Encoded(bytes.into())).await,
        Err(problem) => return Ok(JobResult { problem: Some(problem), ..empty }),
    };
    let looked = match looked {
        Ok(looked) => looked,
        Err(error @ ApiError::Internal(_)) => return Err(given_up(state, &error)),
        // The decoder gave up, or the server ends.
        Err(ApiError::Unavailable(_)) if state.shutdown.is_cancelled() => return Err(Stop::Later),
        Err(error) => return Ok(JobResult { problem: Some(error.to_string()), ..empty }),
    };
    let (prediction, probabilities) = predictions::named(&classify(state, model, Arc::new(looked.image)).await?);
    let (sha256, prediction, probabilities) = (Some(looked.sha256), Some(prediction), Some(probabilities));
    Ok(JobResult { sha256, prediction, probabilities, ..empty })
}

/// By the job's model, whoever serves; as often as it takes.
async fn classify(state: &AppState, model: &Model, image: Arc<GreyImage>) -> Result<Classification, Stop> {
    loop {
        // It may have had to make room for another model.
        match predictions::load_beside(state, model).await {
            Ok(()) => {}
            Err(ApiError::QueueFull { .. }) => {
                sleep(PAUSE).await;
                continue;
            }
            Err(_) if store::models::get(&state.db, model.id).await?.is_none() => return Err(Stop::model_removed()),
            Err(error) => return Err(given_up(state, &error)),
        }
        match state.engine.classify_when_idle(Arc::clone(&image), model.id).await {
            Ok(Some(answer)) => return Ok(answer),
            Ok(None) | Err(EngineError::QueueFull { .. } | EngineError::NotLoaded(_)) => sleep(PAUSE).await,
            Err(error) => return Err(given_up(state, &error.into())),
        }
    }
}

fn given_up(state: &AppState, error: &ApiError) -> Stop {
    if state.shutdown.is_cancelled() {
        return Stop::Later;
    }
    if let ApiError::Internal(cause) = error {
        tracing::error!(error = cause.to_string(), "a prediction job cannot go on");
    }
    Stop::Failed(error.to_string())
}
