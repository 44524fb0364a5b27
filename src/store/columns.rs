//! Conversion between domain types and columns. A value that this version cannot read is an error.

use std::{fmt::Display, str::FromStr};

use jiff::Timestamp;
use serde::{Serialize, de::DeserializeOwned};
use sqlx::sqlite::SqliteQueryResult;

use super::StoreError;
use crate::domain::Sha256;

fn unreadable(column: &str, why: impl Display) -> StoreError {
    StoreError::Row(format!("{column}: {why}"))
}

/// A time as text, always with nine fractional digits, so that texts sort like times.
pub fn time(at: Timestamp) -> String {
    format!("{at:.9}")
}

/// A prefix that sorts after all identifiers (UUIDv7) of earlier times and before those of later ones.
pub fn first_id(at: Timestamp) -> String {
    let milliseconds = at.as_millisecond().max(0);
    format!("{:08x}-{:04x}", milliseconds >> 16, milliseconds & 0xffff)
}

/// Parses an identifier, a status, a split or a time.
pub fn parse<T>(column: &str, text: &str) -> Result<T, StoreError>
where
    T: FromStr<Err: Display>,
{
    text.parse().map_err(|why| unreadable(column, why))
}

/// [`parse`] for a nullable column.
pub fn parse_some<T>(column: &str, text: Option<&str>) -> Result<Option<T>, StoreError>
where
    T: FromStr<Err: Display>,
{
    text.map(|text| parse(column, text)).transpose()
}

/// Parses a hash.
pub fn hash(column: &str, text: String) -> Result<Sha256, StoreError> {
    Sha256::try_from(text).map_err(|why| unreadable(column, why))
}

/// Converts a count or a size, which SQLite stores as `i64`.
pub fn number<T>(column: &str, value: impl TryInto<T, Error: Display>) -> Result<T, StoreError> {
    value.try_into().map_err(|why| unreadable(column, why))
}

/// Converts a blob of a fixed length.
pub fn bytes<const N: usize>(column: &str, value: &[u8]) -> Result<[u8; N], StoreError> {
    value.try_into().map_err(|why| unreadable(column, why))
}

/// Parses a JSON column.
pub fn from_json<T: DeserializeOwned>(column: &str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|why| unreadable(column, why))
}

/// Text for a JSON column. Checks that it can be read back: JSON has no NaN, and serde writes null instead, which would make the row
/// unreadable.
pub fn to_json<T: Serialize + DeserializeOwned>(column: &str, value: &T) -> Result<String, StoreError> {
    let text = serde_json::to_string(value).map_err(|why| unreadable(column, why))?;
    from_json::<T>(column, &text).map(|_| text)
}

/// Fails with `Gone` if a statement changed no row.
pub fn must_exist(result: &SqliteQueryResult) -> Result<(), StoreError> {
    if result.rows_affected() == 0 { Err(StoreError::Gone) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{DatasetId, EpochScores, RunStatus, Split};

    #[test]
    fn an_unreadable_value_is_an_error_that_names_the_column() {
        let errors = [
            parse::<DatasetId>("datasets.id", "7").unwrap_err(),
            parse::<Split>("radiographs.split", "holdout").unwrap_err(),
            parse::<RunStatus>("runs.status", "sleeping").unwrap_err(),
            parse::<Timestamp>("runs.created_at", "yesterday").unwrap_err(),
            hash("models.sha256", "AB".repeat(32)).unwrap_err(),
            number::<u32>("radiographs.width", -1_i64).unwrap_err(),
            from_json::<Vec<u8>>("datasets.classes_json", "{}").unwrap_err(),
        ];
        for error in errors {
            assert!(matches!(&error, StoreError::Row(why) if why.contains('.') && why.contains(": ")), "{error}");
        }
    }

    #[test]
    fn texts_of_times_sort_like_the_times() {
        let whole: Timestamp = "2020-04-01T12:00:05Z".parse().unwrap();
        let later: Timestamp = "2020-04-01T12:00:05.5Z".parse().unwrap();
        assert!(time(whole) < time(later));
        assert_eq!(parse::<Timestamp>("t", &time(later)).unwrap(), later);
    }

    #[test]
    fn refuses_a_number_that_json_cannot_represent() {
        let scores = EpochScores { loss: f64::NAN, accuracy: 0.5, macro_f1: None };
        assert!(matches!(to_json("epochs.record_json", &scores), Err(StoreError::Row(_))));
    }
}
