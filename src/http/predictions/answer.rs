//! What a prediction answers.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::files::Answered;
use crate::{
    domain::{ActivationMap, ModelId, NOTICE, PredictionId, QualityFlag, RunId},
    http::{ApiError, Problem},
    inference::{Classification, Timing},
    store::{Model, Prediction},
    worker::CHAMPION,
};

/// What the probabilities are worth.
const RELIABILITY: &str = "The probabilities are the network's softmax outputs and are not calibrated: 0.9 does not \
                           mean right nine times in ten, and an image unlike the training data gets confident answers too.";

/// What a heat map does not mean.
const CAVEAT: &str = "It shows what moved the score of this class, not where the disease is: a label, a tube or the edge of the \
                      image may move it as well, and a cell is as coarse as the grid.";

/// One answer for one image, several for several.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Predicted {
    /// To a raw body or a form with one file.
    One(Box<PredictionAnswer>),
    /// To a form with several files.
    Many(PredictionBatch),
}

/// The answer about one radiograph.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct PredictionAnswer {
    /// Under this it is recorded.
    pub(in crate::http) id: PredictionId,
    /// Who answered.
    pub(super) model: AnsweringModel,
    /// The most probable class.
    pub(in crate::http) prediction: String,
    /// By class name; sums to 1.
    pub(in crate::http) probabilities: BTreeMap<String, f32>,
    /// What the probabilities are worth.
    reliability: &'static str,
    /// What looks wrong with the image; empty when nothing does.
    pub(super) warnings: Vec<Warning>,
    /// What moved the score, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) heatmap: Option<Heatmap>,
    /// How long it took.
    pub(super) timing: Timing,
    /// For research only.
    notice: &'static str,
}

/// A reason to doubt the answer, or to look at the image.
#[derive(Serialize, ToSchema)]
pub(super) struct Warning {
    /// Its kind.
    flag: QualityFlag,
    /// In words.
    detail: &'static str,
}

impl From<QualityFlag> for Warning {
    fn from(flag: QualityFlag) -> Self {
        Self { flag, detail: flag.explanation() }
    }
}

/// What in the image moved the score of the class that was found: Grad-CAM (Selvaraju et al. 2017) on the last feature maps.
#[derive(Serialize, ToSchema)]
pub(super) struct Heatmap {
    /// How it was made.
    #[schema(example = "grad-cam")]
    method: &'static str,
    /// The class whose score it is about: the prediction.
    class: String,
    /// Cells over the whole image.
    #[serde(flatten)]
    activation: ActivationMap,
    /// A PNG of it over the image, as long as it is among the last 128 that were asked for and the server runs.
    #[schema(example = "/v1/predictions/01890a5d-ac96-774b-bcce-b302099a8057/heatmap")]
    href: String,
    /// What it does not mean.
    caveat: &'static str,
}

/// Which model answered.
#[derive(Serialize, ToSchema)]
pub(super) struct AnsweringModel {
    /// Identifier.
    id: ModelId,
    /// The alias asked for, or else the one through which it serves.
    alias: Option<String>,
    /// Run it came from.
    run_id: Option<RunId>,
    /// Stage of that run.
    stage: Option<u32>,
    /// Trained on drawn phantoms: its answer about a real radiograph means nothing.
    synthetic: bool,
}

/// The answers to the files of a form, in their order.
#[derive(Serialize, ToSchema)]
pub(super) struct PredictionBatch {
    /// One for each file.
    pub(super) items: Vec<BatchItem>,
}

/// The outcome for one file.
#[derive(Serialize, ToSchema)]
pub(super) struct BatchItem {
    /// Which file of the request, from 0; absent where the problem is the request's and not a file's.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    /// As sent.
    file_name: Option<String>,
    /// The answer, unless there is a problem.
    #[serde(skip_serializing_if = "Option::is_none")]
    prediction: Option<PredictionAnswer>,
    /// Why there is no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Problem>,
}

/// A prediction as it was recorded.
#[derive(Serialize, ToSchema)]
pub(super) struct RecordedPrediction {
    #[serde(flatten)]
    prediction: Prediction,
    /// For research only.
    notice: &'static str,
}

impl PredictionAnswer {
    /// Joins the engine's answer with what is known of its model.
    pub(super) fn new(
        classification: &Classification,
        model: Model,
        asked_alias: Option<&str>,
        flags: Vec<QualityFlag>,
    ) -> Self {
        let id = PredictionId::new();
        let (prediction, probabilities) = named(classification);
        let heatmap = classification.activation.as_ref().map(|map| Heatmap::new(id, &prediction, map));
        Self {
            id,
            model: AnsweringModel::new(model, asked_alias),
            heatmap,
            prediction,
            probabilities,
            reliability: RELIABILITY,
            warnings: flags.into_iter().map(Warning::from).collect(),
            timing: classification.timing,
            notice: NOTICE,
        }
    }
}

impl PredictionAnswer {
    /// Empty when nothing looks wrong with the image.
    pub(in crate::http) fn warnings_in_words(&self) -> String {
        let details: Vec<&str> = self.warnings.iter().map(|warning| warning.detail).collect();
        details.join("; ")
    }
}

/// The most probable class, and the probability of each by its name.
pub(in crate::http) fn named(classification: &Classification) -> (String, BTreeMap<String, f32>) {
    let (names, probabilities) = (classification.spec.classes.names(), &classification.probabilities);
    let best = (0..names.len()).max_by(|&a, &b| probabilities[a].total_cmp(&probabilities[b]));
    let best = best.map(|class| names[class].clone()).unwrap_or_default();
    (best, names.iter().cloned().zip(probabilities.iter().copied()).collect())
}

impl Heatmap {
    fn new(id: PredictionId, class: &str, activation: &ActivationMap) -> Self {
        Self {
            method: "grad-cam",
            class: class.to_owned(),
            activation: activation.clone(),
            href: format!("/v1/predictions/{id}/heatmap"),
            caveat: CAVEAT,
        }
    }
}

impl From<Answered> for BatchItem {
    fn from(Answered { index, file_name, outcome }: Answered) -> Self {
        let item = match outcome {
            Ok(answer) => Self { prediction: Some(answer), problem: None, index: None, file_name },
            Err(error) => Self { file_name, ..Self::of_request(error) },
        };
        Self { index: Some(index), ..item }
    }
}

impl BatchItem {
    /// What went wrong with the request as a whole.
    pub(super) fn of_request(error: ApiError) -> Self {
        Self { index: None, file_name: None, prediction: None, problem: Some(error.into_problem("/v1/predictions")) }
    }
}

impl AnsweringModel {
    fn new(model: Model, asked_alias: Option<&str>) -> Self {
        let champion = model.aliases.iter().find(|alias| *alias == CHAMPION);
        let alias = asked_alias.map(str::to_owned).or_else(|| champion.cloned());
        Self { id: model.id, alias, run_id: model.run_id, stage: model.stage, synthetic: model.synthetic }
    }
}

impl From<Prediction> for RecordedPrediction {
    fn from(prediction: Prediction) -> Self {
        Self { prediction, notice: NOTICE }
    }
}

impl RecordedPrediction {
    pub(super) fn cursor(&self) -> String {
        self.prediction.id.to_string()
    }
}
