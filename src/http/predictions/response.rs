//! Response types of predictions.

use std::{borrow::Cow, collections::BTreeMap};

use serde::Serialize;
use utoipa::ToSchema;

use super::files::FileResult;
use crate::{
    domain::{ActivationMap, GreyRange, ModelId, NOTICE, PredictionId, QualityFlag, RunId},
    http::{ApiError, Problem},
    inference::Timing,
    service::NewPrediction,
    store::{Model, Prediction},
    worker::CHAMPION,
};

/// Reliability of the probabilities.
const RELIABILITY: &str = "The probabilities are the network's softmax outputs and are not calibrated: 0.9 does not \
                           mean right nine times in ten, and an image unlike the training data gets confident predictions too.";

/// Limits of heat maps.
const CAVEAT: &str = "It shows which regions influenced the score of this class, not where the disease is: a label, a tube or the \
                      edge of the image can influence it as well, and its resolution is that of the grid.";

/// One prediction for one image, a batch for several.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Predicted {
    /// For a raw body or a form with one file.
    One(Box<PredictionResponse>),
    /// For a form with several files.
    Many(PredictionBatch),
}

/// Prediction for one radiograph.
#[derive(Serialize, ToSchema)]
pub(super) struct PredictionResponse {
    /// Identifier of the recorded prediction.
    pub(super) id: PredictionId,
    /// Model that classified.
    pub(super) model: ModelReference,
    /// The most probable class.
    pub(super) prediction: String,
    /// Probabilities by class; they sum to 1.
    pub(super) probabilities: BTreeMap<String, f32>,
    /// Reliability of the probabilities.
    reliability: &'static str,
    /// Quality warnings about the image.
    pub(super) warnings: Vec<Warning>,
    /// Range of grey levels of the image.
    pub(super) grey_range: GreyRange,
    /// Explanation, with `explain=true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) heatmap: Option<Heatmap>,
    /// Timing.
    pub(super) timing: Timing,
    /// For research only.
    notice: &'static str,
}

/// A reason to doubt the prediction or to inspect the image.
#[derive(Serialize, ToSchema)]
pub(super) struct Warning {
    /// Quality flag.
    flag: QualityFlag,
    /// Explanation of the flag.
    detail: Cow<'static, str>,
}

/// Image regions that influenced the score of the predicted class: Grad-CAM (Selvaraju et al. 2017) on the last feature maps.
#[derive(Serialize, ToSchema)]
pub(super) struct Heatmap {
    /// Method.
    #[schema(example = "grad-cam")]
    method: &'static str,
    /// Explained class: the prediction.
    class: String,
    /// Activation map over the whole image.
    #[serde(flatten)]
    activation: ActivationMap,
    /// PNG overlay; available for the latest 128 explained predictions while the server runs.
    #[schema(example = "/v1/predictions/01890a5d-ac96-774b-bcce-b302099a8057/heatmap")]
    href: String,
    /// Limits of the explanation.
    caveat: &'static str,
}

/// The model that classified.
#[derive(Serialize, ToSchema)]
pub(super) struct ModelReference {
    /// Identifier.
    id: ModelId,
    /// Requested alias, or `champion` for the model that serves.
    alias: Option<String>,
    /// Training run of the model.
    run_id: Option<RunId>,
    /// Stage of the training run.
    stage: Option<u32>,
    /// True if it was trained on synthetic phantoms: its predictions for real radiographs are meaningless.
    synthetic: bool,
}

/// Results for the files of a form, in order.
#[derive(Serialize, ToSchema)]
pub(super) struct PredictionBatch {
    /// One per file.
    pub(super) items: Vec<BatchItem>,
}

/// The outcome for one file.
#[derive(Serialize, ToSchema)]
pub(super) struct BatchItem {
    /// Index of the file in the request, from 0; absent where the problem concerns the request as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    /// Name of the file as sent.
    file_name: Option<String>,
    /// Prediction, unless there is a problem.
    #[serde(skip_serializing_if = "Option::is_none")]
    prediction: Option<PredictionResponse>,
    /// Problem with the file or the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Problem>,
}

/// A recorded prediction.
#[derive(Serialize, ToSchema)]
pub(super) struct RecordedPrediction {
    #[serde(flatten)]
    prediction: Prediction,
    /// For research only.
    notice: &'static str,
}

impl From<NewPrediction> for PredictionResponse {
    fn from(prediction: NewPrediction) -> Self {
        let NewPrediction { id, class, probabilities, model, alias, flags, grey_range, classification } = prediction;
        let heatmap = classification.activation.map(|activation| Heatmap::new(id, &class, activation));
        Self {
            id,
            model: ModelReference::new(model, alias),
            heatmap,
            prediction: class,
            probabilities,
            reliability: RELIABILITY,
            warnings: flags.into_iter().map(|flag| Warning { flag, detail: flag.explanation(grey_range) }).collect(),
            grey_range,
            timing: classification.timing,
            notice: NOTICE,
        }
    }
}

impl Heatmap {
    fn new(id: PredictionId, class: &str, activation: ActivationMap) -> Self {
        Self {
            method: "grad-cam",
            class: class.to_owned(),
            activation,
            href: format!("/v1/predictions/{id}/heatmap"),
            caveat: CAVEAT,
        }
    }
}

impl From<FileResult> for BatchItem {
    fn from(FileResult { index, file_name, outcome }: FileResult) -> Self {
        let item = match outcome {
            Ok(prediction) => Self { prediction: Some(prediction.into()), problem: None, index: None, file_name },
            Err(error) => Self { file_name, ..Self::of_request(error) },
        };
        Self { index: Some(index), ..item }
    }
}

impl BatchItem {
    /// A failure of the request as a whole.
    pub(super) fn of_request(error: ApiError) -> Self {
        Self { index: None, file_name: None, prediction: None, problem: Some(error.into_problem("/v1/predictions")) }
    }
}

impl ModelReference {
    fn new(model: Model, selected_alias: Option<String>) -> Self {
        let champion = || model.aliases.iter().find(|alias| *alias == CHAMPION).cloned();
        let alias = selected_alias.or_else(champion);
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
