//! Takes connections and answers on them, within bounds that hold for each.

use std::{io, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// What may be held of a connection's bytes before somebody reads them: of a body that waits for its place, with many clients, this is what
/// it costs. An eighth of what it would be.
const BUFFER: usize = 48 << 10;

/// How long a client may take for the head of a request, or stay away between two.
const HEAD: Duration = Duration::from_secs(75);

/// How long to wait when the system gives no connection, for want of file descriptors say.
const PAUSE: Duration = Duration::from_secs(1);

/// Answers until `drained`; then no new connections are taken, and those that are open end with their answers.
pub(super) async fn serve(listener: TcpListener, router: Router, drained: CancellationToken) {
    let open = GracefulShutdown::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => answer(stream, router.clone(), &open),
                Err(error) if is_of_the_client(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "no connection can be taken");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            () = drained.cancelled() => break,
        }
    }
    drop(listener);
    open.shutdown().await;
}

fn answer(stream: TcpStream, router: Router, open: &GracefulShutdown) {
    // Answers are small and whole: nothing is gained by waiting for more of them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection cannot be told to send at once");
    }
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let connection = open.watch(connection);
    tokio::spawn(async move {
        // What a client does wrong on its connection is its own: it hung up, or sent what is no HTTP.
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection ended");
        }
    });
}

/// The client went away before it was taken.
fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
