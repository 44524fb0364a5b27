//! JSON of requests: errors name the place and what belongs there, in plain words.

use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Deserializer, error::Category};

use super::ApiError;
use crate::service::value_error;

/// Parses a body, which is an object on every path. 400 if it is no JSON, 422 if it is other JSON than expected.
pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    // serde would read the fields of a struct from a list, too.
    if !bytes.trim_ascii_start().starts_with(b"{") {
        serde_json::from_slice::<IgnoredAny>(bytes).map_err(|error| malformed(&error))?;
        return Err(ApiError::invalid("", "must be an object"));
    }
    let mut deserializer = Deserializer::from_slice(bytes);
    let value =
        serde_path_to_error::deserialize(&mut deserializer).map_err(|error| match error.inner().classify() {
            Category::Data => ApiError::Invalid(vec![value_error("", &error)]),
            _ => malformed(error.inner()),
        })?;
    deserializer.end().map_err(|error| malformed(&error))?;
    Ok(value)
}

fn malformed(error: &serde_json::Error) -> ApiError {
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or_default();
    let reason = if error.is_eof() { "it ends early" } else { reason };
    ApiError::Malformed(format!(
        "the body is not valid JSON: {reason} (line {}, column {})",
        error.line(),
        error.column()
    ))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only read")]
    struct Body {
        stages: Vec<Stage>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "only read")]
    struct Stage {
        size: u32,
    }

    fn error(text: &str) -> (String, String) {
        match parse::<Body>(text.as_bytes()).unwrap_err() {
            ApiError::Invalid(errors) => (errors[0].pointer.clone(), errors[0].detail.clone()),
            ApiError::Malformed(detail) => (String::new(), detail),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_error_points_at_the_value() {
        let of = |pointer: &str, detail: &str| (pointer.to_owned(), detail.to_owned());
        let number = "must be a whole number from 0 to 4294967295 (got \"a\")";
        assert_eq!(error(r#"{"stages": [{"size": 1}, {"size": "a"}]}"#), of("/stages/1/size", number));
        assert_eq!(error(r#"{"stages": [{}]}"#), of("/stages/0/size", "is missing"));
        assert_eq!(error(r#"{"stages": [{"sise": 1}]}"#), of("/stages/0/sise", "unknown field: use `size`"));
        assert_eq!(error(r#"{"stages": [{"size": 1, "size": 2}]}"#), of("/stages/0/size", "is given more than once"));
        assert_eq!(error(r#"{"stages": 3}"#), of("/stages", "must be a list (got 3)"));
    }

    #[test]
    fn text_that_is_no_json_is_malformed() {
        for text in ["", "{", "{\"stages\"", "{]", "[1] 2", "{\"stages\": []} x", "nul"] {
            let (_, detail) = error(text);
            assert!(detail.contains("not valid JSON") && !detail.contains("EOF"), "{text}: {detail}");
        }
        for other in ["[]", "[[]]", "null", " 7", "\"text\""] {
            assert_eq!(error(other), (String::new(), "must be an object".into()), "{other}");
        }
    }
}
