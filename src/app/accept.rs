//! Accept loop: serves HTTP/1 and HTTP/2, with or without TLS, on each connection, with limits per connection.

use std::{convert::Infallible, io, net::IpAddr, pin::pin, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, Version, header},
    response::Response,
};
use futures_util::FutureExt;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use super::{
    connections::{Connection, Connections, Limits, MAX_CLOSE_TIME, MAX_SEND_BUFFER_BYTES, Registration},
    listener::{Listener, Stream},
    tracked::{TrackedBody, TrackedStream},
    write_deadline::WriteDeadline,
};
use crate::{
    http::{Refusal, TrustedProxies},
    metrics::Connections as Measured,
};

/// Maximum read buffer of a connection in bytes, an eighth of hyper's default. It is the memory cost of a request body that waits
/// for admission, which adds up with many clients. A head beyond it is refused by the protocol, with an empty response.
pub(super) const MAX_BUFFER_BYTES: usize = 48 << 10;

/// Maximum number of concurrent requests of an HTTP/2 connection.
const MAX_STREAMS: u32 = 32;

/// Bytes that an HTTP/2 client may send before the server takes them, for a request and for the connection.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 512 << 10;

/// Maximum number of requests that an HTTP/2 client may cancel before the server gets to them ("rapid reset"), and for which the server may
/// report an error, before its connection is closed.
const MAX_PENDING_RESETS: usize = 20;
const MAX_ERROR_RESETS: usize = 64;

/// Interval of the pings of HTTP/2, and the time for their responses, which find clients that have vanished.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Delay after a failed accept, for example for lack of file descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// All that a connection is served with.
pub(super) struct Service {
    pub(super) router: Router,
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) proxies: TrustedProxies,
    pub(super) limits: Limits,
    pub(super) max_head_bytes: usize,
    pub(super) measured: Measured,
    /// Cancelled when the server shuts down: then clients must read faster, and find another server.
    pub(super) shutdown: CancellationToken,
}

/// Serves connections until `drained` is cancelled, when no request is in flight any more. Then closes the listener and the connections.
pub(super) async fn serve(listener: Listener, service: Service, drained: CancellationToken) {
    let connections = Connections::new(service.limits, service.measured.clone());
    let checks = tokio::spawn(Arc::clone(&connections).check_periodically());
    let (service, tasks) = (Arc::new(service), TaskTracker::new());
    let mut is_failing = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drained.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                is_failing = false;
                let is_exempt = peer.is_none_or(|address| address.is_loopback()) || service.proxies.include(peer);
                // Dropping the stream closes it.
                let Some(registration) = connections.register(peer, is_exempt).await else { continue };
                let (service, drained) = (Arc::clone(&service), drained.clone());
                tasks.spawn(async move {
                    match stream {
                        Stream::Tcp(stream) => serve_connection(stream, peer, &registration, &service, drained).await,
                        Stream::Unix(stream) => serve_connection(stream, peer, &registration, &service, drained).await,
                    }
                });
            }
            Err(error) if is_client_error(&error) => {}
            Err(error) => {
                if !is_failing {
                    tracing::error!(%error, "accept failed");
                }
                is_failing = true;
                connections.evict_idle();
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
    drop(listener);
    tasks.close();
    // A connection that has sent the beginning of a head would hold the shutdown until the timeout of heads.
    if tokio::time::timeout(MAX_CLOSE_TIME, tasks.wait()).await.is_err() {
        tracing::debug!("closed connections that did not end");
    }
    checks.abort();
}

async fn serve_connection<S>(
    stream: S,
    peer: Option<IpAddr>,
    registration: &Registration,
    service: &Service,
    drained: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = registration.connection();
    let stream = WriteDeadline::new(stream, service.limits.read_pace, service.shutdown.clone());
    let Some(tls) = &service.tls else { return serve_http(stream, peer, connection, service, drained).await };
    let handshake = tokio::select! {
        handshake = tls.accept(stream) => handshake,
        () = connection.finishing() => return,
    };
    match handshake {
        Ok(stream) => serve_http(stream, peer, connection, service, drained).await,
        Err(error) => {
            service.measured.handshake_failed();
            tracing::debug!(%error, client = peer.map(tracing::field::display), "TLS handshake failed");
        }
    }
}

async fn serve_http<S>(
    stream: S,
    peer: Option<IpAddr>,
    connection: &Arc<Connection>,
    service: &Service,
    drained: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let protocol = protocol(&service.limits);
    let stream = TokioIo::new(TrackedStream::new(stream, Arc::clone(connection)));
    let handler = hyper::service::service_fn(|request| handle(request, peer, connection, service));
    let mut http = pin!(protocol.serve_connection(stream, handler));
    let mut is_finishing = false;
    let result = loop {
        tokio::select! {
            result = http.as_mut() => break result,
            () = connection.aborted() => return,
            () = drained.cancelled(), if !is_finishing => {
                is_finishing = true;
                connection.finish();
                http.as_mut().graceful_shutdown();
            }
            () = connection.finishing(), if !is_finishing => {
                is_finishing = true;
                http.as_mut().graceful_shutdown();
                if connection.is_evicted() {
                    // Sends what ends the connection in order, and does not wait for the client.
                    match http.as_mut().now_or_never() {
                        Some(result) => break result,
                        None if connection.is_idle() => return,
                        None => {}
                    }
                }
            }
        }
    };
    // Client errors, such as a closed connection or invalid HTTP, are of no interest to the operator.
    if let Err(error) = result {
        tracing::debug!(error, "connection failed");
    }
}

/// HTTP/1, or HTTP/2 if the client begins with its preface: with TLS it does so after ALPN, without TLS by prior knowledge.
fn protocol(limits: &Limits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // Also the time between two requests. That of heads, which is shorter, is a deadline of the connection.
        .header_read_timeout(limits.keep_alive + MAX_CLOSE_TIME)
        .max_buf_size(MAX_BUFFER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_BUFFER_BYTES as u32)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(MAX_SEND_BUFFER_BYTES)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_ERROR_RESETS)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

fn handle(
    request: Request<Incoming>,
    peer: Option<IpAddr>,
    connection: &Arc<Connection>,
    service: &Service,
) -> impl Future<Output = Result<Response, Infallible>> + Send + use<> {
    let is_http2 = request.version() == Version::HTTP_2;
    let in_flight = connection.begin(is_http2);
    // An evicted connection may have a request in its buffers. It must not stay open for it.
    let is_excess = connection.is_reserved() || connection.is_evicted();
    let mut request = request.map(Body::new);
    let head_bytes = request.uri().to_string().len() + size(request.headers());
    service.proxies.resolve(peer, &mut request);
    if head_bytes > service.max_head_bytes {
        let max_bytes = service.max_head_bytes;
        request.extensions_mut().insert(Refusal::HeadTooLarge { max_bytes });
    } else if is_excess {
        request.extensions_mut().insert(Refusal::TooManyConnections);
    }
    // During a shutdown the response of HTTP/1 closes the connection. A graceful shutdown would close it at once where the response has been
    // written already, under a client that is still sending a body that the server discards. Reserved connections are too few for that.
    if is_excess || is_http2 && service.shutdown.is_cancelled() {
        connection.finish();
    }
    let closes = is_excess && !is_http2;
    let response = service.router.clone().oneshot(request);
    async move {
        let mut response = response.await?;
        if closes {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response.map(|body| Body::new(TrackedBody::new(body, in_flight))))
    }
}

/// Size of header fields in the form of HTTP/1.
fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len()).sum()
}

/// True if the client closed the connection before it was accepted.
fn is_client_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
