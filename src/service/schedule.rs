//! Schedule of training runs: queue positions and estimated start and end times, computed on request from the rates of finished runs.

use std::collections::{BTreeMap, btree_map::Entry};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use super::TrainingControl;
use crate::{
    domain::{Architecture, DatasetId, ImageCounts, RunId, RunStatus, Slot, Split, TrainingPlan, estimate_slots},
    store::{self, Db, Distribution, Page, Run, StoreError},
    worker::VALIDATION_FRACTION,
};

/// A run with its place in the schedule.
#[derive(Debug, Serialize, ToSchema)]
pub struct TrainingRun {
    #[serde(flatten)]
    run: Run,
    /// Position in the queue, 1 for the next run; null unless the run is queued.
    queue_position: Option<u32>,
    /// Estimated start of a queued run; null without a comparable finished run.
    #[schema(value_type = Option<String>, format = DateTime)]
    estimated_start: Option<Timestamp>,
    /// Estimated end of a queued or running run; null without a comparable finished run.
    #[schema(value_type = Option<String>, format = DateTime)]
    estimated_end: Option<Timestamp>,
}

/// Adds the schedule to a run.
///
/// # Errors
/// When the database fails.
pub async fn schedule(db: &Db, training: &TrainingControl, run: Run) -> Result<TrainingRun, StoreError> {
    let queue = Queue::for_runs(db, training, std::slice::from_ref(&run)).await?;
    Ok(queue.schedule(run))
}

/// Adds the schedule to several runs.
///
/// # Errors
/// When the database fails.
pub async fn schedule_all(db: &Db, training: &TrainingControl, runs: Vec<Run>) -> Result<Vec<TrainingRun>, StoreError> {
    let queue = Queue::for_runs(db, training, &runs).await?;
    Ok(runs.into_iter().map(|run| queue.schedule(run)).collect())
}

/// Queued runs with their positions and times.
#[derive(Default)]
struct Queue(BTreeMap<RunId, (u32, Slot)>);

impl Queue {
    /// Reads the queue only where one of the runs is queued.
    async fn for_runs(db: &Db, training: &TrainingControl, runs: &[Run]) -> Result<Self, StoreError> {
        let waits = runs.iter().any(|run| run.status == RunStatus::Queued);
        if waits { Self::read(db, training).await } else { Ok(Self::default()) }
    }

    async fn read(db: &Db, training: &TrainingControl) -> Result<Self, StoreError> {
        let page = Page { limit: u32::MAX, after: None };
        let waiting = store::runs::list(db, Some(RunStatus::Queued), &page).await?;
        let running = store::runs::list(db, Some(RunStatus::Running), &page).await?;
        // A run that is being cancelled ends within one batch.
        let busy = running.iter().try_fold(0.0, |sum, run| Some(sum + run.progress.eta_seconds?));
        let mut rates = Rates::new(db, training);
        let mut seconds = Vec::with_capacity(waiting.len());
        for run in &waiting {
            seconds.push(rates.seconds(run).await?);
        }
        let positions = (1..).zip(estimate_slots(busy, &seconds));
        Ok(Self(waiting.iter().map(|run| run.id).zip(positions).collect()))
    }

    fn schedule(&self, run: Run) -> TrainingRun {
        let now = Timestamp::now();
        let queued = self.0.get(&run.id);
        let (position, slot) = queued.map_or((None, Slot::default()), |(position, slot)| (Some(*position), *slot));
        let remaining = if run.status == RunStatus::Running { run.progress.eta_seconds } else { slot.end };
        TrainingRun {
            queue_position: position,
            estimated_start: slot.start.and_then(|seconds| later(now, seconds)),
            estimated_end: remaining.and_then(|seconds| later(now, seconds)),
            run,
        }
    }
}

/// Training rates measured on the device in use; each is read once.
struct Rates<'a> {
    db: &'a Db,
    training: &'a TrainingControl,
    rates: Vec<(Architecture, Option<f64>)>,
    images: BTreeMap<DatasetId, Distribution>,
}

impl<'a> Rates<'a> {
    fn new(db: &'a Db, training: &'a TrainingControl) -> Self {
        Self { db, training, rates: Vec::new(), images: BTreeMap::new() }
    }

    /// Estimated duration of a run; `None` where its architecture was never trained on this device.
    async fn seconds(&mut self, run: &Run) -> Result<Option<f64>, StoreError> {
        let Some(rate) = self.rate(run.plan.architecture).await? else { return Ok(None) };
        let distribution = match self.images.entry(run.dataset_id) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(store::datasets::distribution(self.db, run.dataset_id).await?),
        };
        Ok(Some(run.plan.cost(images(distribution, &run.plan)) / rate))
    }

    async fn rate(&mut self, network: Architecture) -> Result<Option<f64>, StoreError> {
        if let Some((_, rate)) = self.rates.iter().find(|(known, _)| *known == network) {
            return Ok(*rate);
        }
        let rate = measured_rate(self.db, self.training, network).await?;
        self.rates.push((network, rate));
        Ok(rate)
    }
}

/// Work per second over the whole of the newest comparable run, decoding and evaluation included.
async fn measured_rate(db: &Db, training: &TrainingControl, network: Architecture) -> Result<Option<f64>, StoreError> {
    let Some(device) = training.devices.iter().find(|device| device.in_use) else { return Ok(None) };
    let Some(run) = store::runs::latest_uninterrupted(db, network, &device.name).await? else { return Ok(None) };
    let mut images = ImageCounts::default();
    for evaluation in store::evaluations::of_run(db, run.id, Some(1), None).await? {
        let count = evaluation.confusion_matrix.total() as f64;
        images.all += count;
        if evaluation.split == Split::Train {
            images.train = count;
        }
        if evaluation.split == run.plan.selection.split {
            images.selection = count;
        }
    }
    let seconds = run.started_at.zip(run.finished_at).map(|(start, end)| end.duration_since(start).as_secs_f64());
    let rate = seconds.filter(|seconds| *seconds > 0.0).map(|seconds| run.plan.cost(images) / seconds);
    Ok(rate.filter(|rate| *rate > 0.0))
}

/// Numbers of labelled images of a data set as the worker will use them.
fn images(distribution: &Distribution, plan: &TrainingPlan) -> ImageCounts {
    let count = |split: Split| {
        let classes = distribution.images.get(split.as_str()).into_iter().flatten();
        classes.filter(|(class, _)| *class != "unlabelled").map(|(_, count)| *count as f64).sum::<f64>()
    };
    let all = Split::ALL.map(count).iter().sum();
    let (train, selection) = (count(Split::Train), count(plan.selection.split));
    if selection > 0.0 || plan.selection.split != Split::Validation {
        return ImageCounts { train, selection, all };
    }
    let split_off = train * VALIDATION_FRACTION;
    ImageCounts { train: train - split_off, selection: split_off, all }
}

/// `None` beyond the end of the calendar.
fn later(time: Timestamp, seconds: f64) -> Option<Timestamp> {
    let seconds = SignedDuration::try_from_secs_f64(seconds).ok()?;
    time.checked_add(seconds).ok()
}
