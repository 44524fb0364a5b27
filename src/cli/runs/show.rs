//! `thorax runs show`: a run with its epochs and evaluations.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{or_none, percent, utc};
use crate::{
    domain::{Averages, ClassMetrics, EpochRecord, RunId},
    evaluation::{Estimate, Interval, Report},
    format::{Column, Table, printable},
    store::{self, Db, Evaluation, Run, StoreError},
};

/// A run with its epochs and evaluations; the output of `--json`.
#[derive(Debug, Serialize)]
pub(in crate::cli) struct RunReport {
    run: Run,
    epochs: Vec<EpochRecord>,
    evaluations: Vec<ScoredEvaluation>,
}

/// An evaluation and the scores computed from its confusion matrix.
#[derive(Debug, Serialize)]
struct ScoredEvaluation {
    #[serde(flatten)]
    evaluation: Evaluation,
    #[serde(flatten)]
    averages: Averages,
    /// Scores by class name.
    per_class: BTreeMap<String, ClassMetrics>,
    /// The scores with their 95 % intervals, for the tables.
    #[serde(skip)]
    report: Report,
}

impl RunReport {
    /// Reads a run; `None` if it does not exist.
    pub(in crate::cli) async fn read(db: &Db, id: RunId) -> Result<Option<Self>, StoreError> {
        let Some(run) = store::runs::get(db, id).await? else { return Ok(None) };
        let epochs = store::runs::epochs(db, id, 0).await?;
        let evaluations = store::evaluations::of_run(db, id, None, None).await?;
        Ok(Some(Self { run, epochs, evaluations: evaluations.into_iter().map(ScoredEvaluation::from).collect() }))
    }

    /// The run.
    pub(in crate::cli) fn run(&self) -> &Run {
        &self.run
    }

    /// Facts about the run, then tables of its epochs and of its evaluations, if there are any.
    pub(in crate::cli) fn tables(&self) -> String {
        let mut parts = vec![self.facts()];
        if !self.epochs.is_empty() {
            parts.push(self.epochs_table());
        }
        if !self.evaluations.is_empty() {
            parts.extend([self.averages_table(), self.classes_table(), INTERVALS.into()]);
        }
        parts.join("\n")
    }

    fn facts(&self) -> String {
        let run = &self.run;
        let time = |time: Option<_>| time.map_or_else(|| "-".into(), |time| utc(time) + " UTC");
        let facts = [
            ("run", run.id.to_string()),
            ("name", or_none(run.name.as_deref())),
            ("status", run.status.to_string()),
            ("error", or_none(run.error.as_deref())),
            ("done", self.progress()),
            ("recipe", or_none(run.recipe.as_deref())),
            ("network", run.plan.architecture.to_string()),
            ("data set", run.dataset_id.to_string()),
            ("seed", run.seed.to_string()),
            ("device", or_none(run.device.as_deref())),
            ("created", time(Some(run.created_at))),
            ("started", time(run.started_at)),
            ("finished", time(run.finished_at)),
        ];
        facts.iter().map(|(name, value)| format!("{name:<10}{}\n", printable(value))).collect()
    }

    fn progress(&self) -> String {
        let progress = &self.run.progress;
        let done = percent(progress.fraction);
        if self.run.status.is_final() || progress.stage == 0 {
            return done;
        }
        let stages = self.run.plan.stages.len();
        let left = progress.eta_seconds.map_or_else(String::new, |seconds| format!(", {seconds:.0} s left"));
        format!("{done}: stage {} of {stages}, step {}, epoch {}{left}", progress.stage, progress.step, progress.epoch)
    }

    /// Epochs. The training loss is a running mean over batches while the weights change and dropout is active; the other
    /// scores are those of the selection split.
    fn epochs_table(&self) -> String {
        let columns = [
            "stage",
            "step",
            "epoch",
            "train loss",
            "train accuracy",
            "loss",
            "accuracy",
            "macro F1",
            "learning rate",
            "seconds",
        ];
        let row = |epoch: &EpochRecord| {
            [
                epoch.stage.to_string(),
                epoch.step.to_string(),
                epoch.epoch.to_string(),
                score(epoch.train.loss),
                score(epoch.train.accuracy),
                score(epoch.selection.loss),
                score(epoch.selection.accuracy),
                epoch.selection.macro_f1.map_or_else(|| "-".into(), score),
                format!("{:e}", epoch.learning_rate),
                format!("{:.1}", epoch.seconds),
            ]
        };
        Table::new(columns.map(Column::number), self.epochs.iter().map(row)).to_text()
    }

    fn averages_table(&self) -> String {
        let columns = [
            Column::number("stage"),
            Column::text("split"),
            Column::number("images"),
            Column::number("accuracy"),
            Column::number("macro F1"),
            Column::number("weighted F1"),
            Column::number("loss"),
            Column::text("selected on"),
            Column::text("model"),
        ];
        let row = |ScoredEvaluation { evaluation, report, .. }: &ScoredEvaluation| {
            [
                stage(evaluation),
                evaluation.split.to_string(),
                evaluation.confusion_matrix.total().to_string(),
                estimate(report.accuracy),
                estimate(report.macro_f1),
                estimate(report.weighted_f1),
                score(evaluation.loss),
                evaluation.selection_split.map_or_else(|| "-".into(), |split| split.to_string()),
                evaluation.model_id.to_string(),
            ]
        };
        Table::new(columns, self.evaluations.iter().map(row)).to_text()
    }

    fn classes_table(&self) -> String {
        let columns = [
            Column::number("stage"),
            Column::text("split"),
            Column::text("class"),
            Column::number("images"),
            Column::number("precision"),
            Column::number("recall"),
            Column::number("F1"),
            Column::number("specificity"),
        ];
        let rows = self.evaluations.iter().flat_map(|ScoredEvaluation { evaluation, report, .. }| {
            evaluation.classes.names().iter().map(move |class| {
                let scores = &report.per_class[class];
                [
                    stage(evaluation),
                    evaluation.split.to_string(),
                    class.clone(),
                    scores.support.to_string(),
                    with_interval(Some(scores.precision), Some(scores.precision_interval)),
                    with_interval(scores.recall, scores.recall_interval),
                    with_interval(scores.f1, scores.f1_interval),
                    with_interval(Some(scores.specificity), Some(scores.specificity_interval)),
                ]
            })
        });
        Table::new(columns, rows).to_text()
    }
}

impl From<Evaluation> for ScoredEvaluation {
    fn from(evaluation: Evaluation) -> Self {
        let averages = evaluation.confusion_matrix.averages();
        let scores = evaluation.confusion_matrix.per_class();
        let per_class = evaluation.classes.names().iter().cloned().zip(scores).collect();
        let Evaluation { confusion_matrix, classes, split, selection_split, .. } = &evaluation;
        let report = Report::new(confusion_matrix, classes, *split, *selection_split);
        Self { evaluation, averages, per_class, report }
    }
}

/// Explanation of the intervals in the tables.
const INTERVALS: &str = "In parentheses: 95 % confidence intervals, Wilson for shares and bootstrap for F1.\n";

/// Recall and F1 of a class without images in the split.
const UNDEFINED: &str = "undefined";

fn stage(evaluation: &Evaluation) -> String {
    evaluation.stage.map_or_else(|| "-".into(), |stage| stage.to_string())
}

/// A score with its 95 % interval.
fn estimate(Estimate { value, low, high }: Estimate) -> String {
    with_interval(Some(value), Some(Interval { low, high }))
}

/// A score with its 95 % interval, or that it is undefined.
fn with_interval(value: Option<f64>, interval: Option<Interval>) -> String {
    match (value, interval) {
        (Some(value), Some(Interval { low, high })) => format!("{value:.3} ({low:.3}–{high:.3})"),
        _ => UNDEFINED.into(),
    }
}

fn score(number: f64) -> String {
    format!("{number:.4}")
}
