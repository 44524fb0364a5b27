//! Progress of a training run on a terminal: a line for each event, and two progress bars below.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::{
    domain::{RangeTestResult, RunEvent, RunProgress, Scope, TrainedBatch, TrainingPlan},
    store::{Run, StoredEvent},
};

/// Length of the progress bar of the run, in thousandths.
const RUN_LENGTH: u64 = 1000;

/// Progress display. Without a terminal on standard error it prints only the lines.
pub(super) struct Board {
    plan: TrainingPlan,
    bars: MultiProgress,
    epoch: ProgressBar,
    run: ProgressBar,
}

impl Board {
    pub(super) fn new(run: &Run) -> Self {
        let bars = MultiProgress::new();
        let bar = |length, template| {
            let style = ProgressStyle::with_template(template).expect("a valid template");
            bars.add(ProgressBar::new(length).with_style(style))
        };
        let epoch = bar(0, "{prefix:>42} [{bar:30}] {pos}/{len} {msg}");
        let run_bar = bar(RUN_LENGTH, "{prefix:>42} [{bar:30}] {percent} % {msg}");
        run_bar.set_prefix("run");
        Self { plan: run.plan.clone(), bars, epoch, run: run_bar }
    }

    /// Shows a trained batch.
    pub(super) fn batch(&mut self, batch: &TrainedBatch) {
        let TrainedBatch { stage, step, epoch, loss, images_per_second, .. } = *batch;
        self.epoch.set_prefix(self.position(stage, step, epoch));
        self.epoch.set_position(batch.batch.into());
        self.epoch.set_message(format!("loss {loss:.4}, {images_per_second:.1} images/s"));
    }

    /// Shows the progress of the run.
    pub(super) fn progress(&mut self, progress: &RunProgress) {
        self.epoch.set_length(progress.batches.into());
        self.run.set_position((progress.fraction * RUN_LENGTH as f64) as u64);
        if let Some(seconds) = progress.eta_seconds {
            self.run.set_message(format!("about {} left", duration(seconds)));
        }
    }

    /// Prints a line for each event.
    pub(super) fn show_events(&mut self, events: &[StoredEvent]) {
        for line in events.iter().filter_map(|event| self.line(&event.event)) {
            self.print(&line);
        }
    }

    fn print(&self, line: &str) {
        if self.bars.is_hidden() || self.bars.println(line).is_err() {
            eprintln!("{line}");
        }
    }

    /// The text of an event; `None` for events that the bars or other lines already show.
    fn line(&self, event: &RunEvent) -> Option<String> {
        match event {
            RunEvent::Status { to, cause, .. } => {
                Some(format!("{to}{}", cause.as_ref().map(|cause| format!(": {cause}")).unwrap_or_default()))
            }
            RunEvent::Epoch { stage, step, epoch, scores, .. } => {
                let split = self.plan.selection.split;
                let f1 = scores.selection.macro_f1.map(|f1| format!(", macro-F1 {f1:.3}")).unwrap_or_default();
                Some(format!(
                    "{}: training loss {:.4}, accuracy {:.3}; {split} loss {:.4}, accuracy {:.3}{f1}",
                    self.position(*stage, *step, *epoch),
                    scores.train.loss,
                    scores.train.accuracy,
                    scores.selection.loss,
                    scores.selection.accuracy,
                ))
            }
            RunEvent::RangeTest(RangeTestResult { stage, step, chosen, planned, .. }) => Some(match chosen {
                Some(rate) => {
                    format!("stage {stage}, step {step}: the range test selected the learning rate {rate:.2e}")
                }
                None => {
                    format!(
                        "stage {stage}, step {step}: the range test found no learning rate; using {planned} from the plan"
                    )
                }
            }),
            RunEvent::Stage { stage, model_id } => Some(format!("stage {stage}: model {model_id}")),
            RunEvent::Warning { message } => Some(format!("warning: {message}")),
            RunEvent::Checkpoint { .. } => None,
        }
    }

    /// Position in the plan, such as "stage 1 of 3 (128 px), head, epoch 2 of 3".
    fn position(&self, stage: u32, step: u32, epoch: u32) -> String {
        let planned = self.plan.stages.get(stage as usize - 1);
        let side = planned.map_or(0, |stage| stage.image_size);
        let step = planned.and_then(|stage| stage.steps.get(step as usize - 1));
        let scope = if step.is_some_and(|step| step.scope == Scope::Head) { "head" } else { "all" };
        let epochs = step.map_or(0, |step| step.epochs);
        format!("stage {stage} of {} ({side} px), {scope}, epoch {epoch} of {epochs}", self.plan.stages.len())
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        self.epoch.finish_and_clear();
        self.run.finish_and_clear();
    }
}

fn duration(seconds: f64) -> String {
    indicatif::HumanDuration(Duration::from_secs_f64(seconds.max(0.0))).to_string()
}
