//! Reads a JSON object field by field, so that one error names every wrong field and not only the first.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{Error, FieldError, plain_words::value_error};
use crate::domain::FieldReader;

/// A JSON object.
pub type JsonObject = Map<String, Value>;

/// The fields of an object that are not read yet.
pub struct Fields<'a> {
    at: String,
    left: JsonObject,
    errors: &'a mut Vec<FieldError>,
}

impl<'a> Fields<'a> {
    /// The fields of `object`, which is at the JSON pointer `at` of the request (`""` for the body itself).
    pub fn new(at: impl Into<String>, object: JsonObject, errors: &'a mut Vec<FieldError>) -> Self {
        Self { at: at.into(), left: object, errors }
    }

    /// Reads an optional field; null counts as absent.
    pub fn optional<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        let value = self.raw(name)?;
        let pointer = self.pointer(name);
        let read = serde_path_to_error::deserialize(value);
        read.map_err(|error| self.errors.push(value_error(&pointer, &error))).ok()
    }

    /// Reads a required field.
    pub fn required<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        if self.left.get(name).is_none_or(Value::is_null) {
            self.left.remove(name);
            self.refuse(name, "is missing");
            return None;
        }
        self.optional(name)
    }

    /// Reads a required text of 1 to `max` characters.
    pub fn required_text(&mut self, name: &str, max: usize) -> Option<String> {
        let text = self.required(name)?;
        self.bounded(name, text, max)
    }

    /// Reads an optional text of 1 to `max` characters.
    pub fn optional_text(&mut self, name: &str, max: usize) -> Option<String> {
        let text = self.optional(name)?;
        self.bounded(name, text, max)
    }

    fn bounded(&mut self, name: &str, text: String, max: usize) -> Option<String> {
        let text = text.trim();
        let ok = !text.is_empty() && text.chars().count() <= max;
        self.check(ok, name, &format!("must be 1 to {max} characters"));
        ok.then(|| text.to_owned())
    }

    /// Reads an object field by field.
    pub fn object(&mut self, name: &str) -> Option<Fields<'_>> {
        let object = self.optional::<JsonObject>(name)?;
        Some(Fields::new(self.pointer(name), object, self.errors))
    }

    /// Reads an optional array of objects, each with `read`.
    pub fn objects<T>(&mut self, name: &str, read: impl Fn(&mut Fields) -> T) -> Option<Vec<T>> {
        let items = self.optional::<Vec<Value>>(name)?;
        let at = self.pointer(name);
        let mut read_items = Vec::with_capacity(items.len());
        for (i, item) in items.into_iter().enumerate() {
            let pointer = format!("{at}/{i}");
            read_items.push(match item {
                Value::Object(object) => {
                    let mut fields = Fields::new(pointer, object, self.errors);
                    let value = read(&mut fields);
                    fields.finish();
                    value
                }
                _ => {
                    self.errors.push(FieldError::new(pointer, "must be an object"));
                    // A placeholder keeps the positions of the others; its missing fields are not reported.
                    read(&mut Fields::new("", JsonObject::new(), &mut Vec::new()))
                }
            });
        }
        Some(read_items)
    }

    /// Reports a wrong field unless `ok`.
    pub fn check(&mut self, ok: bool, name: &str, detail: &str) {
        if !ok {
            self.refuse(name, detail);
        }
    }

    /// Refuses the fields that were not read.
    pub fn finish(self) {
        for name in self.left.keys() {
            let escaped = name.replace('~', "~0").replace('/', "~1");
            let pointer = format!("{}/{escaped}", self.at);
            self.errors.push(FieldError::new(pointer, "unknown field"));
        }
    }

    fn raw(&mut self, name: &str) -> Option<Value> {
        self.left.remove(name).filter(|value| !value.is_null())
    }

    fn refuse(&mut self, name: &str, detail: impl Into<String>) {
        let pointer = self.pointer(name);
        self.errors.push(FieldError::new(pointer, detail));
    }

    fn pointer(&self, name: &str) -> String {
        format!("{}/{name}", self.at)
    }
}

impl FieldReader for Fields<'_> {
    fn read<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        self.optional(name)
    }
}

/// The value, or [`Error::Invalid`] with every wrong field.
pub fn into_result<T>(read: Option<T>, errors: Vec<FieldError>) -> Result<T, Error> {
    match read {
        Some(value) if errors.is_empty() => Ok(value),
        _ => Err(Error::Invalid(errors)),
    }
}
