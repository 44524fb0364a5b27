//! Runs in the background, one at a time: claims the oldest queued one, trains it on a thread that does nothing else, records
//! what comes of it and makes the first success the champion.

mod champion;
mod checkpoint_writer;
mod context;
mod job;
mod live;
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
    domain::{RunId, RunStatus},
    nn,
    store::{Db, Run, StoreError, runs},
    training::{self, TrainingError},
};
use job::PreparedJob;
use recorder::Recorder;
use stop_monitor::StopReason;
use thread::TrainerThread;

pub use champion::CHAMPION;
pub use context::WorkerContext;
pub use job::VALIDATION_FRACTION;
pub use live::LiveBatches;

/// How often the queue is looked at without being woken.
const POLL: Duration = Duration::from_secs(1);

/// How often a run is started without any checkpoint in between before it is given up.
const MOST_STARTS: u32 = 10;

/// How long the end of a run waits before it is written again, where the disk did not take it.
const RETRY: Duration = Duration::from_secs(2);

/// Keeps the worker going; dropping it does not stop the worker.
pub struct WorkerHandle {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl WorkerHandle {
    /// Asks the run to stop at its next batch and to write a checkpoint, puts it back into the queue and waits for all of it.
    pub async fn shutdown(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the worker ended abnormally");
        }
    }
}

/// Starts the worker. Runs that an earlier process left behind go on, each from its last checkpoint.
pub fn start(context: WorkerContext) -> WorkerHandle {
    let stop = CancellationToken::new();
    let worker = Worker::new(context.clone(), stop.clone());
    WorkerHandle { stop, task: context.runtime.spawn(worker.work()) }
}

/// Trains one queued run to its end, or until `stop`, in a process that has no queue to work through.
///
/// # Errors
/// When the run cannot be taken from the queue. How it ends is recorded with the run.
pub async fn train_one(context: WorkerContext, run: RunId, stop: CancellationToken) -> Result<(), StoreError> {
    if let Some(run) = runs::claim_one(&context.db, run, &context.device_info.name).await? {
        Worker::new(context, stop).execute(run).await;
    }
    Ok(())
}

struct Worker {
    context: WorkerContext,
    stop: CancellationToken,
    thread: TrainerThread,
    /// Queued runs then wait for the next start: one after the other would fail.
    device_lost: AtomicBool,
}

/// What becomes of a run whose training is over.
enum Ending {
    /// The run has ended, and why if it did not succeed.
    Final(RunStatus, Option<String>),
    /// It goes on at the next start.
    Interrupted,
    /// A user has paused it, which its state says already.
    Paused,
}

impl Worker {
    fn new(context: WorkerContext, stop: CancellationToken) -> Self {
        Self { context, stop, thread: TrainerThread::default(), device_lost: AtomicBool::new(false) }
    }

    async fn work(self) {
        let WorkerContext { db, device_info, .. } = &self.context;
        match runs::requeue_orphans(db).await {
            Ok(0) => {}
            Ok(count) => tracing::warn!(count, "runs that an earlier process was at go on"),
            Err(error) => tracing::error!(%error, "runs that an earlier process was at cannot be queued again"),
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
                    self.context.metrics.begins();
                    self.execute(run).await;
                    self.context.metrics.stops();
                }
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
        let ending = if run.starts > MOST_STARTS {
            let problem = format!(
                "started {MOST_STARTS} times, and each time the server ended before the first checkpoint: look into its log \
                 and the system's (too little memory ends a process without a word), then resume the run"
            );
            failed(problem)
        } else {
            match job::prepare(&self.context, &run).await {
                Ok(job) => self.train(&run, job).await,
                Err(problem) => failed(problem.to_string()),
            }
        };
        if matches!(ending, Ending::Final(RunStatus::Succeeded, _))
            && let Err(error) = champion::crown_first(&self.context, &run).await
        {
            tracing::error!(run = %run.id, %error, "the first champion cannot be chosen");
        }
        self.settle(&run, &ending).await;
    }

    /// Writes how it ended, as soon as the disk takes it.
    async fn settle(&self, run: &Run, ending: &Ending) {
        loop {
            match self.write_ending(run, ending).await {
                Err(error) if error.is_of_the_disk() && !self.stop.is_cancelled() => {
                    tracing::warn!(run = %run.id, %error, "the end of a run cannot be written yet");
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
        let WorkerContext { db, checkpoints, .. } = &self.context;
        match ending {
            // Cancelled while it was paused, or removed: its state says so already.
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
                tracing::info!(run = %run.id, "training is interrupted and goes on at the next start");
            }
            Ending::Paused => tracing::info!(run = %run.id, "training is paused"),
        }
        if runs::status(db, run.id).await?.is_none() {
            checkpoints.remove_all(run.id).await?;
        }
        Ok(())
    }

    /// Trains on the trainer's thread and says how the run ends.
    async fn train(&self, run: &Run, PreparedJob { job, synthetic, sequence }: PreparedJob) -> Ending {
        let mut recorder = Recorder::new(&self.context, run, synthetic, sequence, self.stop.clone());
        let (sender, receiver) = oneshot::channel();
        let begun = self.thread.run(move || {
            let outcome = catch_unwind(AssertUnwindSafe(|| training::train(job, &mut recorder)));
            let closed = recorder.close();
            let outcome = outcome.map(|trained| trained.and(closed.map_err(TrainingError::from)));
            // Nobody listens only when the runtime itself is gone.
            let _ = sender.send((outcome.map_err(panic_message), recorder));
        });
        if let Err(error) = begun {
            return failed(format!("the training thread cannot be started: {error}"));
        }
        match receiver.await {
            Ok((Ok(outcome), recorder)) => conclude(outcome, recorder.into_stop_reason()),
            Ok((Err(panic), _)) => failed(self.diagnose(&panic).await),
            Err(_) => failed("the training thread vanished".into()),
        }
    }

    /// What a panic of the training thread means. A GPU that is gone shows itself by one; then no other run is begun on it.
    async fn diagnose(&self, panic: &str) -> String {
        let WorkerContext { device, device_info, .. } = &self.context;
        let device = device.clone();
        let probed = tokio::task::spawn_blocking(move || nn::still_computes(&device)).await;
        match probed.map_err(|error| error.to_string()).flatten() {
            Ok(()) => format!("training panicked: {panic}; resume goes on from the last checkpoint"),
            Err(why) => {
                self.device_lost.store(true, Ordering::Relaxed);
                format!(
                    "the device {} ({}) was lost in training ({panic}); now {why}. Look for its driver in the system's log, start \
                     the server again, and resume the run: it goes on from its last checkpoint",
                    device_info.name, device_info.description
                )
            }
        }
    }
}

async fn is_cancelling(db: &Db, run: &Run) -> Result<bool, StoreError> {
    Ok(runs::status(db, run.id).await? == Some(RunStatus::Cancelling))
}

/// A run that was to stop has stopped, whether or not its last checkpoint could be written.
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
