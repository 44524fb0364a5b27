//! The files of a form, one after the other: one image is in memory at a time.

use super::{
    answer::{BatchItem, Predicted, PredictionAnswer, PredictionBatch},
    classify::{Wanted, classify},
};
use crate::http::{ApiError, AppState, extract::Form};

/// The outcome for one file.
type Outcome = (Option<String>, Result<PredictionAnswer, ApiError>);

/// Classifies each `file`. A form with one answers (or fails) as a raw body does.
pub(super) async fn classify_all(
    state: &AppState,
    wanted: &Wanted,
    Form(mut form): Form,
) -> Result<Predicted, ApiError> {
    let mut outcomes: Vec<Outcome> = Vec::new();
    while let Some(field) = form.next_field().await? {
        if field.name() != Some("file") {
            let name = field.name().unwrap_or_default();
            return Err(ApiError::invalid(&format!("/{name}"), "the form takes `file` alone, once or repeated"));
        }
        let file_name = field.file_name().map(str::to_owned);
        let bytes = field.bytes().await?;
        outcomes.push((file_name, classify(state, wanted, bytes).await));
    }
    match outcomes.len() {
        0 => Err(ApiError::invalid("/file", "send at least one file")),
        1 => outcomes.remove(0).1.map(|answer| Predicted::One(Box::new(answer))),
        _ => Ok(Predicted::Many(PredictionBatch { items: outcomes.into_iter().map(item).collect() })),
    }
}

fn item((file_name, outcome): Outcome) -> BatchItem {
    match outcome {
        Ok(answer) => BatchItem { file_name, prediction: Some(answer), problem: None },
        Err(error) => BatchItem { file_name, prediction: None, problem: Some(error.into_problem("/v1/predictions")) },
    }
}
