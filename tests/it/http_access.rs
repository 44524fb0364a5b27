//! Access to the server: the names under which it is reached, pages of other origins, API keys.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::Arc,
};

use axum::{body::Body, http::Request};
use serde_json::json;
use thorax::http::{ClientAddress, Site};

use crate::{
    process::{PATIENCE, Running},
    support::{Server, TestResponse},
};

const KEY: &str = "a-key-of-the-tests";
const LISTEN: &str = "127.0.0.1:8080";

/// A server with these names and origins.
async fn site(key: Option<&str>, hosts: &[&str], origins: &[&str]) -> Server {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let site = Site::new(Some(LISTEN.parse::<SocketAddr>().unwrap()), key.is_some(), &owned(hosts), &owned(origins));
    Server::with(|state, _| {
        state.site = site;
        state.access.admin_key = key.map(Arc::from);
    })
    .await
}

async fn send(server: &Server, method: &str, path: &str, headers: &[(&str, &str)]) -> TestResponse {
    let mut request = Request::builder().method(method).uri(path).header("authorization", format!("Bearer {KEY}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = if method == "POST" { json!({ "name": "from-a-page" }).to_string() } else { String::new() };
    server.send(request.header("content-type", "application/json").body(Body::from(body)).unwrap()).await
}

#[tokio::test]
async fn without_a_key_the_host_must_be_the_listen_address_localhost_or_a_listed_name() {
    let server = site(None, &["thorax.lan", "tunnel:9000"], &[]).await;
    for host in [LISTEN, "localhost:8080", "LocalHost:8080", "thorax.lan", "THORAX.lan:1234", "tunnel:9000"] {
        assert_eq!(send(&server, "GET", "/v1/datasets", &[("host", host)]).await.status, 200, "{host}");
    }
    let foreign = [
        "rebound.example",
        "rebound.example:8080",
        "localhost",
        "localhost:9000",
        "127.0.0.1",
        "127.0.0.1:80",
        "192.0.2.1:8080",
        "tunnel",
        "tunnel:9001",
        "thorax.lan.rebound.example",
        "localhost.:8080",
    ];
    for host in foreign {
        for path in ["/v1/datasets", "/", "/openapi.json", "/metrics", "/v2", "/no-such-path"] {
            let refused = send(&server, "GET", path, &[("host", host)]).await;
            assert_eq!(refused.status, 403, "{host} {path}");
            assert!(String::from_utf8_lossy(&refused.bytes).contains("THORAX_HOSTS"), "{refused:?}");
        }
        assert_eq!(send(&server, "POST", "/v1/datasets", &[("host", host)]).await.status, 403, "{host}");
    }
    assert_eq!(server.get("/v1/datasets").await.at("/items"), json!([]));
}

#[tokio::test]
async fn with_a_key_hosts_are_checked_only_against_a_list() {
    let any = site(Some(KEY), &[], &[]).await;
    let listed = site(Some(KEY), &["thorax.lan"], &[]).await;
    for (host, allowed) in [
        ("thorax.lan", true),
        ("thorax.lan:8443", true),
        (LISTEN, true),
        ("10.1.2.3:8080", true),
        ("[2001:db8::1]:8080", true),
        ("rebound.example", false),
        ("10.1.2.3.rebound.example", false),
    ] {
        assert_eq!(send(&any, "GET", "/v1/datasets", &[("host", host)]).await.status, 200, "{host}");
        let expected = if allowed { 200 } else { 403 };
        assert_eq!(send(&listed, "GET", "/v1/datasets", &[("host", host)]).await.status, expected, "{host}");
    }
}

#[tokio::test]
async fn a_missing_duplicate_or_malformed_host_is_400() {
    let server = site(Some(KEY), &[], &[]).await;
    for host in ["", "a b", "user@thorax.lan", "thorax.lan:", "thorax.lan:x", "thorax.lan:99999", "a,b", "a/b"] {
        let refused = send(&server, "GET", "/v1/datasets", &[("host", host)]).await;
        assert_eq!(refused.status, 400, "{host:?}");
        assert!(refused.text("/detail").contains("Host"), "{refused:?}");
    }
    assert_eq!(send(&server, "GET", "/v1/datasets", &[("host", LISTEN), ("host", LISTEN)]).await.status, 400);
    let absolute = |host: &str| {
        Request::get("http://a.example/v1/datasets")
            .header("host", host)
            .header("authorization", format!("Bearer {KEY}"))
    };
    assert_eq!(server.send(absolute("b.example").body(Body::empty()).unwrap()).await.status, 400);
    assert_eq!(server.send(absolute("a.example").body(Body::empty()).unwrap()).await.status, 200);
}

#[tokio::test]
async fn pages_of_other_origins_change_nothing_and_may_only_link_to_the_server() {
    for key in [None, Some(KEY)] {
        let server = site(key, &["public.example"], &["http://viewer.example:3000"]).await;
        let foreign: [&[(&str, &str)]; 9] = [
            &[("origin", "http://evil.example")],
            &[("origin", "http://127.0.0.1:9000"), ("sec-fetch-site", "same-site")],
            &[("origin", "null")],
            &[("origin", "")],
            &[("origin", "https://viewer.example:3000")],
            &[("origin", "http://viewer.example")],
            &[("origin", "http://127.0.0.1:8080"), ("origin", "http://evil.example")],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site")],
        ];
        for headers in foreign {
            for (method, path) in [
                ("POST", "/v1/datasets"),
                ("DELETE", "/v1/datasets/x"),
                ("POST", "/v2/repository/index"),
                ("GET", "/v1/datasets"),
            ] {
                let refused = send(&server, method, path, headers).await;
                assert_eq!(refused.status, 403, "{method} {path} {headers:?}");
                assert!(String::from_utf8_lossy(&refused.bytes).contains("THORAX_CORS_ORIGINS"), "{refused:?}");
            }
        }
        let navigation = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")];
        assert_eq!(send(&server, "GET", "/", &navigation).await.status, 200, "a link");
        assert_eq!(send(&server, "POST", "/v1/datasets", &navigation).await.status, 403, "a form");
        assert_eq!(send(&server, "GET", "/v1/datasets", &[]).await.at("/items"), json!([]));
        let own: [&[(&str, &str)]; 6] = [
            &[],
            &[("origin", "http://127.0.0.1:8080"), ("sec-fetch-site", "same-origin")],
            &[("origin", "https://public.example"), ("sec-fetch-site", "same-site")],
            &[("origin", "http://viewer.example:3000"), ("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-origin")],
            &[("sec-fetch-site", "none")],
        ];
        for (number, headers) in own.into_iter().enumerate() {
            let mut request = Request::post("/v1/datasets").header("authorization", format!("Bearer {KEY}"));
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            let body = json!({ "name": format!("own-{number}") }).to_string();
            let request = request.header("content-type", "application/json").body(Body::from(body)).unwrap();
            assert_eq!(server.send(request).await.status, 201, "{headers:?}");
        }
    }
}

#[tokio::test]
async fn pages_of_listed_origins_read_responses_and_errors_and_other_pages_do_not() {
    let server = site(Some(KEY), &[], &["https://viewer.example"]).await;
    let preflight = |origin: &'static str| {
        let request = Request::builder().method("OPTIONS").uri("/v1/predictions").header("origin", origin);
        let request = request.header("access-control-request-method", "POST");
        server.send(request.header("access-control-request-headers", "authorization").body(Body::empty()).unwrap())
    };
    let allowed = preflight("https://viewer.example").await;
    assert_eq!((allowed.status, allowed.header("access-control-allow-origin")), (200, "https://viewer.example"));
    assert!(allowed.header("access-control-allow-methods").contains("POST"), "{allowed:?}");
    assert!(allowed.header("access-control-allow-headers").contains("authorization"), "{allowed:?}");
    assert_eq!(preflight("https://evil.example").await.header("access-control-allow-origin"), "");
    let origin = [("origin", "https://viewer.example")];
    for (path, status) in [("/v1/datasets", 200), ("/v1/datasets/x", 404), ("/v1/datasets?limit=0", 400)] {
        let read = send(&server, "GET", path, &origin).await;
        assert_eq!((read.status, read.header("access-control-allow-origin")), (status, "https://viewer.example"));
        let exposed = read.header("access-control-expose-headers");
        for name in ["x-request-id", "location", "retry-after", "ratelimit-remaining", "www-authenticate"] {
            assert!(exposed.contains(name), "{name}: {exposed}");
        }
        assert_eq!(read.header("access-control-allow-credentials"), "");
        assert!(read.header("vary").contains("origin"), "{read:?}");
    }
    let unauthorized = Request::get("/v1/datasets").header("origin", "https://viewer.example").body(Body::empty());
    let unauthorized = server.send(unauthorized.unwrap()).await;
    assert_eq!(
        (unauthorized.status, unauthorized.header("access-control-allow-origin")),
        (401, "https://viewer.example")
    );
    let without = site(Some(KEY), &[], &[]).await;
    assert_eq!(send(&without, "GET", "/v1/datasets", &[]).await.header("access-control-allow-origin"), "");
}

async fn with_key(server: &Server, authorization: &str, address: [u8; 4]) -> TestResponse {
    let mut request = Request::get("/v1/datasets");
    if !authorization.is_empty() {
        request = request.header("authorization", authorization);
    }
    let mut request = request.body(Body::empty()).unwrap();
    request.extensions_mut().insert(ClientAddress(IpAddr::from(address)));
    server.send(request).await
}

#[tokio::test]
async fn the_scheme_of_the_key_is_case_insensitive_and_401_names_it() {
    let server = site(Some(KEY), &[], &[]).await;
    for scheme in ["Bearer", "bearer", "BEARER"] {
        assert_eq!(with_key(&server, &format!("{scheme} {KEY}"), [192, 0, 2, 1]).await.status, 200, "{scheme}");
    }
    for wrong in ["", "Bearer wrong", KEY, &format!("Basic {KEY}"), &format!("Bearer {KEY}x")] {
        let refused = with_key(&server, wrong, [192, 0, 2, 2]).await;
        assert_eq!((refused.status, refused.header("www-authenticate")), (401, "Bearer realm=\"thorax\""), "{wrong}");
    }
}

#[tokio::test]
async fn an_address_that_guesses_keys_is_blocked_and_others_are_not() {
    let server = site(Some(KEY), &[], &[]).await;
    let mut guesses = 0;
    let blocked = loop {
        let refused = with_key(&server, &format!("Bearer guess-{guesses}"), [192, 0, 2, 3]).await;
        guesses += 1;
        assert!(guesses < 1000, "never blocked");
        if refused.status != 401 {
            break refused;
        }
    };
    assert!(guesses <= 20, "{guesses} guesses");
    assert_eq!(blocked.status, 429);
    assert!(blocked.header("retry-after").parse::<u64>().unwrap() > 0);
    assert!(blocked.text("/detail").contains("wrong API keys"), "{blocked:?}");
    // The right key would be found by its response.
    assert_eq!(with_key(&server, &format!("Bearer {KEY}"), [192, 0, 2, 3]).await.status, 429);
    assert_eq!(with_key(&server, &format!("Bearer {KEY}"), [192, 0, 2, 4]).await.status, 200, "another address");
    assert_eq!(with_key(&server, "", [192, 0, 2, 3]).await.status, 401, "no guess");
}

/// Status of a response to raw bytes.
fn raw(server: &Running, request: &str) -> u16 {
    let mut stream = TcpStream::connect(&server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn the_program_checks_hosts_and_logs_the_addresses_of_wrong_keys_without_the_keys() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Running::start(folder.path(), &[]);
    let port = server.address.rsplit_once(':').unwrap().1.to_owned();
    let get = |host: &str| format!("GET /v1/datasets HTTP/1.1\r\n{host}connection: close\r\n\r\n");
    assert_eq!(raw(&server, &get(&format!("host: localhost:{port}\r\n"))), 200);
    assert_eq!(raw(&server, &get(&format!("host: 127.0.0.1:{port}\r\n"))), 200);
    assert_eq!(raw(&server, &get(&format!("host: rebound.example:{port}\r\n"))), 403);
    assert_eq!(raw(&server, &get("")), 400);
    assert_eq!(raw(&server, &get(&format!("host: localhost:{port}\r\nhost: localhost:{port}\r\n"))), 400);
    assert!(server.end("-TERM").success());
    let mut server = Running::start(folder.path(), &[("THORAX_ADMIN_KEY", KEY), ("THORAX_HOSTS", "thorax.lan")]);
    let guess = "host: thorax.lan\r\nauthorization: Bearer guessed-secret\r\n";
    assert_eq!(raw(&server, &get(guess)), 401);
    assert_eq!(raw(&server, &get("host: rebound.example\r\n")), 403);
    assert_eq!(raw(&server, "GET /health/live HTTP/1.1\r\nconnection: close\r\n\r\n"), 400);
    assert!(server.end("-TERM").success());
    let log = server.standard_error();
    assert!(log.contains("wrong API key") && log.contains("127.0.0.1"), "{log}");
    assert!(!log.contains("guessed-secret"), "{log}");
}

#[test]
fn invalid_hosts_and_wildcard_origins_are_refused_at_start() {
    let folder = tempfile::tempdir().unwrap();
    for (variable, value, words) in [
        ("THORAX_CORS_ORIGINS", "*", "wildcard"),
        ("THORAX_CORS_ORIGINS", "https://a.example,https://*.example", "wildcard"),
        ("THORAX_CORS_ORIGINS", "a.example", "must be a scheme"),
        ("THORAX_HOSTS", "http://a.example", "host name"),
    ] {
        let mut command = crate::process::thorax(folder.path());
        let output = command.env(variable, value).args(["serve", "--listen", "127.0.0.1:0"]).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && error.contains(words), "{value}: {error}");
    }
}

#[tokio::test]
async fn every_response_has_strict_headers_and_results_are_not_cached() {
    let server = site(None, &[], &[]).await;
    for path in ["/", "/v1/datasets", "/v1/datasets/x", "/docs/", "/openapi.json", "/health/live"] {
        let response = server.get(path).await;
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("cross-origin-resource-policy", "same-origin"),
            ("cross-origin-opener-policy", "same-origin"),
        ] {
            assert_eq!(response.header(name), value, "{path}");
        }
        assert!(response.header("content-security-policy").contains("default-src 'self'"), "{path}");
        let expected = if path == "/" { "no-cache" } else { "no-store" };
        assert_eq!(response.header("cache-control"), expected, "{path}");
    }
    let initializer = server.get("/docs/swagger-initializer.js").await;
    let text = String::from_utf8(initializer.bytes).unwrap();
    assert!(text.contains(r#""validatorUrl": "none""#) && text.contains("/openapi.json"), "{text}");
}
