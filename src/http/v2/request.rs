//! A request for inference: its JSON, and the raw tensors behind it.

use std::fmt;

use axum::http::HeaderMap;
use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, DeserializeSeed, SeqAccess, Visitor},
};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::http::ApiError;

/// How long the JSON at the beginning of a body is; what follows are raw tensors.
pub(super) const HEADER_LENGTH: &str = "inference-header-content-length";

/// A request for inference.
#[derive(Deserialize, ToSchema)]
pub(super) struct InferRequest {
    /// Comes back in the answer.
    pub(super) id: Option<String>,
    /// `binary_data_output`: all outputs are raw.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub(super) parameters: Map<String, Value>,
    /// One tensor.
    pub(super) inputs: Vec<InputTensor>,
    /// Those wanted; all when absent.
    pub(super) outputs: Option<Vec<RequestedOutput>>,
}

/// A tensor that is sent.
#[derive(Deserialize, ToSchema)]
pub(super) struct InputTensor {
    /// `image`, `uint8` or `fp32`.
    pub(super) name: String,
    /// Of all images of the batch.
    pub(super) shape: Vec<u64>,
    /// `BYTES`, `UINT8` or `FP32`.
    pub(super) datatype: String,
    /// `binary_data_size`: its raw bytes follow the JSON.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub(super) parameters: Map<String, Value>,
    /// Numbers, flat or nested, or images in base64.
    #[schema(value_type = Option<Vec<Value>>)]
    pub(super) data: Option<Data>,
}

/// An output that is wanted.
#[derive(Deserialize, ToSchema)]
pub(super) struct RequestedOutput {
    /// `probabilities`, `prediction`, `prediction_id` or `warnings`.
    pub(super) name: String,
    /// `binary_data`: it is raw.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub(super) parameters: Map<String, Value>,
}

/// Elements of a tensor in the order of their rows, however they were nested.
#[derive(Default)]
pub(super) struct Data {
    pub(super) numbers: Vec<f32>,
    pub(super) texts: Vec<String>,
}

impl InferRequest {
    /// The JSON of a body, and what follows it.
    pub(super) fn read(headers: &HeaderMap, body: &Bytes) -> Result<(Self, Bytes), ApiError> {
        let length = match headers.get(HEADER_LENGTH) {
            Some(length) => {
                let length = length.to_str().ok().and_then(|length| length.trim().parse().ok());
                let length = length.filter(|length| *length <= body.len());
                length.ok_or_else(|| {
                    ApiError::Malformed("Inference-Header-Content-Length: not a length of this body".into())
                })?
            }
            None => body.len(),
        };
        let request =
            serde_json::from_slice(&body[..length]).map_err(|error| ApiError::Malformed(error.to_string()))?;
        Ok((request, body.slice(length..)))
    }
}

/// A JSON body, or what an empty one means.
pub(super) fn body_or_default<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, ApiError> {
    if body.is_empty() {
        return Ok(T::default());
    }
    serde_json::from_slice(body).map_err(|error| ApiError::Malformed(error.to_string()))
}

/// A parameter that says yes or no.
pub(super) fn flag(parameters: &Map<String, Value>, name: &str) -> Result<Option<bool>, ApiError> {
    let wrong = || ApiError::Malformed(format!("the parameter {name} must be true or false"));
    parameters.get(name).map(|value| value.as_bool().ok_or_else(wrong)).transpose()
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut data = Self::default();
        deserializer.deserialize_seq(Flatten(&mut data))?;
        Ok(data)
    }
}

/// Takes numbers and texts out of arrays of arrays as they are read: a tree of values would take twenty times the memory.
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
        formatter.write_str("numbers or texts, flat or in arrays of arrays")
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
    fn nested_and_flat_data_are_the_same() {
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
    fn the_json_ends_where_the_header_says() {
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
