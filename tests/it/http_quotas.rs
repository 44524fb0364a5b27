//! Rate limits and daily quotas of clients.

use std::{net::IpAddr, sync::Arc};

use axum::{
    body::{Body, Bytes},
    http::Request,
};
use serde_json::json;
use thorax::http::{ClientAddress, QuotaConfig, Quotas};

use crate::support::{Part, Server, TestResponse, multipart, png};

const KEY: &str = "a-key-of-the-tests";

async fn limited(key: Option<&str>, config: QuotaConfig) -> Server {
    Server::with(|state, _| {
        state.quotas = Quotas::new(config);
        state.access.admin_key = key.map(Arc::from);
    })
    .await
}

async fn send(server: &Server, request: axum::http::request::Builder, body: Body, address: &str) -> TestResponse {
    let mut request = request.header("authorization", format!("Bearer {KEY}")).body(body).unwrap();
    request.extensions_mut().insert(ClientAddress(address.parse::<IpAddr>().unwrap()));
    server.send(request).await
}

async fn get(server: &Server, path: &str, address: &str) -> TestResponse {
    send(server, Request::get(path), Body::empty(), address).await
}

#[tokio::test]
async fn requests_beyond_the_rate_of_an_address_get_429_with_the_time_to_wait() {
    for key in [None, Some(KEY)] {
        let config = QuotaConfig { requests_per_minute: Some(5), ..QuotaConfig::default() };
        let server = limited(key, config).await;
        for remaining in ["4", "3", "2", "1", "0"] {
            let response = get(&server, "/v1/datasets", "192.0.2.1").await;
            assert_eq!((response.status, response.header("ratelimit-limit")), (200, "5"));
            assert_eq!(response.header("ratelimit-remaining"), remaining);
            assert!((1..=60).contains(&response.header("ratelimit-reset").parse::<u32>().unwrap()));
        }
        for path in ["/v1/datasets", "/", "/v2", "/no-such-path"] {
            let refused = get(&server, path, "192.0.2.1").await;
            assert_eq!((refused.status, refused.header("ratelimit-remaining")), (429, "0"), "{path}");
            assert!((1..=12).contains(&refused.header("retry-after").parse::<u32>().unwrap()), "{refused:?}");
        }
        assert_eq!(get(&server, "/v1/datasets", "192.0.2.2").await.status, 200, "another address");
        for path in ["/health/live", "/metrics", "/v2/health/live"] {
            assert_eq!(get(&server, path, "192.0.2.1").await.status, 200, "{path}");
        }
        for host in 0..6u8 {
            let response = get(&server, "/v1/datasets", &format!("2001:db8:1:2::{host:x}")).await;
            assert_eq!(response.status, if host < 5 { 200 } else { 429 }, "one network");
        }
    }
}

#[tokio::test]
async fn a_key_has_one_rate_for_all_addresses() {
    let config =
        QuotaConfig { requests_per_minute: Some(100), key_requests_per_minute: Some(3), ..QuotaConfig::default() };
    let server = limited(Some(KEY), config).await;
    for host in 0..4 {
        let response = get(&server, "/v1/datasets", &format!("192.0.2.{host}")).await;
        assert_eq!((response.status, response.header("ratelimit-limit")), (if host < 3 { 200 } else { 429 }, "3"));
    }
    assert_eq!(get(&server, "/", "192.0.2.9").await.header("ratelimit-limit"), "100", "needs no key");
}

#[tokio::test]
async fn servers_without_limits_send_no_rate_limit_headers() {
    let server = limited(None, QuotaConfig { requests_per_minute: Some(0), ..QuotaConfig::default() }).await;
    for _ in 0..50 {
        let response = get(&server, "/v1/datasets", "192.0.2.1").await;
        assert_eq!((response.status, response.header("ratelimit-limit")), (200, ""));
    }
}

/// A form with one image, and its media type.
fn form() -> (String, Vec<u8>) {
    let image = png(48, 48, 1);
    multipart(&[Part::Text("label", "normal"), Part::File("a.png", &image)])
}

#[tokio::test]
async fn uploads_beyond_the_bytes_of_a_day_get_429_also_without_a_declared_length() {
    let (media_type, body) = form();
    let bytes = body.len() as u64;
    for (key, chunked) in [(None, false), (None, true), (Some(KEY), false), (Some(KEY), true)] {
        let config = QuotaConfig { upload_bytes_per_day: Some(2 * bytes + 100), ..QuotaConfig::default() };
        let server = limited(key, config).await;
        let new = Request::post("/v1/datasets").header("content-type", "application/json");
        let created = send(&server, new, Body::from(json!({ "name": "x" }).to_string()), "192.0.2.1").await;
        let path = format!("/v1/datasets/{}/radiographs", created.text("/id"));
        let upload = |address: &'static str| {
            let body = body.clone();
            let body = if chunked {
                let chunks: Vec<_> =
                    body.chunks(300).map(|chunk| Ok::<_, std::io::Error>(Bytes::copy_from_slice(chunk))).collect();
                Body::from_stream(futures_util::stream::iter(chunks))
            } else {
                Body::from(body)
            };
            send(&server, Request::post(&path).header("content-type", &media_type), body, address)
        };
        assert_eq!(upload("192.0.2.1").await.status, 201);
        assert_eq!(upload("192.0.2.1").await.status, 201);
        let refused = upload("192.0.2.1").await;
        assert_eq!(refused.status, 429, "{refused:?}");
        assert!(refused.text("/detail").contains("bytes a day"), "{refused:?}");
        assert!(refused.header("retry-after").parse::<u64>().unwrap() > 60, "{refused:?}");
        let other = upload("192.0.2.2").await.status;
        assert_eq!(other, if key.is_some() { 429 } else { 201 }, "by key, or by address without one");
        assert_eq!(get(&server, "/v1/datasets", "192.0.2.1").await.status, 200, "no body");
    }
}

#[tokio::test]
async fn archives_beyond_those_of_a_day_get_429() {
    let server = limited(None, QuotaConfig { archives_per_day: Some(1), ..QuotaConfig::default() }).await;
    let post = |address: &'static str| {
        let request = Request::post("/v1/prediction-jobs").header("content-type", "application/zip");
        send(&server, request, Body::from("no archive"), address)
    };
    let first = post("192.0.2.1").await;
    assert_ne!(first.status, 429, "{first:?}");
    let refused = post("192.0.2.1").await;
    assert!(refused.status == 429 && refused.text("/detail").contains("archives a day"), "{refused:?}");
    assert_ne!(post("192.0.2.2").await.status, 429);
}
