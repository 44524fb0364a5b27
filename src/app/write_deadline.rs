//! Connections whose writes fail once the client has stopped reading, so that nobody can hold a response, and what it takes to produce it,
//! by not reading it.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

use crate::http::{Pace, StallTimer};

/// A stream with a deadline on writes. Reads have none: the HTTP layer limits the time of heads and bodies.
pub(super) struct WriteDeadline<S> {
    stream: S,
    timer: StallTimer,
}

impl<S> WriteDeadline<S> {
    /// Holds the reader of `stream` to `pace`, and to a faster one once `shutdown` is cancelled.
    pub(super) fn new(stream: S, pace: Pace, shutdown: CancellationToken) -> Self {
        Self { stream, timer: StallTimer::new(pace, shutdown) }
    }

    fn checked<T>(&mut self, polled: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        match polled {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending if self.timer.poll_expired(context).is_ready() => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read its response")))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn written(&mut self, polled: Poll<io::Result<usize>>, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = polled {
            self.timer.progress(bytes);
        }
        self.checked(polled, context)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteDeadline<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(polled, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(polled, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.checked(polled, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(context);
        self.checked(polled, context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteDeadline<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    fn pace(allowance: Duration) -> Pace {
        Pace { allowance, min_bytes_per_second: 1024, max_wait: Duration::MAX }
    }

    #[tokio::test]
    async fn a_write_fails_once_the_client_reads_nothing() {
        let (server, mut client) = duplex(1000);
        let allowance = Duration::from_millis(50);
        let mut server = WriteDeadline::new(server, pace(allowance), CancellationToken::new());
        let began = tokio::time::Instant::now();
        let error = server.write_all(&[0; 2000]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= allowance);
        drop(server);
        let mut received = Vec::new();
        assert_eq!(client.read_to_end(&mut received).await.unwrap(), 1000);
    }

    #[tokio::test]
    async fn a_client_that_reads_gets_all_of_a_long_response() {
        let (server, mut client) = duplex(1000);
        let mut server = WriteDeadline::new(server, pace(Duration::from_secs(60)), CancellationToken::new());
        let reader = tokio::spawn(async move {
            let mut received = Vec::new();
            client.read_to_end(&mut received).await.unwrap()
        });
        server.write_all(&[0; 200_000]).await.unwrap();
        server.shutdown().await.unwrap();
        drop(server);
        assert_eq!(reader.await.unwrap(), 200_000);
    }
}
