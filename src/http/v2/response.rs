//! The answer to a request for inference: its JSON, and the raw tensors behind it.

use axum::{
    Json,
    http::{HeaderName, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    model::TensorMetadata,
    request::{HEADER_LENGTH, InferRequest, flag},
};
use crate::{domain::NOTICE, http::ApiError, service::NewPrediction, store::Model};

/// What there is about a batch of images.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// Of each class, in the order of the parameter `classes`.
    Probabilities,
    /// The most probable class.
    Prediction,
    /// Under which it is recorded.
    PredictionId,
    /// What looks wrong with the image, in words; empty where nothing does.
    Warnings,
}

/// Whether an output is wanted as raw bytes.
pub(super) type Wanted = Vec<(Output, bool)>;

/// The answer.
#[derive(Serialize, ToSchema)]
pub(super) struct InferResponse {
    /// As it was asked for.
    model_name: String,
    /// Its identifier.
    model_version: String,
    /// As it was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// Beside the tensors.
    parameters: ResponseParameters,
    /// Those that were wanted.
    outputs: Vec<OutputTensor>,
}

/// Beside the tensors.
#[derive(Serialize, ToSchema)]
struct ResponseParameters {
    /// Names of the classes, in the order of the probabilities, with commas between.
    classes: String,
    /// For research only.
    notice: &'static str,
}

/// A tensor that is given.
#[derive(Serialize, ToSchema)]
struct OutputTensor {
    /// Its name.
    name: &'static str,
    /// Images first.
    shape: Vec<usize>,
    /// Of its elements.
    datatype: &'static str,
    /// Where it is raw.
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<BinaryParameters>,
    /// Where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<OutputData>,
}

/// Of a raw tensor.
#[derive(Serialize, ToSchema)]
struct BinaryParameters {
    /// So many bytes of what follows the JSON are its own, in the order of the outputs.
    binary_data_size: usize,
}

/// OutputData of an output.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum OutputData {
    /// FP32.
    Numbers(Vec<f32>),
    /// BYTES.
    Texts(Vec<String>),
}

const OUTPUTS: [Output; 4] = [Output::Probabilities, Output::Prediction, Output::PredictionId, Output::Warnings];

/// The tensors that are given.
pub(super) fn metadata(classes: usize) -> Vec<TensorMetadata> {
    let shape = |output| if output == Output::Probabilities { vec![-1, classes as i64] } else { vec![-1] };
    let tensor =
        |output: Output| TensorMetadata { name: output.name(), datatype: output.datatype(), shape: shape(output) };
    OUTPUTS.map(tensor).into()
}

/// Which outputs a request wants, and how; 400 for one that there is not.
pub(super) fn wanted(request: &InferRequest) -> Result<Wanted, ApiError> {
    let all_binary = flag(&request.parameters, "binary_data_output")?.unwrap_or(false);
    let Some(requested) = &request.outputs else {
        return Ok(OUTPUTS.map(|output| (output, all_binary)).into());
    };
    let mut wanted = Wanted::new();
    for requested in requested {
        let name = &requested.name;
        let output = OUTPUTS.into_iter().find(|output| output.name() == name);
        let output = output.ok_or_else(|| ApiError::Malformed(format!("there is no output {name:?}")))?;
        for unsupported in ["classification", "shared_memory_region"] {
            if requested.parameters.contains_key(unsupported) {
                return Err(ApiError::Malformed(format!("the parameter {unsupported} of {name} is not supported")));
            }
        }
        wanted.push((output, flag(&requested.parameters, "binary_data")?.unwrap_or(all_binary)));
    }
    Ok(wanted)
}

/// Puts the answers together.
pub(super) fn respond(
    request: InferRequest,
    name: &str,
    model: &Model,
    wanted: &Wanted,
    answers: &[NewPrediction],
) -> Response {
    let classes = model.spec.classes.names();
    let mut raw = Vec::new();
    let outputs = wanted.iter().map(|&(output, binary)| output.tensor(classes, answers, binary.then_some(&mut raw)));
    let outputs = outputs.collect();
    let parameters = ResponseParameters { classes: classes.join(","), notice: NOTICE };
    let (model_name, model_version) = (name.to_owned(), model.id.to_string());
    let json = InferResponse { model_name, model_version, id: request.id, parameters, outputs };
    if !wanted.iter().any(|(_, binary)| *binary) {
        return Json(json).into_response();
    }
    let mut body = serde_json::to_vec(&json).expect("an answer has text for keys");
    let length = (HeaderName::from_static(HEADER_LENGTH), body.len().to_string());
    body.append(&mut raw);
    ([(header::CONTENT_TYPE, "application/octet-stream".to_owned()), length], body).into_response()
}

impl Output {
    fn name(self) -> &'static str {
        match self {
            Self::Probabilities => "probabilities",
            Self::Prediction => "prediction",
            Self::PredictionId => "prediction_id",
            Self::Warnings => "warnings",
        }
    }

    fn datatype(self) -> &'static str {
        if self == Self::Probabilities { "FP32" } else { "BYTES" }
    }

    /// With its elements, or with these appended to what is raw.
    fn tensor(self, classes: &[String], answers: &[NewPrediction], raw: Option<&mut Vec<u8>>) -> OutputTensor {
        let mut shape = vec![answers.len()];
        let elements = match self {
            Self::Probabilities => {
                shape.push(classes.len());
                OutputData::Numbers(answers.iter().flat_map(|answer| in_order(classes, answer)).collect())
            }
            Self::Prediction => OutputData::Texts(answers.iter().map(|answer| answer.class.clone()).collect()),
            Self::PredictionId => OutputData::Texts(answers.iter().map(|answer| answer.id.to_string()).collect()),
            Self::Warnings => OutputData::Texts(answers.iter().map(warnings).collect()),
        };
        let (name, datatype) = (self.name(), self.datatype());
        let Some(raw) = raw else {
            return OutputTensor { name, shape, datatype, parameters: None, data: Some(elements) };
        };
        let before = raw.len();
        elements.append_to(raw);
        let parameters = Some(BinaryParameters { binary_data_size: raw.len() - before });
        OutputTensor { name, shape, datatype, parameters, data: None }
    }
}

/// Explanations of the image's quality flags; empty without any.
fn warnings(prediction: &NewPrediction) -> String {
    let details: Vec<&str> = prediction.flags.iter().map(|flag| flag.explanation()).collect();
    details.join("; ")
}

fn in_order<'a>(classes: &'a [String], answer: &'a NewPrediction) -> impl Iterator<Item = f32> + 'a {
    classes.iter().map(|class| answer.probabilities.get(class).copied().unwrap_or_default())
}

impl OutputData {
    /// Little-endian; a text behind its length in 4 bytes.
    fn append_to(&self, raw: &mut Vec<u8>) {
        match self {
            Self::Numbers(numbers) => raw.extend(numbers.iter().flat_map(|number| number.to_le_bytes())),
            Self::Texts(texts) => texts.iter().for_each(|text| {
                raw.extend((text.len() as u32).to_le_bytes());
                raw.extend(text.as_bytes());
            }),
        }
    }
}
