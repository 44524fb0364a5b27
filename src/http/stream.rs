//! Responses that are produced while they are sent, through a bounded channel.
//!
//! The producer runs as a task, so that it, and what it holds, end when the client stops reading, in every version of HTTP. A response that
//! breaks off is an error of its body, on which the server aborts the connection: a client never takes a part for the whole.

use std::{io, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::{io::ReaderStream, task::TaskTracker};

/// Chunks that wait for the client.
const BUFFERED_CHUNKS: usize = 2;

/// Size of the pieces of a file, in bytes.
const FILE_CHUNK_BYTES: usize = 64 << 10;

enum Item {
    Chunk(Bytes),
    /// The last item of a response that is complete.
    End,
}

/// A body of these chunks. A client that takes none of them for `max_pause` is disconnected. `held` is dropped with the producer.
pub(super) fn body<E: std::fmt::Display + Send + 'static>(
    tasks: &TaskTracker,
    chunks: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
    max_pause: Duration,
    held: impl Send + 'static,
) -> Body {
    let (sender, receiver) = mpsc::channel(BUFFERED_CHUNKS);
    tasks.spawn(async move {
        tokio::select! {
            () = sender.closed() => {}
            () = send_all(chunks, &sender, max_pause) => {}
        }
        drop(held);
    });
    let next = |receiver: Option<mpsc::Receiver<Item>>| async move {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(Item::Chunk(chunk)) => Some((Ok(chunk), Some(receiver))),
            Some(Item::End) => None,
            None => Some((Err(io::Error::other("the response broke off")), None)),
        }
    };
    Body::from_stream(stream::unfold(Some(receiver), next))
}

/// The rest of a file, read piece by piece.
pub(super) fn file(tasks: &TaskTracker, file: std::fs::File, max_pause: Duration) -> Body {
    body(tasks, ReaderStream::with_capacity(tokio::fs::File::from_std(file), FILE_CHUNK_BYTES), max_pause, ())
}

async fn send_all<E: std::fmt::Display>(
    chunks: impl Stream<Item = Result<Bytes, E>>,
    sender: &mpsc::Sender<Item>,
    max_pause: Duration,
) {
    tokio::pin!(chunks);
    loop {
        let item = match chunks.next().await {
            Some(Ok(chunk)) => Item::Chunk(chunk),
            Some(Err(error)) => return tracing::error!(%error, "a response broke off"),
            None => Item::End,
        };
        let is_last = matches!(item, Item::End);
        match timeout(max_pause, sender.send(item)).await {
            Ok(Ok(())) if is_last => return,
            Ok(Ok(())) => {}
            // The client is gone.
            Ok(Err(_)) => return,
            Err(_) => return tracing::info!(?max_pause, "a response broke off: its client does not read"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const PAUSE: Duration = Duration::from_millis(50);

    fn chunks(count: usize) -> impl Stream<Item = Result<Bytes, &'static str>> + Send {
        stream::iter(0..count).map(|_| Ok(Bytes::from_static(b"chunk")))
    }

    #[tokio::test]
    async fn a_complete_response_ends_and_a_broken_one_is_an_error() {
        let tasks = TaskTracker::new();
        let whole = body(&tasks, chunks(10), PAUSE, ());
        assert_eq!(axum::body::to_bytes(whole, 1000).await.unwrap().len(), 50);
        let broken = body(&tasks, chunks(3).chain(stream::iter([Err("no such blob")])), PAUSE, ());
        let mut sent = broken.into_data_stream();
        for _ in 0..3 {
            assert_eq!(sent.next().await.unwrap().unwrap(), "chunk");
        }
        assert!(sent.next().await.unwrap().is_err() && sent.next().await.is_none());
    }

    #[tokio::test]
    async fn a_client_that_reads_nothing_frees_what_its_response_holds() {
        let tasks = TaskTracker::new();
        let held = Arc::new(());
        let unread = body(&tasks, chunks(100), PAUSE, Arc::clone(&held));
        tasks.close();
        tasks.wait().await;
        assert_eq!(Arc::strong_count(&held), 1);
        assert!(axum::body::to_bytes(unread, 1000).await.is_err(), "it is not taken for the whole");
        let dropped = body(&tasks, stream::pending::<Result<Bytes, &str>>(), PAUSE, Arc::clone(&held));
        drop(dropped);
        tasks.wait().await;
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
