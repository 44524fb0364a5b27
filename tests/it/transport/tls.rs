//! TLS: protocols, deadlines, and certificates that change while the server runs.

use std::{
    fs, io,
    io::{Read, Write},
    net::TcpStream as BlockingStream,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::http::Version;
use rustls::{
    ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, ServerName},
    version::{TLS12, TLS13},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::client::Client;
use crate::process::{PATIENCE, Running, thorax};

const VARIABLES: [(&str, &str); 3] =
    [("THORAX_TLS_CERT", "cert.pem"), ("THORAX_TLS_KEY", "key.pem"), ("THORAX_HEAD_SECONDS", "1")];

/// Writes a new key and a self-signed certificate for it, and returns the certificate.
fn write_certificate(folder: &Path) -> CertificateDer<'static> {
    let names = ["localhost".to_owned()];
    let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names).unwrap();
    fs::write(folder.join("cert.pem"), cert.pem()).unwrap();
    fs::write(folder.join("key.pem"), signing_key.serialize_pem()).unwrap();
    cert.der().clone()
}

/// Connects as a client that trusts only this certificate.
async fn connect(
    address: &str,
    trusted: &CertificateDer<'static>,
    version: &'static SupportedProtocolVersion,
    protocols: &[&str],
) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_protocol_versions(&[version]).unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await
}

async fn http2(address: &str, trusted: &CertificateDer<'static>) -> io::Result<Client> {
    Ok(Client::http2_on(connect(address, trusted, &TLS13, &["h2"]).await?, address).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_serves_http2_and_http1_by_negotiation() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = write_certificate(folder.path());
    let server = Running::start(folder.path(), &VARIABLES);
    let stream = connect(&server.address, &certificate, &TLS13, &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    let mut client = Client::http2_on(stream, &server.address).await;
    client.promote().await;
    let reply = client.predict(1).await;
    assert_eq!((reply.status, reply.version), (200, Version::HTTP_2), "{reply:?}");
    let stream = connect(&server.address, &certificate, &TLS12, &["http/1.1"]).await.unwrap();
    let (_, session) = stream.get_ref();
    assert_eq!(
        (session.alpn_protocol(), session.protocol_version()),
        (Some(b"http/1.1".as_slice()), Some(ProtocolVersion::TLSv1_2))
    );
    let mut client = Client::http1_on(stream, &server.address).await;
    let reply = client.predict(1).await;
    assert_eq!((reply.status, reply.version), (200, Version::HTTP_11), "{reply:?}");

    // Neither a client without TLS nor one that says nothing holds a connection.
    let mut plain = BlockingStream::connect(&server.address).unwrap();
    plain.set_read_timeout(Some(PATIENCE)).unwrap();
    plain.write_all(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let mut reply = Vec::new();
    drop(plain.read_to_end(&mut reply));
    assert!(!reply.starts_with(b"HTTP"), "{reply:?}");
    let mut silent = BlockingStream::connect(&server.address).unwrap();
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    let started = Instant::now();
    assert_eq!(silent.read(&mut [0; 16]).unwrap_or(0), 0);
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_certificate_is_loaded_and_a_broken_one_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let first = write_certificate(folder.path());
    let server = Running::start(folder.path(), &VARIABLES);
    let mut old = http2(&server.address, &first).await.unwrap();
    assert_eq!(old.get("/health/live").await.status, 200);

    let second = write_certificate(folder.path());
    assert!(http2(&server.address, &first).await.is_ok() || http2(&server.address, &second).await.is_ok());
    let started = Instant::now();
    let mut new = loop {
        match http2(&server.address, &second).await {
            Ok(client) => break client,
            Err(error) => assert!(started.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(http2(&server.address, &first).await.is_err(), "the old one is out of use");
    assert_eq!(old.get("/health/live").await.status, 200, "open connections stay");

    fs::write(folder.path().join("key.pem"), "half a key").unwrap();
    let failed = "thorax_tls_certificate_reloads_total{outcome=\"failed\"} ";
    let started = Instant::now();
    while new.get("/metrics").await.text().contains(&format!("{failed}0")) {
        assert!(started.elapsed() < PATIENCE, "the broken key is not noticed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut again = http2(&server.address, &second).await.unwrap();
    assert_eq!(again.get("/health/live").await.status, 200, "the last good pair stays in use");
}

#[test]
fn a_certificate_without_its_key_or_that_cannot_be_used_is_refused_at_the_start() {
    let refused = |variables: &[(&str, &str)]| {
        let folder = tempfile::tempdir().unwrap();
        write_certificate(folder.path());
        let mut command = thorax(folder.path());
        let output = command.env("THORAX_LISTEN", "127.0.0.1:0").envs(variables.iter().copied()).arg("serve").output();
        let output = output.unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let alone = refused(&VARIABLES[..1]);
    assert!(alone.contains("--tls-key"), "{alone}");
    let swapped = refused(&[("THORAX_TLS_CERT", "key.pem"), ("THORAX_TLS_KEY", "cert.pem")]);
    assert!(swapped.contains("key.pem has no valid certificate"), "{swapped}");
    let socket = refused(&[VARIABLES[0], VARIABLES[1], ("THORAX_LISTEN", "unix:/tmp/thorax-that-never-listens")]);
    assert!(socket.contains("THORAX_TLS_CERT"), "{socket}");
}
