//! An inference response: its JSON, and the raw tensors that follow it.

use axum::{
    Json,
    http::{HeaderName, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    metadata::TensorMetadata,
    request::{HEADER_LENGTH, InferRequest, flag},
};
use crate::{domain::NOTICE, http::ApiError, service::NewPrediction, store::Model};

/// Output tensor of a batch of images.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// Probability of each class, in the order of the response parameter `classes`.
    Probabilities,
    /// The most probable class.
    Prediction,
    /// Identifier of the recorded prediction.
    PredictionId,
    /// Warnings about the image as text; empty without warnings.
    Warnings,
}

/// Requested outputs; true for outputs to return as raw bytes.
pub(super) type RequestedOutputs = Vec<(Output, bool)>;

/// Inference response.
#[derive(Serialize, ToSchema)]
pub(super) struct InferResponse {
    /// Name of the model in the request.
    model_name: String,
    /// Identifier of the model.
    model_version: String,
    /// Identifier of the request, if it had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// Class names and notice.
    parameters: ResponseParameters,
    /// Requested outputs.
    outputs: Vec<OutputTensor>,
}

/// Parameters of an inference response.
#[derive(Serialize, ToSchema)]
struct ResponseParameters {
    /// Comma-separated class names, in the order of the probabilities.
    classes: String,
    /// Research-only notice.
    notice: &'static str,
}

/// Output tensor.
#[derive(Serialize, ToSchema)]
struct OutputTensor {
    /// Name of the output.
    name: &'static str,
    /// Shape; the first dimension is the number of images.
    shape: Vec<usize>,
    /// Data type of the elements.
    datatype: &'static str,
    /// Size of a raw tensor.
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<BinaryParameters>,
    /// Elements of a tensor that is not raw.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<OutputData>,
}

/// Parameters of a raw tensor.
#[derive(Serialize, ToSchema)]
struct BinaryParameters {
    /// Number of bytes of the tensor after the JSON. Tensors follow in the order of the outputs.
    binary_data_size: usize,
}

/// Elements of an output.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum OutputData {
    /// Elements of an `FP32` tensor.
    Numbers(Vec<f32>),
    /// Elements of a `BYTES` tensor.
    Texts(Vec<String>),
}

const OUTPUTS: [Output; 4] = [Output::Probabilities, Output::Prediction, Output::PredictionId, Output::Warnings];

/// Metadata of the output tensors of a model with `classes` classes.
pub(super) fn metadata(classes: usize) -> Vec<TensorMetadata> {
    let shape = |output| if output == Output::Probabilities { vec![-1, classes as i64] } else { vec![-1] };
    let tensor =
        |output: Output| TensorMetadata { name: output.name(), datatype: output.datatype(), shape: shape(output) };
    OUTPUTS.map(tensor).into()
}

/// Outputs that a request selects. An unknown output or an unsupported parameter is 400.
pub(super) fn requested_outputs(request: &InferRequest) -> Result<RequestedOutputs, ApiError> {
    let all_binary = flag(&request.parameters, "binary_data_output")?.unwrap_or(false);
    let Some(requested) = &request.outputs else {
        return Ok(OUTPUTS.map(|output| (output, all_binary)).into());
    };
    let mut outputs = RequestedOutputs::new();
    for requested in requested {
        let name = &requested.name;
        let output = OUTPUTS.into_iter().find(|output| output.name() == name);
        let output = output.ok_or_else(|| {
            ApiError::Malformed(format!(
                "unknown output {name:?}: request probabilities, prediction, prediction_id or warnings"
            ))
        })?;
        for unsupported in ["classification", "shared_memory_region"] {
            if requested.parameters.contains_key(unsupported) {
                return Err(ApiError::Malformed(format!("the parameter {unsupported} of {name} is not supported")));
            }
        }
        outputs.push((output, flag(&requested.parameters, "binary_data")?.unwrap_or(all_binary)));
    }
    Ok(outputs)
}

/// Assembles the response.
pub(super) fn respond(
    request: InferRequest,
    name: &str,
    model: &Model,
    requested: &RequestedOutputs,
    answers: &[NewPrediction],
) -> Response {
    let classes = model.spec.classes.names();
    let mut raw = Vec::new();
    let outputs = requested.iter().map(|&(output, binary)| output.tensor(classes, answers, binary.then_some(&mut raw)));
    let outputs = outputs.collect();
    let parameters = ResponseParameters { classes: classes.join(","), notice: NOTICE };
    let (model_name, model_version) = (name.to_owned(), model.id.to_string());
    let json = InferResponse { model_name, model_version, id: request.id, parameters, outputs };
    if !requested.iter().any(|(_, binary)| *binary) {
        return Json(json).into_response();
    }
    let mut body = serde_json::to_vec(&json).expect("all keys are strings");
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

    /// The tensor with its elements in JSON or, with `raw`, appended to the raw bytes.
    fn tensor(self, classes: &[String], answers: &[NewPrediction], raw: Option<&mut Vec<u8>>) -> OutputTensor {
        let mut shape = vec![answers.len()];
        let elements = match self {
            Self::Probabilities => {
                shape.push(classes.len());
                OutputData::Numbers(answers.iter().flat_map(|answer| probabilities_in_order(classes, answer)).collect())
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
    let details: Vec<_> = prediction.flags.iter().map(|flag| flag.explanation(prediction.grey_range)).collect();
    details.join("; ")
}

fn probabilities_in_order<'a>(classes: &'a [String], answer: &'a NewPrediction) -> impl Iterator<Item = f32> + 'a {
    classes.iter().map(|class| answer.probabilities.get(class).copied().unwrap_or_default())
}

impl OutputData {
    /// Appends the elements in little-endian order; each string follows its length in 4 bytes.
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
