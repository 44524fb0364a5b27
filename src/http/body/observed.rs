//! Bodies with an observer: the one wrapper for whatever acts while a body is read, at its end, or when it is dropped before.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::{Body, HttpBody};
use bytes::Bytes;
use futures_util::StreamExt;
use http_body::{Frame, SizeHint};
use tokio::{runtime::Handle, sync::Semaphore};
use tokio_util::sync::CancellationToken;

use super::BodyError;
use crate::http::{Pace, StallTimer};

/// Actions on a body. Each method does nothing unless it is implemented.
pub(in crate::http) trait BodyObserver: Send + Unpin + 'static {
    /// Called while the body has no data to read. An error ends the body.
    fn poll_overdue(&mut self, _context: &mut Context<'_>) -> Poll<BodyError> {
        Poll::Pending
    }

    /// Data were read. An error ends the body in their place.
    fn received(&mut self, _data: &Bytes) -> Result<(), axum::Error> {
        Ok(())
    }

    /// The body was read to its end, or failed.
    fn ended(&mut self, _is_complete: bool) {}

    /// The body was dropped before its end; `rest` was not read.
    fn abandoned(&mut self, _rest: Body) {}
}

/// A body with an observer.
struct Observed<O: BodyObserver> {
    body: Body,
    observer: O,
    ended: bool,
}

/// Adds an observer to a body.
pub(in crate::http) fn observed(body: Body, observer: impl BodyObserver) -> Body {
    Body::new(Observed { body, observer, ended: false })
}

impl<O: BodyObserver> HttpBody for Observed<O> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let polled = match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Pending => self.observer.poll_overdue(context).map(|error| Some(Err(axum::Error::new(error)))),
            ready => ready,
        };
        let polled = polled.map(|next| match next {
            Some(Ok(frame)) => {
                let received = frame.data_ref().map_or(Ok(()), |data| self.observer.received(data));
                Some(received.map(|()| frame))
            }
            last => last,
        });
        if let Poll::Ready(last @ (None | Some(Err(_)))) = &polled {
            self.ended = true;
            self.observer.ended(last.is_none());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<O: BodyObserver> Drop for Observed<O> {
    fn drop(&mut self) {
        if !self.ended && !self.body.is_end_stream() {
            self.observer.abandoned(std::mem::take(&mut self.body));
        }
    }
}

/// Keeps a value until the body ends or is dropped.
pub(in crate::http) struct Guard<T>(Option<T>);

impl<T> Guard<T> {
    pub(in crate::http) fn new(value: T) -> Self {
        Self(Some(value))
    }
}

impl<T: Send + Unpin + 'static> BodyObserver for Guard<T> {
    fn ended(&mut self, _is_complete: bool) {
        self.0 = None;
    }
}

/// Pace of a client whose request may hold one of the engine's permits while its body arrives.
const PERMIT_PACE: Pace =
    Pace { allowance: Duration::from_millis(500), min_bytes_per_second: 256 << 10, max_wait: Duration::MAX };

/// Ends a request body that does not arrive in time.
pub(in crate::http) struct Deadline {
    timer: StallTimer,
    permit_timer: StallTimer,
    slow: CancellationToken,
}

impl Deadline {
    /// Holds the client to `pace`, and to that of a shutdown once it has begun. Cancels `slow` as soon as the client is too slow for a
    /// permit of the engine.
    pub(in crate::http) fn new(pace: Pace, shutdown: CancellationToken, slow: CancellationToken) -> Self {
        let permit_timer = StallTimer::new(PERMIT_PACE, CancellationToken::new());
        Self { timer: StallTimer::new(pace, shutdown), permit_timer, slow }
    }
}

impl BodyObserver for Deadline {
    fn poll_overdue(&mut self, context: &mut Context<'_>) -> Poll<BodyError> {
        if !self.slow.is_cancelled() && self.permit_timer.poll_expired(context).is_ready() {
            self.slow.cancel();
        }
        let timer = &mut self.timer;
        timer.poll_expired(context).map(|()| if timer.is_hurried() { BodyError::Shutdown } else { BodyError::TooSlow })
    }

    fn received(&mut self, data: &Bytes) -> Result<(), axum::Error> {
        self.timer.progress(data.len());
        self.permit_timer.progress(data.len());
        Ok(())
    }
}

/// Maximum time for discarding the rest of a body after the response.
const MAX_DISCARD_TIME: Duration = Duration::from_secs(5);

/// Reads and discards the rest of a request body that is dropped (nginx: *lingering close*).
///
/// A server that responds early and closes the connection would reset it under a client that is still sending, and the client would
/// never read the response.
pub(in crate::http) struct Discard {
    max_bytes: usize,
    permits: Arc<Semaphore>,
}

impl Discard {
    /// Discards at most `max_bytes`, while holding one of `permits`.
    pub(in crate::http) fn new(max_bytes: usize, permits: Arc<Semaphore>) -> Self {
        Self { max_bytes, permits }
    }
}

impl BodyObserver for Discard {
    fn abandoned(&mut self, rest: Body) {
        let (max_bytes, permits) = (self.max_bytes, Arc::clone(&self.permits));
        let discard = async move {
            let _permit = permits.acquire().await;
            let (mut chunks, mut discarded) = (rest.into_data_stream(), 0);
            while let Some(Ok(chunk)) = chunks.next().await {
                discarded += chunk.len();
                if discarded > max_bytes {
                    break;
                }
            }
        };
        // The result does not matter: the response has been sent.
        let discard = async { drop(tokio::time::timeout(MAX_DISCARD_TIME, discard).await) };
        // Without a runtime the connection is closed, too.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(discard);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures_util::stream;

    use super::*;

    /// Events of a body.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<String>>>);

    impl Log {
        fn add(&self, entry: impl Into<String>) {
            self.0.lock().unwrap().push(entry.into());
        }

        fn entries(&self) -> Vec<String> {
            self.0.lock().unwrap().clone()
        }
    }

    impl BodyObserver for Log {
        fn received(&mut self, data: &Bytes) -> Result<(), axum::Error> {
            self.add(format!("{} bytes", data.len()));
            if data == "refused" { Err(axum::Error::new("refused")) } else { Ok(()) }
        }

        fn ended(&mut self, is_complete: bool) {
            self.add(if is_complete { "complete" } else { "failed" });
        }

        fn abandoned(&mut self, _rest: Body) {
            self.add("abandoned");
        }
    }

    fn body(chunks: Vec<Result<&'static str, &'static str>>) -> Body {
        Body::from_stream(stream::iter(chunks))
    }

    #[tokio::test]
    async fn an_observer_sees_data_and_end_and_what_was_not_read() {
        for (chunks, read, expected) in [
            (vec![Ok("ab"), Ok("c")], 3, vec!["2 bytes", "1 bytes", "complete"]),
            (vec![Ok("ab"), Err("broken")], 3, vec!["2 bytes", "failed"]),
            (vec![Ok("refused"), Ok("c")], 3, vec!["7 bytes", "failed"]),
            (vec![Ok("ab"), Ok("c")], 1, vec!["2 bytes", "abandoned"]),
        ] {
            let log = Log::default();
            let mut chunks = observed(body(chunks), log.clone()).into_data_stream();
            for _ in 0..read {
                drop(chunks.next().await);
            }
            drop(chunks);
            assert_eq!(log.entries(), expected);
        }
    }

    #[tokio::test]
    async fn a_body_that_does_not_arrive_ends_with_the_reason() {
        let pace =
            Pace { allowance: Duration::from_millis(600), min_bytes_per_second: 1 << 20, max_wait: Duration::MAX };
        let slow = CancellationToken::new();
        let stalled = stream::iter([Ok::<_, axum::Error>(Bytes::from_static(b"head"))]).chain(stream::pending());
        let deadline = Deadline::new(pace, CancellationToken::new(), slow.clone());
        let mut chunks = observed(Body::from_stream(stalled), deadline).into_data_stream();
        assert_eq!(chunks.next().await.unwrap().unwrap(), "head");
        assert!(!slow.is_cancelled());
        let error = chunks.next().await.unwrap().unwrap_err();
        assert_eq!(BodyError::of(&error), Some(BodyError::TooSlow));
        assert!(slow.is_cancelled(), "it lost its permit before");
        assert!(chunks.next().await.is_none());
    }

    #[tokio::test]
    async fn a_shutdown_ends_a_body_that_does_not_arrive() {
        let hour = Duration::from_secs(3600);
        let pace = Pace { allowance: hour, min_bytes_per_second: 1, max_wait: hour };
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        let deadline = Deadline::new(pace, shutdown, CancellationToken::new());
        let stalled = Body::from_stream(stream::pending::<Result<Bytes, axum::Error>>());
        let error = observed(stalled, deadline).into_data_stream().next().await.unwrap().unwrap_err();
        assert_eq!(BodyError::of(&error), Some(BodyError::Shutdown));
    }
}
