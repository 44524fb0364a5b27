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

use crate::http::ClientAddress;

/// Maximum read buffer of a connection in bytes, an eighth of hyper's default. It is the memory cost of a request body that waits
/// for admission, which adds up with many clients.
const MAX_BUFFER_BYTES: usize = 48 << 10;

/// Timeout for reading a request head, which is also the keep-alive timeout between two requests.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(75);

/// Delay after a failed accept, for example for lack of file descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Serves connections until `drained` is cancelled. Then closes the listener and waits for in-flight requests.
pub(super) async fn serve(listener: TcpListener, router: Router, drained: CancellationToken) {
    let connections = GracefulShutdown::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => serve_connection(stream, peer, router.clone(), &connections),
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
    connections.shutdown().await;
}

fn serve_connection(stream: TcpStream, peer: SocketAddr, router: Router, connections: &GracefulShutdown) {
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
