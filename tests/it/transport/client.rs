//! A client of HTTP/1 or HTTP/2 on any stream.

use axum::http::{HeaderMap, Method, Request, Version};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Mutex,
};

use crate::support::{model, png};

/// A connection to a server.
#[derive(Clone)]
pub struct Client {
    sender: Sender,
    host: String,
}

#[derive(Clone)]
enum Sender {
    Http1(std::sync::Arc<Mutex<http1::SendRequest<Full<Bytes>>>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// A response, read whole.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub version: Version,
    pub headers: HeaderMap,
    pub bytes: Bytes,
}

impl Client {
    pub async fn http1(address: &str) -> Self {
        Self::http1_on(TcpStream::connect(address).await.unwrap(), address).await
    }

    pub async fn http2(address: &str) -> Self {
        Self::http2_on(TcpStream::connect(address).await.unwrap(), address).await
    }

    pub async fn http1_on(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, host: &str) -> Self {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { sender: Sender::Http1(std::sync::Arc::new(Mutex::new(sender))), host: host.to_owned() }
    }

    pub async fn http2_on(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, host: &str) -> Self {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { sender: Sender::Http2(sender), host: host.to_owned() }
    }

    /// A client that lets the server send so many bytes of each response before it reads them.
    pub async fn http2_with_window(address: &str, bytes: u32) -> Self {
        let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
        let mut builder = http2::Builder::new(TokioExecutor::new());
        let (sender, connection) = builder.initial_stream_window_size(bytes).handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Self { sender: Sender::Http2(sender), host: address.to_owned() }
    }

    pub async fn get(&mut self, path: &str) -> Reply {
        self.get_with(path, &[]).await
    }

    pub async fn get_with(&mut self, path: &str, headers: &[(&str, &str)]) -> Reply {
        self.try_send(Method::GET, path, headers, Vec::new()).await.unwrap()
    }

    /// An error if the connection has been closed.
    pub async fn try_get(&mut self, path: &str) -> Result<Reply, hyper::Error> {
        self.try_send(Method::GET, path, &[], Vec::new()).await
    }

    /// The body of a response, unread.
    pub async fn stream(&mut self, path: &str) -> Incoming {
        let response = self.response(Method::GET, path, &[], Vec::new()).await.unwrap();
        assert_eq!(response.status(), 200);
        response.into_body()
    }

    /// Uploads a model and makes it the champion.
    pub async fn promote(&mut self) {
        let binary = [("content-type", "application/octet-stream")];
        let model = self.try_send(Method::POST, "/v1/models", &binary, model::small(32, 1)).await.unwrap();
        let body = json!({"model_id": model.json()["id"]}).to_string().into_bytes();
        let json = [("content-type", "application/json")];
        let alias = self.try_send(Method::PUT, "/v1/models/aliases/champion", &json, body).await.unwrap();
        assert_eq!(alias.status, 200, "{alias:?}");
    }

    /// Predicts a drawn image.
    pub async fn predict(&mut self, shade: u8) -> Reply {
        let image = [("content-type", "image/png")];
        self.try_send(Method::POST, "/v1/predictions", &image, png(48, 48, shade)).await.unwrap()
    }

    async fn try_send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<Reply, hyper::Error> {
        let (head, body) = self.response(method, path, headers, body).await?.into_parts();
        let bytes = body.collect().await?.to_bytes();
        Ok(Reply { status: head.status.as_u16(), version: head.version, headers: head.headers, bytes })
    }

    async fn response(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<hyper::Response<Incoming>, hyper::Error> {
        let mut request = Request::builder().method(method);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = Full::new(Bytes::from(body));
        match &mut self.sender {
            Sender::Http1(sender) => {
                let request = request.uri(path).header("host", &self.host).body(body).unwrap();
                let mut sender = sender.lock().await;
                sender.ready().await?;
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                let request = request.uri(format!("http://{}{path}", self.host)).body(body).unwrap();
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }
}

impl Reply {
    /// Null if the body is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}
