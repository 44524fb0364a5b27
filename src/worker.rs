//! Runs in the background, one at a time: claims the oldest queued one, trains it on a thread of its own, records what
//! comes of it and makes the first success the champion.

mod champion;
mod job;
mod live;
mod losses;
mod recorder;

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use burn::tensor::Device;
use tokio::{
    runtime::Handle,
    sync::{Notify, oneshot},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{DeviceInfo, ModelId, RunStatus},
    store::{Blobs, Caches, Db, Run, runs},
    training::{self, TrainingError},
};
use job::PreparedJob;
use recorder::{Recorder, StopReason};

pub use champion::CHAMPION;
pub use job::VALIDATION_FRACTION;
pub use live::LiveBatches;

/// How often the queue is looked at without being woken.
const POLL: Duration = Duration::from_secs(1);

/// What a run says that was cut short by the server's end.
const INTERRUPTED: &str = "interrupted: the server was stopped; submit the run again";

/// What the worker works with.
#[derive(Clone)]
pub struct WorkerContext {
    /// Runs, data sets, models.
    pub db: Db,
    /// Images and models.
    pub blobs: Blobs,
    /// Decoded images, by data set.
    pub caches: Caches,
    /// Where it trains, without autodiff.
    pub device: Device,
    /// What is recorded of the device in each run.
    pub device_info: DeviceInfo,
    /// Largest accepted image.
    pub max_pixels: u64,
    /// Returns when no prediction waits for the device; called between batches, on the training thread.
    pub wait_until_idle: Arc<dyn Fn() + Send + Sync>,
    /// Called with a model that became champion, so that it is served. Must not block.
    pub publish: Arc<dyn Fn(ModelId, Vec<u8>) + Send + Sync>,
    /// Told of trained batches, for those who watch.
    pub batches: LiveBatches,
    /// Notified after a run was queued: it then starts at once instead of within a second.
    pub wake: Arc<Notify>,
    /// Runs the worker and its database calls.
    pub runtime: Handle,
}

/// Keeps the worker going; dropping it does not stop the worker.
pub struct WorkerHandle {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl WorkerHandle {
    /// Asks the run to stop at its next batch, records it as interrupted and waits for both.
    pub async fn shutdown(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the worker ended abnormally");
        }
    }
}

/// Starts the worker. Runs that an earlier process left behind are recorded as failed first.
pub fn start(context: WorkerContext) -> WorkerHandle {
    let stop = CancellationToken::new();
    let worker = Worker { stop: stop.clone(), context: context.clone() };
    WorkerHandle { stop, task: context.runtime.spawn(worker.work()) }
}

struct Worker {
    context: WorkerContext,
    stop: CancellationToken,
}

/// How a training thread ended: training's own outcome, or the message of a panic.
type Outcome = Result<Result<(), TrainingError>, String>;

impl Worker {
    async fn work(self) {
        let WorkerContext { db, device_info, .. } = &self.context;
        match runs::fail_orphans(db, INTERRUPTED).await {
            Ok(0) => {}
            Ok(count) => tracing::warn!(count, "runs of an earlier process were interrupted"),
            Err(error) => tracing::error!(%error, "interrupted runs cannot be recorded as such"),
        }
        while !self.stop.is_cancelled() {
            match runs::claim(db, &device_info.name).await {
                Ok(Some(run)) => self.execute(run).await,
                Ok(None) => self.wait_for_work().await,
                Err(error) => {
                    tracing::error!(%error, "the queue of runs cannot be read");
                    self.wait_for_work().await;
                }
            }
        }
    }

    async fn wait_for_work(&self) {
        tokio::select! {
            () = self.context.wake.notified() => {}
            () = tokio::time::sleep(POLL) => {}
            () = self.stop.cancelled() => {}
        }
    }

    async fn execute(&self, run: Run) {
        tracing::info!(run = %run.id, "training starts");
        let (status, error) = match job::prepare(&self.context, &run).await {
            Ok(job) => self.train(&run, job).await,
            Err(problem) => (RunStatus::Failed, Some(problem.to_string())),
        };
        if status == RunStatus::Succeeded
            && let Err(error) = champion::crown_first(&self.context, &run).await
        {
            tracing::error!(run = %run.id, %error, "the first champion cannot be chosen");
        }
        match runs::finish(&self.context.db, run.id, status, error.as_deref()).await {
            Ok(()) => tracing::info!(run = %run.id, %status, error, "training ended"),
            Err(failure) => tracing::error!(run = %run.id, %failure, "the end of a run cannot be recorded"),
        }
    }

    /// Trains on a thread of its own and says how the run ends.
    async fn train(&self, run: &Run, PreparedJob { job, synthetic }: PreparedJob) -> (RunStatus, Option<String>) {
        let mut recorder = Recorder::new(&self.context, run, synthetic, self.stop.clone());
        let (sender, receiver) = oneshot::channel();
        let thread = std::thread::Builder::new().name("trainer".into()).spawn(move || {
            let outcome = catch_unwind(AssertUnwindSafe(|| training::train(job, &mut recorder)));
            recorder.close();
            // Nobody listens only when the runtime itself is gone.
            let _ = sender.send((outcome.map_err(panic_message), recorder));
        });
        if let Err(error) = thread {
            return failed(format!("the training thread cannot be started: {error}"));
        }
        match receiver.await {
            Ok((outcome, recorder)) => conclude(outcome, recorder.into_stop_reason()),
            Err(_) => failed("the training thread vanished".into()),
        }
    }
}

/// The state a run ends in, and why if it did not succeed.
fn conclude(outcome: Outcome, stopped: Option<StopReason>) -> (RunStatus, Option<String>) {
    match (outcome, stopped) {
        (Ok(Ok(())), _) => (RunStatus::Succeeded, None),
        (Ok(Err(TrainingError::Stopped)), Some(StopReason::Cancelled)) => (RunStatus::Cancelled, None),
        (Ok(Err(TrainingError::Stopped)), Some(StopReason::Shutdown)) => failed(INTERRUPTED.into()),
        (Ok(Err(TrainingError::Stopped)), Some(StopReason::Store(error))) => failed(error.to_string()),
        (Ok(Err(error)), _) => failed(error.to_string()),
        (Err(panic), _) => failed(format!("training panicked: {panic}")),
    }
}

fn failed(error: String) -> (RunStatus, Option<String>) {
    (RunStatus::Failed, Some(error))
}

fn panic_message(payload: Box<dyn Any + Send>) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_string());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}
