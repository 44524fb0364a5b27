//! Predictions as newline-delimited JSON, each sent as soon as it is finished.

use std::{convert::Infallible, time::Duration};

use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio_util::task::TaskTracker;

use super::{files::PredictionStream, response::BatchItem};
use crate::http::{ApiError, responses::UNBUFFERED, stream};

/// Media type of newline-delimited JSON.
pub(super) const NDJSON: &str = "application/x-ndjson";

/// Starts the response when the first image is finished, so that a failure of the request as a whole still has its own status. A client that
/// reads nothing for `max_pause` is disconnected, and its permits are freed; the rest is then neither read nor computed.
pub(super) async fn respond(
    tasks: &TaskTracker,
    max_pause: Duration,
    mut predictions: PredictionStream,
) -> Result<Response, ApiError> {
    let first = predictions.next().await.ok_or_else(super::no_file)??;
    let rest = futures_util::stream::unfold(Some(predictions), |predictions| async move {
        let mut predictions = predictions?;
        let result = predictions.next().await?;
        // The failure of the request is the last line.
        let following = if result.is_ok() { Some(predictions) } else { None };
        Some((result, following))
    });
    let results = futures_util::stream::iter([Ok(first)]).chain(rest);
    let lines =
        results.map(|result| Ok::<_, Infallible>(line(&result.map_or_else(BatchItem::of_request, BatchItem::from))));
    let headers = [(header::CONTENT_TYPE, NDJSON)];
    Ok((headers, [UNBUFFERED], stream::body(tasks, lines, max_pause, ())).into_response())
}

fn line(item: &BatchItem) -> Bytes {
    let mut line = serde_json::to_vec(item).expect("a prediction has text for keys");
    line.push(b'\n');
    line.into()
}
