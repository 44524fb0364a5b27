//! Prediction jobs: whole data sets or archives classified in the background, one job at a time, image by image while the engine is idle,
//! so that neither clients nor training wait for them.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use tempfile::TempPath;
use tokio::{
    sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, sleep},
};

use super::{
    Content, Error, Lifecycle, NewEvaluation, Predictor, Stores,
    evaluations::{self, check_classes},
    predictor::most_probable,
};
use crate::{
    dataset::{self, ArchiveFile},
    domain::{DatasetId, EvaluationId, PredictionJobId, RadiographId, Sha256, Split},
    imaging::{self, GreyImage},
    inference::{Classification, EngineError},
    store::{self, JobResult, Model, Page, PredictionJob, RadiographFilter, RequestedEvaluation, StoreError},
    worker::CHAMPION,
};

/// Maximum number of archives that are received at once, and that wait for their job: each takes disk space.
const MAX_RECEIVING: usize = 4;
const MAX_WAITING_ARCHIVES: u64 = 16;

/// Maximum number of images of a job in flight: being decoded, or waiting for the engine.
const MAX_IN_FLIGHT: usize = 4;

/// Maximum number of results in one transaction, and how long the first of them waits.
const MAX_BATCH: usize = 64;
const MAX_DELAY: Duration = Duration::from_secs(1);

/// Radiographs per query.
const PAGE: u32 = 100;

/// Problem of an image for which the network computes a number that is not finite.
const NOT_FINITE: &str = "the model has no finite result for this image";

/// Delay before an image is offered again to a busy engine.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// The queue of prediction jobs and the directory of their archives; cheap to clone.
#[derive(Clone, Debug)]
pub struct JobQueue {
    worker: Arc<Mutex<()>>,
    receiving: Arc<Semaphore>,
    directory: Arc<Path>,
}

impl JobQueue {
    /// Archives are stored in `<data_dir>/jobs`.
    pub fn new(data_dir: &Path) -> Self {
        let receiving = Arc::new(Semaphore::new(MAX_RECEIVING));
        Self { worker: Arc::default(), receiving, directory: data_dir.join("jobs").into() }
    }

    fn archive(&self, id: PredictionJobId) -> PathBuf {
        self.directory.join(format!("{id}.archive"))
    }
}

/// Use cases about prediction jobs.
#[derive(Clone)]
pub struct PredictionJobs {
    /// Classifies the images.
    pub predictor: Predictor,
    /// The queue.
    pub queue: JobQueue,
    /// Background work.
    pub lifecycle: Lifecycle,
    /// Store the names of PNG and JPEG files in archives. Names of DICOM files are never stored.
    pub keep_file_names: bool,
}

/// An archive that is being received; its file is removed unless it becomes a job.
pub struct ArchiveUpload {
    id: PredictionJobId,
    model: Model,
    path: TempPath,
    _permit: OwnedSemaphorePermit,
}

impl ArchiveUpload {
    /// The file to write the archive to.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// An image to be classified.
struct Item {
    radiograph_id: Option<RadiographId>,
    file_name: String,
    label: Option<String>,
    /// Hash of the content, where it is known before it is read.
    sha256: Option<Sha256>,
    content: Result<Vec<u8>, String>,
}

/// Reason why a job stops before its last image.
enum Stop {
    /// It failed.
    Failed(String),
    /// It was deleted.
    Deleted,
    /// The server shuts down; the job resumes at the next start.
    Shutdown,
}

impl Stop {
    fn model_deleted() -> Self {
        Self::Failed("its model was removed".into())
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the storage failed during a prediction job");
        Self::Failed(error.to_string())
    }
}

impl PredictionJobs {
    fn stores(&self) -> &Stores {
        &self.predictor.models.stores
    }

    /// Queues a job over the radiographs of a data set; `model` is an identifier or an alias, the champion when absent.
    ///
    /// # Errors
    /// [`Error::NotFound`] without such a model, [`Error::Invalid`] where there is nothing to classify.
    pub async fn submit_dataset(
        &self,
        dataset: DatasetId,
        split: Option<Split>,
        model: Option<&str>,
    ) -> Result<PredictionJob, Error> {
        let db = &self.stores().db;
        let model = self.select(model).await?;
        if store::datasets::get(db, dataset).await?.is_none() {
            return Err(Error::invalid("/dataset_id", "there is no such data set"));
        }
        let total = store::prediction_jobs::count_radiographs(db, dataset, split).await?;
        if total == 0 {
            let pointer = if split.is_some() { "/split" } else { "/dataset_id" };
            return Err(Error::invalid(pointer, "there are no radiographs in it"));
        }
        let job = PredictionJob { dataset_id: Some(dataset), split, ..queued(PredictionJobId::new(), &model, total) };
        store::prediction_jobs::create(db, &job).await?;
        self.start();
        Ok(job)
    }

    /// Queues a job over the labelled radiographs of a split, which stores an evaluation when all have been classified.
    ///
    /// # Errors
    /// [`Error::NotFound`] without such a model, [`Error::Invalid`] where there is nothing to evaluate, or where the data set has a class that
    /// the model does not know.
    pub async fn submit_evaluation(&self, new: NewEvaluation) -> Result<PredictionJob, Error> {
        let NewEvaluation { model, dataset, split, group_by } = new;
        let db = &self.stores().db;
        let (model, _) = self.predictor.models.find(&model).await?;
        let found = store::datasets::get(db, dataset).await?;
        let found = found.ok_or_else(|| Error::invalid("/dataset_id", "there is no such data set"))?;
        check_classes(&model.spec, &found)?;
        let dataset_fingerprint = store::datasets::fingerprint(db, dataset).await?;
        let total = store::prediction_jobs::count_labelled(db, dataset, split).await?;
        if total == 0 {
            return Err(Error::invalid("/split", "there are no labelled radiographs in it"));
        }
        let evaluation = RequestedEvaluation { id: EvaluationId::new(), dataset_fingerprint, group_by };
        let job = PredictionJob {
            dataset_id: Some(dataset),
            split: Some(split),
            evaluation: Some(evaluation),
            ..queued(PredictionJobId::new(), &model, total)
        };
        store::prediction_jobs::create(db, &job).await?;
        self.start();
        Ok(job)
    }

    /// Reserves a permit and a file for an archive that a client is about to send.
    ///
    /// # Errors
    /// [`Error::Busy`] where too many archives are being received or wait, [`Error::NotFound`] without such a model.
    pub async fn receive_archive(&self, model: Option<&str>) -> Result<ArchiveUpload, Error> {
        let busy = |_| Error::Busy("too many archives are being received: retry later".into());
        let permit = Arc::clone(&self.queue.receiving).try_acquire_owned().map_err(busy)?;
        if store::prediction_jobs::count_archives(&self.stores().db).await? >= MAX_WAITING_ARCHIVES {
            return Err(Error::Busy(format!(
                "{MAX_WAITING_ARCHIVES} archives wait for their jobs: retry when one is done"
            )));
        }
        let model = self.select(model).await?;
        let id = PredictionJobId::new();
        tokio::fs::create_dir_all(&self.queue.directory).await.map_err(Error::internal)?;
        let path = TempPath::try_from_path(self.queue.archive(id)).map_err(Error::internal)?;
        Ok(ArchiveUpload { id, model, path, _permit: permit })
    }

    /// Queues a job over the files of a received archive.
    ///
    /// # Errors
    /// [`Error::Unusable`] where the archive cannot be read.
    pub async fn submit_archive(&self, upload: ArchiveUpload) -> Result<PredictionJob, Error> {
        let ArchiveUpload { id, model, path, _permit } = upload;
        let counting = path.to_path_buf();
        let counted = tokio::task::spawn_blocking(move || dataset::count_archive(&counting)).await?;
        let total = counted.map_err(|why| Error::Unusable(format!("the archive {why}")))?;
        let job = queued(id, &model, total);
        // First the file, then the row: a file without a row is removed at the next start.
        let path = path.keep().map_err(Error::internal)?;
        if let Err(error) = store::prediction_jobs::create(&self.stores().db, &job).await {
            tokio::fs::remove_file(path).await.map_err(Error::internal)?;
            return Err(error.into());
        }
        self.start();
        Ok(job)
    }

    /// Deletes a job with its results; a running one stops within a few images.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn delete(&self, id: PredictionJobId) -> Result<(), Error> {
        if !store::prediction_jobs::delete(&self.stores().db, id).await? {
            return Err(Error::NotFound("prediction job"));
        }
        self.remove_archive(id).await;
        Ok(())
    }

    /// Resumes the jobs that an earlier process left behind, and removes archives without a job.
    ///
    /// # Errors
    /// When the directory cannot be read, or the database fails.
    pub async fn resume(&self) -> Result<(), StoreError> {
        let directory = &self.queue.directory;
        let failed = |source| StoreError::File { path: directory.to_path_buf(), source };
        let mut entries = match tokio::fs::read_dir(directory).await {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.start();
                return Ok(());
            }
            entries => entries.map_err(failed)?,
        };
        while let Some(entry) = entries.next_entry().await.map_err(failed)? {
            let path = entry.path();
            let id = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
            let job = match id {
                Some(id) => store::prediction_jobs::get(&self.stores().db, id).await?,
                None => None,
            };
            let is_ours = self.stores().coverage.is_complete() || job.is_some();
            if is_ours && job.is_none_or(|job| job.finished_at.is_some()) {
                tokio::fs::remove_file(&path).await.map_err(failed)?;
            }
        }
        self.start();
        Ok(())
    }

    async fn select(&self, name: Option<&str>) -> Result<Model, Error> {
        if name.is_none() && self.predictor.engine().current().is_none() {
            return Err(EngineError::NoModel.into());
        }
        let (model, _) = self.predictor.models.find(name.unwrap_or(CHAMPION)).await?;
        Ok(model)
    }

    /// Works through the queue in the background, one task at a time.
    fn start(&self) {
        let jobs = self.clone();
        self.lifecycle.tasks.spawn(async move {
            let worker = Arc::clone(&jobs.queue.worker);
            tokio::select! {
                () = jobs.lifecycle.shutdown.cancelled() => {}
                () = async {
                    let _worker = worker.lock().await;
                    jobs.work().await;
                } => {}
            }
        });
    }

    async fn work(&self) {
        let db = &self.stores().db;
        loop {
            let job = match store::prediction_jobs::claim(db).await {
                Ok(Some(job)) => job,
                Ok(None) => return,
                Err(error) => return tracing::error!(%error, "prediction job queue cannot be read"),
            };
            let id = job.id;
            tracing::info!(job = %id, total = job.total, done = job.done(), "prediction job started");
            let done = match self.classify_all(&job).await {
                Ok(()) if job.evaluation.is_some() => self.store_evaluation(&job).await,
                classified => classified,
            };
            let error = match done {
                Ok(()) if job.evaluation.is_some() => {
                    tracing::info!(job = %id, "evaluation stored");
                    continue;
                }
                Ok(()) => None,
                Err(Stop::Failed(why)) => Some(why),
                Err(Stop::Deleted) => {
                    tracing::info!(job = %id, "prediction job was deleted");
                    continue;
                }
                Err(Stop::Shutdown) => return,
            };
            if let Err(error) = store::prediction_jobs::finish(db, id, error.as_deref()).await {
                return tracing::error!(job = %id, %error, "end of a prediction job cannot be recorded; it resumes at the next start");
            }
            tracing::info!(job = %id, error, "prediction job ended");
            self.remove_archive(id).await;
        }
    }

    /// Removes the archive of a job that ended; one that cannot be removed now is removed at the next start.
    async fn remove_archive(&self, id: PredictionJobId) {
        match tokio::fs::remove_file(self.queue.archive(id)).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(job = %id, %error, "archive of a prediction job cannot be removed");
            }
            _ => {}
        }
    }

    async fn classify_all(&self, job: &PredictionJob) -> Result<(), Stop> {
        let model = store::models::get(&self.stores().db, job.model_id).await?;
        let model = Arc::new(model.ok_or_else(Stop::model_deleted)?);
        let classify = |(sequence, item)| {
            let (jobs, model) = (self.clone(), Arc::clone(&model));
            async move { jobs.result(&model, sequence, item?).await }
        };
        let first = job.done();
        let numbered = self.items(job).await?.enumerate().map(|(index, item)| (first + index as u64, item));
        let mut results_in_order = numbered.map(classify).buffered(MAX_IN_FLIGHT);
        let (mut batch, mut written) = (Vec::with_capacity(MAX_BATCH), Instant::now());
        loop {
            let next = results_in_order.next().await;
            let ended = next.is_none();
            match next.transpose() {
                Ok(result) => batch.extend(result),
                Err(stop) => {
                    self.write(job, &mut batch).await?;
                    return Err(stop);
                }
            }
            if ended || batch.len() == MAX_BATCH || written.elapsed() >= MAX_DELAY {
                self.write(job, &mut batch).await?;
                written = Instant::now();
            }
            if ended {
                return Ok(());
            }
        }
    }

    /// Stores the evaluation of a job whose images are all done, and ends the job in the same transaction.
    async fn store_evaluation(&self, job: &PredictionJob) -> Result<(), Stop> {
        let stores = self.stores();
        let model = store::models::get(&stores.db, job.model_id).await?.ok_or_else(Stop::model_deleted)?;
        let record = evaluations::record(stores, job, &model).await?.map_err(Stop::Failed)?;
        loop {
            match store::prediction_jobs::finish_evaluation(&stores.db, job.id, &record).await {
                Err(error) if error.may_pass() => {
                    tracing::warn!(job = %job.id, %error, "an evaluation waits for the disk");
                    sleep(MAX_DELAY).await;
                }
                ended => return Ok(ended?),
            }
        }
    }

    /// Writes results, and waits for a disk that is full.
    async fn write(&self, job: &PredictionJob, results: &mut Vec<JobResult>) -> Result<(), Stop> {
        loop {
            match store::prediction_jobs::append(&self.stores().db, job.id, results).await {
                Ok(true) => break,
                Ok(false) => return Err(Stop::Deleted),
                Err(error) if error.may_pass() => {
                    tracing::warn!(job = %job.id, %error, "results of a prediction job wait for the disk");
                    sleep(MAX_DELAY).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        results.clear();
        Ok(())
    }

    /// The remaining images of a job, in order.
    async fn items(&self, job: &PredictionJob) -> Result<BoxStream<'static, Result<Item, Stop>>, Stop> {
        let Some(dataset) = job.dataset_id else { return Ok(self.archive_items(job)) };
        // Radiographs may have been deleted since, so the last result says where to resume, not the number of results.
        let last = match job.done().checked_sub(1) {
            Some(last) => store::prediction_jobs::results(&self.stores().db, job.id, last, 1).await?,
            None => Vec::new(),
        };
        let after = last.first().and_then(|result| result.radiograph_id).map(|id| id.to_string());
        Ok(self.dataset_items(dataset, job.split, job.evaluation.is_some(), after))
    }

    fn dataset_items(
        &self,
        dataset: DatasetId,
        split: Option<Split>,
        only_labelled: bool,
        after: Option<String>,
    ) -> BoxStream<'static, Result<Item, Stop>> {
        let stores = self.stores().clone();
        let filter = RadiographFilter { split, ..RadiographFilter::default() };
        let page = move |after: Option<String>| {
            let (stores, filter) = (stores.clone(), filter.clone());
            async move {
                let page = Page { limit: PAGE, after };
                let radiographs = store::radiographs::list(&stores.db, dataset, &filter, &page).await?;
                let Some(last) = radiographs.last().map(|radiograph| radiograph.id.to_string()) else {
                    return Ok(None);
                };
                let wanted =
                    radiographs.into_iter().filter(move |radiograph| !only_labelled || radiograph.label.is_some());
                let items = stream::iter(wanted).then(move |radiograph| {
                    let blobs = stores.blobs.clone();
                    async move {
                        let content = blobs.get(&radiograph.sha256).await.map_err(|error| {
                            tracing::error!(radiograph = %radiograph.id, %error, "the image of a radiograph cannot be read");
                            "the stored image is missing or damaged: upload the same file again".to_owned()
                        });
                        Ok(Item {
                            radiograph_id: Some(radiograph.id),
                            file_name: radiograph.file_name,
                            label: radiograph.label,
                            sha256: Some(radiograph.sha256),
                            content,
                        })
                    }
                });
                Ok::<_, Stop>(Some((items, Some(last))))
            }
        };
        stream::try_unfold(after, page).try_flatten().boxed()
    }

    /// The archive is read on a blocking thread, one image ahead.
    fn archive_items(&self, job: &PredictionJob) -> BoxStream<'static, Result<Item, Stop>> {
        let (path, skip) = (self.queue.archive(job.id), job.done());
        let max_bytes = self.predictor.limits.max_upload_bytes as u64;
        let keep_file_names = self.keep_file_names;
        let (sender, receiver) = mpsc::channel(1);
        tokio::task::spawn_blocking(move || {
            let mut sequence = skip;
            let mut send = |ArchiveFile { name, content }: ArchiveFile| {
                let known = content.as_deref().unwrap_or_default();
                let keep = keep_file_names && !dataset::is_private(&name, known);
                let file_name = if keep { name } else { numbered_name(sequence, known) };
                sequence += 1;
                let item = Item { radiograph_id: None, file_name, label: None, sha256: None, content };
                sender.blocking_send(Ok(item)).is_ok()
            };
            if let Err(error) = dataset::read_archive(&path, skip, max_bytes, &mut send) {
                // The receiver is gone where the job was given up.
                sender.blocking_send(Err(Stop::Failed(format!("the archive {error}")))).ok();
            }
        });
        let next = |mut receiver: mpsc::Receiver<_>| async move { receiver.recv().await.map(|item| (item, receiver)) };
        stream::unfold(receiver, next).boxed()
    }

    async fn result(&self, model: &Model, sequence: u64, item: Item) -> Result<JobResult, Stop> {
        let Item { radiograph_id, file_name, label, sha256, content } = item;
        let empty = JobResult {
            sequence,
            radiograph_id,
            file_name,
            sha256,
            label,
            prediction: None,
            probabilities: None,
            problem: None,
        };
        let bytes = match content {
            Ok(bytes) => Bytes::from(bytes),
            Err(problem) => return Ok(JobResult { problem: Some(problem), ..empty }),
        };
        let decoded = match self.predictor.decode(Content::Encoded(bytes.clone())).await {
            Ok(decoded) => decoded,
            Err(error) if error.is_internal() => return Err(self.give_up(&error)),
            Err(Error::Engine(EngineError::Closed)) if self.lifecycle.shutdown.is_cancelled() => {
                return Err(Stop::Shutdown);
            }
            Err(error) => {
                let hashed = tokio::task::spawn_blocking(move || Sha256::of(&bytes)).await;
                let sha256 = Some(hashed.map_err(|error| self.give_up(&error.into()))?);
                return Ok(JobResult { sha256, problem: Some(error.to_string()), ..empty });
            }
        };
        let empty = JobResult { sha256: Some(decoded.sha256), ..empty };
        let Some(classification) = self.classify(model, Arc::new(decoded.image)).await? else {
            return Ok(JobResult { problem: Some(NOT_FINITE.into()), ..empty });
        };
        let (prediction, probabilities) = most_probable(&classification);
        Ok(JobResult { prediction: Some(prediction), probabilities: Some(probabilities), ..empty })
    }

    /// Classifies by the job's model, whichever model is the champion; retries while the engine is busy. `None` if the network has no
    /// finite result for the image.
    async fn classify(&self, model: &Model, image: Arc<GreyImage>) -> Result<Option<Classification>, Stop> {
        loop {
            // The model may have been unloaded to make room for another one.
            match self.predictor.models.load(model).await {
                Ok(()) => {}
                Err(Error::Engine(EngineError::QueueFull { .. })) => {
                    sleep(RETRY_DELAY).await;
                    continue;
                }
                Err(_) if store::models::get(&self.stores().db, model.id).await?.is_none() => {
                    return Err(Stop::model_deleted());
                }
                Err(error) => return Err(self.give_up(&error)),
            }
            match self.predictor.engine().classify_when_idle(Arc::clone(&image), model.id).await {
                Ok(Some(classification)) => return Ok(Some(classification)),
                Err(EngineError::NotFinite(_)) => return Ok(None),
                Ok(None) | Err(EngineError::QueueFull { .. } | EngineError::NotLoaded(_)) => sleep(RETRY_DELAY).await,
                Err(error) => return Err(self.give_up(&error.into())),
            }
        }
    }

    fn give_up(&self, error: &Error) -> Stop {
        if self.lifecycle.shutdown.is_cancelled() {
            return Stop::Shutdown;
        }
        if error.is_internal() {
            tracing::error!(%error, "prediction job cannot continue");
            return Stop::Failed("the server failed; its log has the cause".into());
        }
        Stop::Failed(error.to_string())
    }
}

/// The name of a file whose own name is not stored: its position in the archive, from 0, and its type.
fn numbered_name(sequence: u64, content: &[u8]) -> String {
    match imaging::sniff(content) {
        Some(format) => format!("file-{sequence}.{}", format.extension()),
        None => format!("file-{sequence}"),
    }
}

fn queued(id: PredictionJobId, model: &Model, total: u64) -> PredictionJob {
    PredictionJob::queued(id, model.id, model.spec.classes.names().to_vec(), total)
}
