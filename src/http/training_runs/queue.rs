//! A run as it is answered: with its place in the queue and when it will train, reckoned when asked.

use std::collections::{BTreeMap, btree_map::Entry};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    domain::{Architecture, DatasetId, ImageCounts, RunId, RunStatus, Slot, Split, TrainingPlan, estimate_slots},
    http::AppState,
    store::{self, Distribution, Page, Run, StoreError},
    worker::VALIDATION_FRACTION,
};

/// A run, and when it will train.
#[derive(Debug, Serialize, ToSchema)]
pub struct TrainingRun {
    #[serde(flatten)]
    run: Run,
    /// Its place among the runs that wait, 1 for the next; null unless it is queued.
    queue_position: Option<u32>,
    /// When a queued run is expected to begin; null when nothing comparable was measured.
    #[schema(value_type = Option<String>, format = DateTime)]
    estimated_start: Option<Timestamp>,
    /// When a queued or running run is expected to end; null when nothing comparable was measured.
    #[schema(value_type = Option<String>, format = DateTime)]
    estimated_end: Option<Timestamp>,
}

/// Answers with a run.
pub async fn shown(state: &AppState, run: Run) -> Result<TrainingRun, StoreError> {
    let queue = Queue::for_runs(state, std::slice::from_ref(&run)).await?;
    Ok(queue.show(run))
}

/// Answers with several.
pub async fn all_shown(state: &AppState, runs: Vec<Run>) -> Result<Vec<TrainingRun>, StoreError> {
    let queue = Queue::for_runs(state, &runs).await?;
    Ok(runs.into_iter().map(|run| queue.show(run)).collect())
}

/// The runs that wait.
#[derive(Default)]
struct Queue(BTreeMap<RunId, (u32, Slot)>);

impl Queue {
    /// Nothing is asked for runs that do not wait.
    async fn for_runs(state: &AppState, runs: &[Run]) -> Result<Self, StoreError> {
        let waits = runs.iter().any(|run| run.status == RunStatus::Queued);
        if waits { Self::read(state).await } else { Ok(Self::default()) }
    }

    async fn read(state: &AppState) -> Result<Self, StoreError> {
        let page = Page { limit: u32::MAX, after: None };
        let waiting = store::runs::list(&state.db, Some(RunStatus::Queued), &page).await?;
        let running = store::runs::list(&state.db, Some(RunStatus::Running), &page).await?;
        // A run that is being cancelled ends within one batch.
        let busy = running.iter().try_fold(0.0, |sum, run| Some(sum + run.progress.eta_seconds?));
        let mut measures = Measures::new(state);
        let mut seconds = Vec::with_capacity(waiting.len());
        for run in &waiting {
            seconds.push(measures.seconds(run).await?);
        }
        let places = (1..).zip(estimate_slots(busy, &seconds));
        Ok(Self(waiting.iter().map(|run| run.id).zip(places).collect()))
    }

    fn show(&self, run: Run) -> TrainingRun {
        let now = Timestamp::now();
        let (place, slot) = self.0.get(&run.id).map_or((None, Slot::default()), |(place, slot)| (Some(*place), *slot));
        let remaining = if run.status == RunStatus::Running { run.progress.eta_seconds } else { slot.end };
        TrainingRun {
            queue_position: place,
            estimated_start: slot.start.and_then(|seconds| later(now, seconds)),
            estimated_end: remaining.and_then(|seconds| later(now, seconds)),
            run,
        }
    }
}

/// What was measured on the device in use; each question is asked of the database once.
struct Measures<'a> {
    state: &'a AppState,
    rates: Vec<(Architecture, Option<f64>)>,
    images: BTreeMap<DatasetId, Distribution>,
}

impl<'a> Measures<'a> {
    fn new(state: &'a AppState) -> Self {
        Self { state, rates: Vec::new(), images: BTreeMap::new() }
    }

    /// How long a run will take; `None` when none of its network has run here.
    async fn seconds(&mut self, run: &Run) -> Result<Option<f64>, StoreError> {
        let Some(rate) = self.rate(run.plan.architecture).await? else { return Ok(None) };
        let distribution = match self.images.entry(run.dataset_id) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(store::datasets::distribution(&self.state.db, run.dataset_id).await?),
        };
        Ok(Some(run.plan.cost(images(distribution, &run.plan)) / rate))
    }

    async fn rate(&mut self, network: Architecture) -> Result<Option<f64>, StoreError> {
        if let Some((_, rate)) = self.rates.iter().find(|(known, _)| *known == network) {
            return Ok(*rate);
        }
        let rate = measured_rate(self.state, network).await?;
        self.rates.push((network, rate));
        Ok(rate)
    }
}

/// Work a second over the whole of the newest comparable run, with its decoding and evaluations.
async fn measured_rate(state: &AppState, network: Architecture) -> Result<Option<f64>, StoreError> {
    let Some(device) = state.devices.iter().find(|device| device.in_use) else { return Ok(None) };
    let Some(run) = store::runs::latest_uninterrupted(&state.db, network, &device.name).await? else { return Ok(None) };
    let mut images = ImageCounts::default();
    for evaluation in store::evaluations::of_run(&state.db, run.id, Some(1), None).await? {
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

/// The labelled images of a data set as the worker will take them.
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
    let carved = train * VALIDATION_FRACTION;
    ImageCounts { train: train - carved, selection: carved, all }
}

/// `None` when that is beyond the end of the calendar.
fn later(time: Timestamp, seconds: f64) -> Option<Timestamp> {
    let seconds = SignedDuration::try_from_secs_f64(seconds).ok()?;
    time.checked_add(seconds).ok()
}
