//! Background training: claims the oldest queued run, trains it on a thread of its own, records its results, and makes the best model of the
//! first successful run the champion. One run at a time.

mod champion;
mod checkpoint_writer;
mod context;
mod job;
mod live_batches;
mod losses;
mod provenance;
mod recorder;
mod stop_monitor;
mod thread;

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tokio::{sync::oneshot, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    domain::{RunId, RunStatus, TrainingPlan},
    nn,
    store::{Db, Run, StoreError, Stores, runs},
    training::{self, TrainingError},
};
use job::PreparedJob;
use recorder::Recorder;
use stop_monitor::StopReason;
use thread::TrainerThread;

pub use champion::CHAMPION;
pub use context::WorkerContext;
pub use job::{VALIDATION_FRACTION, with_validation};
pub use live_batches::LiveBatches;

/// Time between two polls of the queue without a notification.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Time between two polls of a queue that could not be read.
const ERROR_INTERVAL: Duration = Duration::from_secs(15);

/// Maximum number of starts of a run without a checkpoint in between. Then the run fails.
const MAX_STARTS: u32 = 10;

/// Time between two attempts to record the end of a run on a full or failing disk.
const RETRY: Duration = Duration::from_secs(2);

/// Handle of a running worker. Dropping it does not stop the worker.
pub struct WorkerHandle {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl WorkerHandle {
    /// Stops the run at its next batch, after a checkpoint, returns it to the queue, and waits for the worker to end.
    pub async fn shutdown(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the worker ended abnormally");
        }
    }
}

/// Starts the worker. Runs that an earlier process left running resume from their last checkpoints.
pub fn start(context: WorkerContext) -> WorkerHandle {
    let stop = CancellationToken::new();
    let worker = Worker::new(context.clone(), stop.clone());
    WorkerHandle { stop, task: context.runtime.spawn(worker.work()) }
}

/// Trains one queued run to its end, or until `stop`, in a process without a worker.
///
/// # Errors
/// When the run cannot be claimed. Its end is recorded with the run.
pub async fn train_one(context: WorkerContext, run: RunId, stop: CancellationToken) -> Result<(), StoreError> {
    if let Some(run) = runs::claim_one(&context.stores.db, run, &context.device_info.name).await? {
        Worker::new(context, stop).execute(run).await;
    }
    Ok(())
}

struct Worker {
    context: WorkerContext,
    stop: CancellationToken,
    thread: TrainerThread,
    /// True once the device is lost. Queued runs then wait for the next start, because each would fail.
    device_lost: AtomicBool,
}

/// End of the training of a run.
enum Ending {
    /// The run has ended with this status, and with an error if it failed.
    Final(RunStatus, Option<String>),
    /// The run resumes at the next start.
    Interrupted,
    /// A user has paused the run; its status says so already.
    Paused,
}

impl Worker {
    fn new(context: WorkerContext, stop: CancellationToken) -> Self {
        Self { context, stop, thread: TrainerThread::default(), device_lost: AtomicBool::new(false) }
    }

    async fn work(self) {
        let WorkerContext { stores: Stores { db, .. }, device_info, .. } = &self.context;
        match runs::requeue_interrupted(db).await {
            Ok(0) => {}
            Ok(count) => tracing::warn!(count, "runs of an earlier process resume"),
            Err(error) => tracing::error!(%error, "runs of an earlier process cannot be queued again"),
        }
        while !self.stop.is_cancelled() {
            if self.device_lost.load(Ordering::Relaxed) {
                tracing::error!(
                    device = device_info.name,
                    "the device is lost: queued runs wait until the server is started again"
                );
                return self.stop.cancelled().await;
            }
            match runs::claim(db, &device_info.name).await {
                Ok(Some(run)) => {
                    self.context.metrics.started();
                    self.execute(run).await;
                    self.context.metrics.stopped();
                }
                Ok(None) => self.wait_for_work().await,
                Err(error) => {
                    tracing::error!(%error, "the queue of runs cannot be read");
                    tokio::select! {
                        () = tokio::time::sleep(ERROR_INTERVAL) => {}
                        () = self.stop.cancelled() => {}
                    }
                }
            }
        }
    }

    async fn wait_for_work(&self) {
        tokio::select! {
            () = self.context.wake.notified() => {}
            () = tokio::time::sleep(POLL_INTERVAL) => {}
            () = self.stop.cancelled() => {}
        }
    }

    async fn execute(&self, run: Run) {
        tracing::info!(run = %run.id, "training starts");
        let ending = if run.starts > MAX_STARTS {
            let problem = format!(
                "started {MAX_STARTS} times without reaching a checkpoint: the server ended each time. Check its log and the \
                 system's log (the kernel kills processes that exhaust the memory), then resume the run"
            );
            failed(problem)
        } else {
            match job::prepare(&self.context, &run).await {
                Ok(job) => self.train(&run, job).await,
                Err(problem) => failed(problem.to_string()),
            }
        };
        if matches!(ending, Ending::Final(RunStatus::Succeeded, _))
            && let Err(error) = champion::promote_first(&self.context, &run).await
        {
            tracing::error!(run = %run.id, %error, "the first champion cannot be set");
        }
        self.record_ending(&run, &ending).await;
    }

    /// Records the end of a run. Waits while the disk is full or fails.
    async fn record_ending(&self, run: &Run, ending: &Ending) {
        loop {
            match self.write_ending(run, ending).await {
                Err(error) if error.may_pass() && !self.stop.is_cancelled() => {
                    tracing::warn!(run = %run.id, %error, "the end of a run cannot be recorded yet");
                    tokio::select! {
                        () = tokio::time::sleep(RETRY) => {}
                        () = self.stop.cancelled() => {}
                    }
                }
                Err(error) => return tracing::error!(run = %run.id, %error, "the end of a run cannot be recorded"),
                Ok(()) => return,
            }
        }
    }

    async fn write_ending(&self, run: &Run, ending: &Ending) -> Result<(), StoreError> {
        let Stores { db, checkpoints, .. } = &self.context.stores;
        match ending {
            // Cancelled while it was paused, or deleted: the database says so already.
            Ending::Final(RunStatus::Cancelled, _) if !is_cancelling(db, run).await? => {
                self.context.metrics.ended(RunStatus::Cancelled.as_str());
                tracing::info!(run = %run.id, "training was cancelled");
            }
            Ending::Final(status, error) => {
                runs::finish(db, run.id, *status, error.as_deref()).await?;
                self.context.metrics.ended(status.as_str());
                tracing::info!(run = %run.id, %status, error, "training ended");
            }
            Ending::Interrupted => {
                runs::interrupt(db, run.id).await?;
                tracing::info!(run = %run.id, "training is interrupted and resumes at the next start");
            }
            Ending::Paused => tracing::info!(run = %run.id, "training is paused"),
        }
        if runs::status(db, run.id).await?.is_none() {
            checkpoints.remove_all(run.id).await?;
        }
        Ok(())
    }

    /// Trains a run on the trainer's thread.
    async fn train(&self, run: &Run, PreparedJob { job, synthetic, sequence }: PreparedJob) -> Ending {
        let mut recorder = Recorder::new(&self.context, run, synthetic, sequence, self.stop.clone());
        let (sender, receiver) = oneshot::channel();
        let started = self.thread.run(move || {
            let outcome = catch_unwind(AssertUnwindSafe(|| training::train(job, &mut recorder)));
            let closed = recorder.close();
            let outcome = outcome.map(|trained| trained.and(closed.map_err(TrainingError::from)));
            // Fails only if the runtime has ended.
            let _ = sender.send((outcome.map_err(panic_message), recorder));
        });
        if let Err(error) = started {
            return failed(format!("the training thread cannot be started: {error}"));
        }
        match receiver.await {
            Ok((Ok(outcome), recorder)) => conclude(outcome, recorder.into_stop_reason()),
            Ok((Err(panic), _)) => failed(self.diagnose(&panic, &run.plan).await),
            Err(_) => failed("the training thread vanished".into()),
        }
    }

    /// The error for a panic of the training thread. A GPU that is out of memory or lost causes a panic; on a lost one no other run is
    /// started.
    async fn diagnose(&self, panic: &str, plan: &TrainingPlan) -> String {
        let WorkerContext { device, device_info, .. } = &self.context;
        let device = device.clone();
        let probed = tokio::task::spawn_blocking(move || nn::check_device(&device)).await;
        match probed.map_err(|error| error.to_string()).flatten() {
            Ok(()) => match nn::failed_allocation(panic) {
                Some(bytes) => plan.allocation_failure(bytes),
                None => format!("training panicked: {panic}; the run can be resumed from its last checkpoint"),
            },
            Err(why) => {
                self.device_lost.store(true, Ordering::Relaxed);
                format!(
                    "the device {} ({}) was lost during training ({panic}); now {why}. Check the system's log for its driver, \
                     restart the server, and resume the run from its last checkpoint",
                    device_info.name, device_info.description
                )
            }
        }
    }
}

async fn is_cancelling(db: &Db, run: &Run) -> Result<bool, StoreError> {
    Ok(runs::status(db, run.id).await? == Some(RunStatus::Cancelling))
}

/// The end of a run. A run that was stopped counts as stopped even if its last checkpoint could not be written.
fn conclude(outcome: Result<(), TrainingError>, stopped: Option<StopReason>) -> Ending {
    match (outcome, stopped) {
        (Ok(()), _) => Ending::Final(RunStatus::Succeeded, None),
        (Err(TrainingError::Stopped | TrainingError::Observer(_)), Some(reason)) => match reason {
            StopReason::Cancelled => Ending::Final(RunStatus::Cancelled, None),
            StopReason::Paused => Ending::Paused,
            StopReason::Shutdown => Ending::Interrupted,
            StopReason::Store(error) => failed(error.to_string()),
        },
        (Err(error), _) => failed(error.to_string()),
    }
}

fn failed(error: String) -> Ending {
    Ending::Final(RunStatus::Failed, Some(error))
}

fn panic_message(payload: Box<dyn Any + Send>) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_string());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}
