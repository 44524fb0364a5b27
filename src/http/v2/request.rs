//! An inference request: its JSON, and the raw tensors that follow it.

use std::{fmt, marker::PhantomData};

use axum::http::HeaderMap;
use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::http::{ApiError, json};

/// Header with the length of the JSON at the beginning of a body, which raw tensors follow.
pub(super) const HEADER_LENGTH: &str = "inference-header-content-length";

/// A grey gradient of 32 x 32 pixels, as PNG in base64.
const EXAMPLE_IMAGE: &str = "iVBORw0KGgoAAAANSUhEUgAAACAAAAAgCAAAAABWESUoAAAANUlEQVR42mNg4BCQUNAwsHDwCIhIyCioaOiYMGPBig07Dpy4cOPBiw8/GEYVjCoYVTBSFQAAl2zwEJjgKNwAAAAASUVORK5CYII=";

/// Inference request.
#[derive(Deserialize, ToSchema)]
#[schema(example = json!({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [EXAMPLE_IMAGE]}]}))]
pub(super) struct InferRequest {
    /// Identifier of the request, returned in the response.
    pub(super) id: Option<String>,
    /// `binary_data_output`: true to return all outputs as raw bytes.
    #[serde(default, deserialize_with = "parameters")]
    #[schema(value_type = Object)]
    pub(super) parameters: Map<String, Value>,
    /// Input tensors: exactly one.
    #[serde(deserialize_with = "few")]
    pub(super) inputs: Vec<InputTensor>,
    /// Requested outputs. Default: all.
    #[serde(default, deserialize_with = "few_or_none")]
    pub(super) outputs: Option<Vec<RequestedOutput>>,
}

/// Input tensor.
#[derive(Deserialize, ToSchema)]
pub(super) struct InputTensor {
    /// `image`, `uint8` or `fp32`.
    pub(super) name: String,
    /// Shape of the batch.
    #[serde(deserialize_with = "few")]
    pub(super) shape: Vec<u64>,
    /// `BYTES`, `UINT8` or `FP32`.
    pub(super) datatype: String,
    /// `binary_data_size`: number of raw bytes of the tensor after the JSON.
    #[serde(default, deserialize_with = "parameters")]
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
    #[serde(default, deserialize_with = "parameters")]
    #[schema(value_type = Object)]
    pub(super) parameters: Map<String, Value>,
}

/// Maximum number of parameters, of inputs, of outputs and of dimensions. A long list would take many times the memory of its text.
const MAX_ENTRIES: usize = 64;

/// Maximum number of images as text: each text takes memory beside its own bytes.
const MAX_TEXTS: usize = 10_000;

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

/// A list of at most [`MAX_ENTRIES`].
fn few<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    struct Few<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Few<T> {
        type Value = Vec<T>;

        fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
            write!(formatter, "a list of at most {MAX_ENTRIES} entries")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
            let mut few = Vec::new();
            while let Some(item) = items.next_element()? {
                if few.len() == MAX_ENTRIES {
                    return Err(de::Error::invalid_length(few.len() + 1, &self));
                }
                few.push(item);
            }
            Ok(few)
        }
    }

    deserializer.deserialize_seq(Few(PhantomData))
}

fn few_or_none<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<T>>, D::Error> {
    struct Listed<T>(Vec<T>);

    impl<'de, T: Deserialize<'de>> Deserialize<'de> for Listed<T> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            few(deserializer).map(Self)
        }
    }

    Ok(Option::<Listed<T>>::deserialize(deserializer)?.map(|Listed(list)| list))
}

/// At most [`MAX_ENTRIES`] parameters, each a text, a number, true, false or null, as the protocol defines them.
fn parameters<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Map<String, Value>, D::Error> {
    struct Parameters;

    impl<'de> Visitor<'de> for Parameters {
        type Value = Map<String, Value>;

        fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
            write!(formatter, "an object of at most {MAX_ENTRIES} texts, numbers and booleans")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
            let mut found = Map::new();
            while let Some((name, Scalar(value))) = entries.next_entry::<String, Scalar>()? {
                found.insert(name, value);
                if found.len() > MAX_ENTRIES {
                    return Err(de::Error::invalid_length(found.len(), &self));
                }
            }
            Ok(found)
        }
    }

    deserializer.deserialize_map(Parameters)
}

/// A JSON value other than an array or an object.
struct Scalar(Value);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ScalarVisitor;

        impl Visitor<'_> for ScalarVisitor {
            type Value = Scalar;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("a text, a number, true, false or null")
            }

            fn visit_bool<E>(self, value: bool) -> Result<Scalar, E> {
                Ok(Scalar(value.into()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Scalar, E> {
                Ok(Scalar(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Scalar, E> {
                Ok(Scalar(value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Scalar, E> {
                Ok(Scalar(value.into()))
            }

            fn visit_str<E>(self, value: &str) -> Result<Scalar, E> {
                Ok(Scalar(value.into()))
            }

            fn visit_unit<E>(self) -> Result<Scalar, E> {
                Ok(Scalar(Value::Null))
            }
        }

        deserializer.deserialize_any(ScalarVisitor)
    }
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

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        if self.0.texts.len() == MAX_TEXTS {
            return Err(E::custom(format!("a request contains at most {MAX_TEXTS} images as text")));
        }
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
    fn lists_and_parameters_that_would_take_many_times_their_text_are_refused() {
        let tensor = r#"{"name":"image","shape":[1],"datatype":"BYTES"}"#;
        let request = |inner: String| read(None, &format!("{{{inner}}}")).map(|_| ());
        let zeros = |count: usize| vec!["0"; count].join(",");
        let tensors = |count: usize| vec![tensor; count].join(",");
        assert!(request(format!(r#""inputs":[{tensor}],"outputs":null"#)).is_ok());
        assert!(request(format!(r#""inputs":[{tensor}],"parameters":{{"a":1,"b":"c","d":true,"e":null}}"#)).is_ok());
        for wrong in [
            format!(r#""inputs":[{}]"#, tensors(MAX_ENTRIES + 1)),
            format!(r#""inputs":[{}]"#, tensor.replace("[1]", &format!("[{}]", zeros(MAX_ENTRIES + 1)))),
            format!(r#""inputs":[{tensor}],"parameters":{{"a":[{}]}}"#, zeros(2)),
            format!(r#""inputs":[{tensor}],"parameters":{{"a":{{"b":1}}}}"#),
        ] {
            assert!(matches!(request(wrong.clone()), Err(ApiError::Malformed(_))), "{wrong}");
        }
        let texts = vec!["\"\""; MAX_TEXTS + 1].join(",");
        assert!(serde_json::from_str::<Data>(&format!("[{texts}]")).is_err());
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
