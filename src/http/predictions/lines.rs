//! Predictions as newline-delimited JSON, each sent as soon as it is finished.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::Body,
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use tokio::{sync::mpsc, time::timeout};
use tokio_util::task::TaskTracker;

use super::{
    files::{FileResult, PredictionStream},
    response::BatchItem,
};
use crate::http::{ApiError, responses::UNBUFFERED};

/// Media type of newline-delimited JSON.
pub(super) const NDJSON: &str = "application/x-ndjson";

/// Lines buffered for a slow client.
const BUFFERED_LINES: usize = 16;

/// A client that reads nothing for this long is disconnected, and its permits are freed.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// Starts the response when the first image is finished, so that a failure of the request as a whole still has its own status.
pub(super) async fn respond(tasks: &TaskTracker, mut predictions: PredictionStream) -> Result<Response, ApiError> {
    let first = predictions.next().await.ok_or_else(super::no_file)??;
    let (lines, receiver) = mpsc::channel(BUFFERED_LINES);
    tasks.spawn(feed(predictions, first, lines));
    let next = |mut receiver: mpsc::Receiver<Bytes>| async move {
        receiver.recv().await.map(|line| (Ok::<_, Infallible>(line), receiver))
    };
    let headers = [(header::CONTENT_TYPE, NDJSON)];
    Ok((headers, [UNBUFFERED], Body::from_stream(stream::unfold(receiver, next))).into_response())
}

/// Sends all results. Stops when the client is gone or reads nothing; the rest is then neither read nor computed.
async fn feed(predictions: PredictionStream, first: FileResult, lines: mpsc::Sender<Bytes>) {
    tokio::select! {
        () = lines.closed() => {}
        () = send_all(predictions, first, &lines) => {}
    }
}

async fn send_all(mut predictions: PredictionStream, first: FileResult, lines: &mpsc::Sender<Bytes>) {
    let mut next = Some(Ok(first));
    while let Some(result) = next {
        let is_last = result.is_err();
        let line = line(&result.map_or_else(BatchItem::of_request, BatchItem::from));
        let Ok(Ok(())) = timeout(SEND_TIMEOUT, lines.send(line)).await else { return };
        if is_last {
            return;
        }
        next = predictions.next().await;
    }
}

fn line(item: &BatchItem) -> Bytes {
    let mut line = serde_json::to_vec(item).expect("a prediction has text for keys");
    line.push(b'\n');
    line.into()
}
