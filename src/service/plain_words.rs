//! Error messages of serde and of the parsers of numbers and UUIDs, in the words of the API: a client must not need to know Rust.

use std::fmt::Display;

use serde_path_to_error::Segment;

use super::FieldError;

/// An invalid value that was read at the JSON pointer `at`, as a field error.
pub fn value_error<E: Display>(at: &str, error: &serde_path_to_error::Error<E>) -> FieldError {
    let mut pointers = vec![at.to_owned()];
    for segment in error.path().iter() {
        let key = match segment {
            Segment::Seq { index } => index.to_string(),
            Segment::Map { key } | Segment::Enum { variant: key } => escaped(key),
            Segment::Unknown => continue,
        };
        pointers.push(format!("{}/{key}", pointers[pointers.len() - 1]));
    }
    let message = error.inner().to_string();
    // The path of an unknown or repeated field ends with the field, which the message names again.
    let names_field = ["unknown field `", "duplicate field `"].iter().any(|prefix| message.starts_with(prefix));
    let named = pointers.pop().unwrap_or_default();
    let key = message.split('`').nth(1).map(escaped).filter(|_| names_field);
    let ends_with_field = key.is_some_and(|key| named.rsplit('/').next() == Some(&key));
    field_error(&pointers.pop().filter(|_| ends_with_field).unwrap_or(named), &message)
}

/// A key as a segment of a JSON pointer.
fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// An invalid value as a field error. `pointer` is the JSON pointer of the value; the message may name a field below it.
fn field_error(pointer: &str, message: &str) -> FieldError {
    let message = without_position(message);
    let below = |field: &str| format!("{pointer}/{}", escaped(field));
    let named = |prefix: &str| message.strip_prefix(prefix).and_then(|rest| rest.split('`').next()).map(below);
    if let Some(pointer) = named("missing field `") {
        return FieldError::new(pointer, "is missing");
    }
    if let Some(pointer) = named("duplicate field `") {
        return FieldError::new(pointer, "is given more than once");
    }
    if let Some(pointer) = named("unknown field `") {
        let known = message.split_once(", expected ").map(|(_, known)| format!(": use {known}")).unwrap_or_default();
        return FieldError::new(pointer, format!("unknown field{known}"));
    }
    FieldError::new(pointer, in_words(message))
}

/// Cuts the position that serde_json appends.
fn without_position(message: &str) -> &str {
    let position = message.rfind(" at line ").filter(|at| message[*at..].contains(" column "));
    position.map_or(message, |at| &message[..at])
}

fn in_words(message: &str) -> String {
    if let Some(rest) = message.strip_prefix("unknown variant ") {
        let (found, known) = rest.split_once(", expected ").unwrap_or((rest, "another value"));
        let found = found.trim_matches('`');
        return format!("must be {known} (got {found:?})");
    }
    let wrong = message.strip_prefix("invalid type: ").or_else(|| message.strip_prefix("invalid value: "));
    if let Some((found, expected)) = wrong.and_then(|rest| rest.rsplit_once(", expected ")) {
        return format!("must be {} (got {})", kind(expected), value(found));
    }
    if let Some(rest) = message.strip_prefix("invalid length ") {
        let (length, expected) = rest.split_once(", expected ").unwrap_or((rest, "another length"));
        return format!("must be {} (has {length} items)", kind(expected));
    }
    if message.starts_with("UUID parsing failed") {
        return "must be a UUID".into();
    }
    match message {
        "invalid digit found in string" => "must be a whole number of at least 0".into(),
        "cannot parse integer from empty string" => "must be a whole number (is empty)".into(),
        "number too large to fit in target type" => "is too large".into(),
        "number too small to fit in target type" => "is too small".into(),
        "invalid float literal" | "cannot parse float from empty string" => "must be a number".into(),
        "provided string was not `true` or `false`" => "must be true or false".into(),
        _ => message.into(),
    }
}

/// The type that serde expected.
fn kind(expected: &str) -> String {
    let kind = match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "u128" | "usize" => "a whole number of at least 0",
        "i8" | "i16" | "i32" | "i64" | "i128" | "isize" => "a whole number",
        "a nonzero u8" | "a nonzero u16" | "a nonzero u32" | "a nonzero u64" | "a nonzero usize" => {
            "a whole number of at least 1"
        }
        "f32" | "f64" => "a number",
        "a string" | "a borrowed string" | "a character" => "a text",
        "a boolean" => "true or false",
        "a sequence" | "an array" => "a list",
        "a map" => "an object",
        "unit" => "null",
        "a formatted UUID string" | "a UUID string" => "a UUID",
        "string or map" => "one of the documented values",
        _ if expected.starts_with("struct ") || expected.starts_with("internally tagged enum ") => "an object",
        _ if expected.starts_with("enum ") || expected == "variant identifier" => "one of the documented values",
        _ if expected.starts_with("a tuple of size ") || expected.starts_with("an array of length ") => {
            let length = expected.rsplit(' ').next().unwrap_or_default();
            return format!("a list of {length} items");
        }
        _ => expected,
    };
    kind.into()
}

/// The value that serde found.
fn value(found: &str) -> String {
    let inner = |prefix: &str| found.strip_prefix(prefix).map(|rest| rest.trim_matches('`').to_owned());
    match found {
        "map" => "an object".into(),
        "sequence" => "a list".into(),
        "unit value" | "unit" | "null" | "Option value" => "null".into(),
        _ => inner("integer ")
            .or_else(|| inner("floating point "))
            .or_else(|| inner("boolean "))
            .or_else(|| inner("string "))
            .or_else(|| inner("character "))
            .unwrap_or_else(|| found.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use serde::{Deserialize, de::DeserializeOwned};
    use uuid::Uuid;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        One,
        Two,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        #[allow(dead_code, reason = "only read")]
        name: String,
    }

    /// Pointer and detail of a JSON text that is no `T`.
    fn error<T: DeserializeOwned + Debug>(json: &str) -> (String, String) {
        let value: serde_json::Value = serde_json::from_str(json).unwrap();
        let error = field_error("/x", &serde_json::from_value::<T>(value).unwrap_err().to_string());
        (error.pointer, error.detail)
    }

    #[test]
    fn says_what_a_value_must_be_and_what_it_is() {
        let detail = |(_, detail): (String, String)| detail;
        assert_eq!(detail(error::<u32>("\"a\"")), "must be a whole number from 0 to 4294967295 (got \"a\")");
        assert_eq!(detail(error::<u8>("-1")), "must be a whole number from 0 to 255 (got -1)");
        assert_eq!(detail(error::<f64>("[]")), "must be a number (got a list)");
        assert_eq!(detail(error::<String>("1.5")), "must be a text (got 1.5)");
        assert_eq!(detail(error::<bool>("{}")), "must be true or false (got an object)");
        assert_eq!(detail(error::<Vec<u8>>("null")), "must be a list (got null)");
        assert_eq!(detail(error::<Body>("true")), "must be an object (got true)");
        assert_eq!(detail(error::<Uuid>("\"x\"")), "must be a UUID");
        assert_eq!(detail(error::<Uuid>("7")), "must be a UUID (got 7)");
        assert_eq!(detail(error::<[u8; 2]>("[1]")), "must be a list of 2 items (has 1 items)");
        assert_eq!(detail(error::<Kind>("\"three\"")), "must be `one` or `two` (got \"three\")");
        assert_eq!(
            field_error("", &"x".parse::<u32>().unwrap_err().to_string()).detail,
            "must be a whole number of at least 0"
        );
        assert_eq!(field_error("", &"".parse::<f32>().unwrap_err().to_string()).detail, "must be a number");
        assert_eq!(field_error("", "already plain").detail, "already plain");
    }

    #[test]
    fn points_at_missing_unknown_and_repeated_fields() {
        let of = |pointer: &str, detail: &str| (pointer.to_owned(), detail.to_owned());
        assert_eq!(error::<Body>("{}"), of("/x/name", "is missing"));
        assert_eq!(error::<Body>("{\"a/b\": 1}"), of("/x/a~1b", "unknown field: use `name`"));
        let repeated = serde_json::from_str::<Body>("{\"name\": \"a\", \"name\": \"b\"}").unwrap_err().to_string();
        let repeated = field_error("/x", &repeated);
        assert_eq!((repeated.pointer, repeated.detail), of("/x/name", "is given more than once"));
    }

    #[test]
    fn no_message_has_the_words_of_the_parsers() {
        let messages = [
            error::<u32>("\"a\"").1,
            error::<i64>("1.5").1,
            error::<Body>("[]").1,
            error::<Kind>("5").1,
            error::<Option<u32>>("\"\"").1,
            error::<Uuid>("\"00000000-0000-0000-0000-00000000000g\"").1,
        ];
        for message in messages {
            for word in
                ["u32", "i64", "struct", "enum", "variant", "parsing", "deserialize", "line 1", "string", "UUID string"]
            {
                assert!(!message.contains(word), "{message}");
            }
        }
    }
}
