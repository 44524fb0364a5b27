//! An inference request: its JSON, and the raw tensors that follow it.

use std::fmt;

use axum::http::HeaderMap;
use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, DeserializeSeed, SeqAccess, Visitor},
};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::http::{ApiError, json};

/// Header with the length of the JSON at the beginning of a body, which raw tensors follow.
pub(super) const HEADER_LENGTH: &str = "inference-header-content-length";

/// Inference request.
#[derive(Deserialize, ToSchema)]
pub(super) struct InferRequest {
    /// Identifier of the request, returned in the response.
    pub(super) id: Option<String>,
    /// `binary_data_output`: true to return all outputs as raw bytes.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub(super) parameters: Map<String, Value>,
    /// Input tensors: exactly one.
    pub(super) inputs: Vec<InputTensor>,
    /// Requested outputs. Default: all.
    pub(super) outputs: Option<Vec<RequestedOutput>>,
}

/// Input tensor.
#[derive(Deserialize, ToSchema)]
pub(super) struct InputTensor {
    /// `image`, `uint8` or `fp32`.
    pub(super) name: String,
    /// Shape of the batch.
    pub(super) shape: Vec<u64>,
    /// `BYTES`, `UINT8` or `FP32`.
    pub(super) datatype: String,
    /// `binary_data_size`: number of raw bytes of the tensor after the JSON.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub(super) parameters: Map<String, Value>,
    /// Elements in JSON: numbers, flat or nested, or base64-encoded images.
    #[schema(value_type = Option<Vec<Value>>)]
    pub(super) data: Option<Data>,
}

/// Requested output.
#[derive(Deserialize, ToSchema)]
pub(super) struct RequestedOutput {
    /// `probabilities`, `prediction`, `prediction_id` or `warnings`.
    pub(super) name: String,
    /// `binary_data`: true to return the output as raw bytes.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub(super) parameters: Map<String, Value>,
}

/// Elements of a tensor in row-major order, whether they were sent flat or nested.
#[derive(Default)]
pub(super) struct Data {
    pub(super) numbers: Vec<f32>,
    pub(super) texts: Vec<String>,
}

impl InferRequest {
    /// Parses the JSON of a body. Also returns the raw bytes after it.
    pub(super) fn read(headers: &HeaderMap, body: &Bytes) -> Result<(Self, Bytes), ApiError> {
        let length = match headers.get(HEADER_LENGTH) {
            Some(length) => {
                let length = length.to_str().ok().and_then(|length| length.trim().parse().ok());
                let length = length.filter(|length| *length <= body.len());
                length.ok_or_else(|| {
                    ApiError::Malformed(
                        "Inference-Header-Content-Length must be a number of bytes up to the length of the body".into(),
                    )
                })?
            }
            None => body.len(),
        };
        let request = json::parse(&body[..length]).map_err(as_malformed)?;
        Ok((request, body.slice(length..)))
    }
}

/// Parses a JSON body; an empty body is the default value.
pub(super) fn body_or_default<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, ApiError> {
    if body.is_empty() {
        return Ok(T::default());
    }
    json::parse(body).map_err(as_malformed)
}

/// The protocol returns 400 for every request that it cannot read.
fn as_malformed(error: ApiError) -> ApiError {
    let ApiError::Invalid(errors) = &error else { return error };
    let fields: Vec<String> =
        errors.iter().map(|error| format!("{} {}", error.pointer, error.detail).trim_start().to_owned()).collect();
    ApiError::Malformed(fields.join("; "))
}

/// A boolean parameter.
pub(super) fn flag(parameters: &Map<String, Value>, name: &str) -> Result<Option<bool>, ApiError> {
    let invalid = || ApiError::Malformed(format!("the parameter {name} must be true or false"));
    parameters.get(name).map(|value| value.as_bool().ok_or_else(invalid)).transpose()
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut data = Self::default();
        deserializer.deserialize_seq(Flatten(&mut data))?;
        Ok(data)
    }
}

/// Collects the numbers and strings of nested arrays while parsing: a tree of JSON values would take twenty times the memory.
struct Flatten<'a>(&'a mut Data);

impl<'de> DeserializeSeed<'de> for Flatten<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Flatten<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("numbers or strings, flat or in nested arrays")
    }

    fn visit_f64<E>(self, number: f64) -> Result<(), E> {
        self.0.numbers.push(number as f32);
        Ok(())
    }

    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        self.0.numbers.push(number as f32);
        Ok(())
    }

    fn visit_i64<E>(self, number: i64) -> Result<(), E> {
        self.0.numbers.push(number as f32);
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.0.texts.push(text.to_owned());
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Flatten(&mut *self.0))?.is_some() {}
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn read(length: Option<&str>, body: &str) -> Result<(InferRequest, Bytes), ApiError> {
        let mut headers = HeaderMap::new();
        if let Some(length) = length {
            headers.insert(HEADER_LENGTH, HeaderValue::from_str(length).unwrap());
        }
        InferRequest::read(&headers, &Bytes::copy_from_slice(body.as_bytes()))
    }

    #[test]
    fn reads_nested_and_flat_data_alike() {
        for data in ["[[1, 2.5], [3, -4]]", "[1, 2.5, 3, -4]", "[[[1], [2.5]], [[3], [-4]]]"] {
            let found: Data = serde_json::from_str(data).unwrap();
            assert_eq!(found.numbers, [1.0, 2.5, 3.0, -4.0]);
        }
        let texts: Data = serde_json::from_str(r#"[["a"], ["b"]]"#).unwrap();
        assert_eq!(texts.texts, ["a", "b"]);
        for wrong in ["1", "[true]", "[null]", r#"[{"a": 1}]"#] {
            assert!(serde_json::from_str::<Data>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn splits_the_body_after_the_json_by_the_header() {
        let json = r#"{"inputs": []}"#;
        let body = format!("{json}raw");
        let (_, raw) = read(Some(&json.len().to_string()), &body).unwrap();
        assert_eq!(raw, "raw");
        assert!(read(None, json).unwrap().1.is_empty());
        for wrong in [Some("9999"), Some("-1"), Some("many"), Some("3"), None] {
            assert!(matches!(read(wrong, &body), Err(ApiError::Malformed(_))), "{wrong:?}");
        }
    }
}
