//! Answers as newline-delimited JSON, each as soon as it is there.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::Body,
    http::header,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use tokio::{sync::mpsc, time::timeout};

use super::{
    answer::BatchItem,
    files::{Answered, Files},
};
use crate::http::{ApiError, AppState, answer::UNBUFFERED};

/// The media type of one JSON object a line.
pub(super) const NDJSON: &str = "application/x-ndjson";

/// Lines that may wait for a client that reads slowly.
const AHEAD: usize = 16;

/// A client that takes nothing for so long is let go of, with its places.
const PATIENCE: Duration = Duration::from_secs(30);

/// Begins to answer when the first image is done, so that what is wrong with the whole request still has a status of its own.
pub(super) async fn answer(state: &AppState, mut files: Files) -> Result<Response, ApiError> {
    let first = files.next().await.ok_or_else(super::no_file)??;
    let (lines, receiver) = mpsc::channel(AHEAD);
    state.tasks.spawn(feed(files, first, lines));
    let next = |mut receiver: mpsc::Receiver<Bytes>| async move {
        receiver.recv().await.map(|line| (Ok::<_, Infallible>(line), receiver))
    };
    let headers = [(header::CONTENT_TYPE, NDJSON)];
    Ok((headers, [UNBUFFERED], Body::from_stream(stream::unfold(receiver, next))).into_response())
}

/// Until all are answered, or the client is gone or takes nothing: then the rest is neither read nor computed.
async fn feed(files: Files, first: Answered, lines: mpsc::Sender<Bytes>) {
    tokio::select! {
        () = lines.closed() => {}
        () = pass_on(files, first, &lines) => {}
    }
}

async fn pass_on(mut files: Files, first: Answered, lines: &mpsc::Sender<Bytes>) {
    let mut next = Some(Ok(first));
    while let Some(answered) = next {
        let is_last = answered.is_err();
        let line = line(&answered.map_or_else(BatchItem::of_request, BatchItem::from));
        let Ok(Ok(())) = timeout(PATIENCE, lines.send(line)).await else { return };
        if is_last {
            return;
        }
        next = files.next().await;
    }
}

fn line(item: &BatchItem) -> Bytes {
    let mut line = serde_json::to_vec(item).expect("an answer has text for keys");
    line.push(b'\n');
    line.into()
}
