//! Accept loop: serves HTTP/1 on each connection, with limits per connection.

use std::{io, net::SocketAddr, time::Duration};

use axum::{Router, http::Request};
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::write_deadline::WriteDeadline;
use crate::http::{ClientAddress, Pace};

/// Maximum read buffer of a connection in bytes, an eighth of hyper's default. It is the memory cost of a request body that waits
/// for admission, which adds up with many clients.
const MAX_BUFFER_BYTES: usize = 48 << 10;

/// Timeout for reading a request head, which is also the keep-alive timeout between two requests.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(75);

/// Maximum time for closing connections whose requests have ended.
const MAX_CLOSE_TIME: Duration = Duration::from_secs(2);

/// Delay after a failed accept, for example for lack of file descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Limits of the connections of a server.
#[derive(Clone)]
pub(super) struct ConnectionLimits {
    /// Pace at which clients must read responses.
    pub(super) read_pace: Pace,
    /// Cancelled when the server shuts down: then clients must read faster.
    pub(super) shutdown: CancellationToken,
}

/// Serves connections until `drained` is cancelled, when no request is in flight any more. Then closes the listener and the connections.
pub(super) async fn serve(listener: TcpListener, router: Router, limits: ConnectionLimits, drained: CancellationToken) {
    let connections = GracefulShutdown::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => serve_connection(stream, peer, router.clone(), &limits, &connections),
                Err(error) if is_client_error(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                }
            },
            () = drained.cancelled() => break,
        }
    }
    drop(listener);
    // A connection that has sent the beginning of a head would hold the shutdown until the timeout of heads.
    if tokio::time::timeout(MAX_CLOSE_TIME, connections.shutdown()).await.is_err() {
        tracing::debug!("closed connections that did not end");
    }
}

fn serve_connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    limits: &ConnectionLimits,
    connections: &GracefulShutdown,
) {
    // Responses are small and written at once, so Nagle's algorithm would only delay them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    // An IPv4 client of an IPv6 socket counts as that IPv4 client.
    let client = ClientAddress(peer.ip().to_canonical());
    let service = router.map_request(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(client);
        request
    });
    let stream = WriteDeadline::new(stream, limits.read_pace, limits.shutdown.clone());
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT)
        .max_buf_size(MAX_BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    let connection = connections.watch(connection);
    tokio::spawn(async move {
        // Client errors, such as a closed connection or invalid HTTP, are of no interest to the operator.
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection failed");
        }
    });
}

/// True if the client closed the connection before it was accepted.
fn is_client_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
