//! Request bodies as common clients send them: media types, compression, and the parts of forms.

use std::io::Write;

use axum::{body::Body, http::Request};
use flate2::{
    Compression,
    write::{GzEncoder, ZlibEncoder},
};
use serde_json::{Value, json};

use crate::support::{MAX_UPLOAD_BYTES, Part, Server, TestResponse, model, multipart, png};

const PREDICTIONS: &str = "/v1/predictions";

/// Media types with which clients send an image: correct ones, other image types, none, and generic ones. The last one is the default of
/// `curl --data-binary`.
const MEDIA_TYPES: [&str; 9] = [
    "image/png",
    "image/jpeg",
    "image/jpg",
    "image/x-png; charset=binary",
    "application/dicom",
    "",
    "application/octet-stream",
    "binary/octet-stream",
    "application/x-www-form-urlencoded",
];

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

async fn compressed(server: &Server, path: &str, content_type: &str, encoding: &str, body: Vec<u8>) -> TestResponse {
    let request = Request::post(path).header("content-type", content_type).header("content-encoding", encoding);
    server.send(request.body(Body::from(body)).unwrap()).await
}

#[tokio::test]
async fn an_image_is_recognised_by_its_first_bytes_and_not_by_the_media_type() {
    let server = Server::start().await;
    server.promote(model::small(32, 1)).await;
    let expected = server.request("POST", PREDICTIONS, "image/png", png(48, 48, 1)).await.text("/prediction");
    let dataset = server.dataset("raw").await;
    for (shade, media_type) in (10..).zip(MEDIA_TYPES) {
        let response = server.request("POST", PREDICTIONS, media_type, png(48, 48, 1)).await;
        assert_eq!(
            (response.status, response.text("/prediction")),
            (200, expected.clone()),
            "{media_type}: {response:?}"
        );
        let path = format!("/v1/datasets/{dataset}/radiographs?label=normal&split=test&view=PA");
        let stored = server.request("POST", &path, media_type, png(48, 48, shade)).await;
        assert_eq!(
            (stored.status, stored.text("/items/0/status")),
            (201, "created".into()),
            "{media_type}: {stored:?}"
        );
        assert_eq!(
            (stored.text("/items/0/radiograph/label"), stored.text("/items/0/radiograph/split")),
            ("normal".into(), "test".into())
        );
    }
    let path = format!("/v1/datasets/{dataset}/radiographs");
    let wrong = server.request("POST", &format!("{path}?label=sick&split=none"), "image/png", png(48, 48, 1)).await;
    assert_eq!((wrong.status, wrong.pointers()), (422, vec!["/label".into(), "/split".into()]));
}

#[tokio::test]
async fn the_error_about_a_body_without_an_image_names_the_accepted_formats() {
    let server = Server::start().await;
    server.promote(model::small(32, 1)).await;
    let dataset = server.dataset("raw").await;
    let json = json!({ "image": "iVBORw0KGgoAAAANSUhEUg==" }).to_string();
    let bodies = [
        ("application/json", json.clone(), "base64 in JSON"),
        ("application/problem+json", json.clone(), "base64 in JSON"),
        ("application/x-www-form-urlencoded", json.clone(), "is JSON"),
        ("", "iVBORw0KGgoAAAANSUhEUg==".into(), "base64"),
        ("image/jpeg", "/9j/4AAQSkZJRg==".into(), "base64"),
        ("image/png", "data:image/png;base64,iVBORw0KGgo=".into(), "base64"),
        ("application/octet-stream", "a text".into(), "not an image"),
        ("application/octet-stream", String::new(), "empty"),
        ("text/plain", "a text".into(), "text/plain"),
    ];
    for path in [PREDICTIONS.to_owned(), format!("/v1/datasets/{dataset}/radiographs")] {
        for (media_type, body, reason) in &bodies {
            let refused = server.request("POST", &path, media_type, body.clone().into_bytes()).await;
            refused.assert_problem(415, &path);
            let detail = refused.text("/detail");
            assert!(detail.contains(reason), "{media_type} {body}: {detail}");
            assert!(detail.contains("--data-binary") && detail.contains("`file`"), "{detail}");
        }
    }
}

#[tokio::test]
async fn a_part_with_another_name_gets_an_error_that_names_file() {
    let server = Server::start().await;
    server.promote(model::small(32, 1)).await;
    let dataset = server.dataset("raw").await;
    let image = png(48, 48, 1);
    let prediction = server.request("POST", PREDICTIONS, "image/png", image.clone()).await.text("/id");
    for name in ["image", "files", "file[]", "File"] {
        let (content_type, body) = multipart(&[Part::File("a.png", &image)]);
        let body =
            String::from_utf8_lossy(&body).into_owned().replacen("name=\"file\"", &format!("name=\"{name}\""), 1);
        for (method, path) in [
            ("POST", PREDICTIONS.to_owned()),
            ("POST", format!("/v1/datasets/{dataset}/radiographs")),
            ("PUT", format!("{PREDICTIONS}/{prediction}/feedback")),
        ] {
            let refused = server.request(method, &path, &content_type, body.clone().into_bytes()).await;
            refused.assert_problem(422, &path);
            assert_eq!(refused.pointers()[0], format!("/{name}"), "{path}");
            assert!(refused.text("/errors/0/detail").contains("send images as `file`"), "{refused:?}");
        }
    }
}

/// A dropped field can lose a patient id, without which leakage between splits cannot be detected.
#[tokio::test]
async fn no_field_of_an_upload_is_dropped_silently() {
    let server = Server::start().await;
    let dataset = server.dataset("fields").await;
    let path = format!("/v1/datasets/{dataset}/radiographs");
    let image = png(48, 48, 1);
    let unknown =
        server.request("POST", &format!("{path}?label=normal&patient_id=p17"), "image/png", image.clone()).await;
    assert_eq!(unknown.status, 400, "{unknown:?}");
    let send = async |path: &str, parts: &[Part<'_>]| {
        let (content_type, body) = multipart(parts);
        server.request("POST", path, &content_type, body).await
    };
    let file = Part::File("a.png", &image);
    let in_query = send(&format!("{path}?label=normal&split=test"), &[file]).await;
    assert_eq!((in_query.status, in_query.pointers()), (422, vec!["/label".into(), "/split".into()]));
    let twice =
        send(&path, &[Part::File("a.png", &image), Part::Text("label", "normal"), Part::Text("label", "pneumonia")])
            .await;
    assert_eq!((twice.status, twice.pointers()), (422, vec!["/label".into()]));
}

#[tokio::test]
async fn the_response_echoes_the_file_name_in_every_encoding() {
    let server = Server::start().await;
    server.promote(model::small(32, 1)).await;
    let dataset = server.dataset("named").await;
    let known = [
        ("filename=\"=?utf-8?B?UHLDvGYucG5n?=\"; filename*=utf-8''Pr%C3%BCf.png", "Prüf.png"),
        ("filename*=UTF-8''Pr%C3%BCf.png", "Prüf.png"),
        ("filename=\"=?utf-8?Q?Pr=C3=BCf.png?=\"", "Prüf.png"),
        ("filename=\"Prüf.png\"", "Prüf.png"),
        ("filename=plain.png", "plain.png"),
    ];
    for (shade, (disposition, expected)) in (0..).zip(known) {
        let part = |shade: u8| {
            let head = format!("--edge=1\r\ncontent-disposition: form-data; name=file; {disposition}\r\n\r\n");
            [head.as_bytes(), &png(48, 48, shade), b"\r\n"].concat()
        };
        let body = [&part(shade)[..], &part(100 + shade), b"--edge=1--\r\n"].concat();
        // A boundary with a character that requires quotes, without quotes.
        let content_type = "multipart/form-data; boundary=edge=1";
        let stored =
            server.request("POST", &format!("/v1/datasets/{dataset}/radiographs"), content_type, body.clone()).await;
        assert_eq!((stored.status, stored.text("/items/0/file_name")), (201, expected.into()), "{stored:?}");
        let predicted = server.request("POST", PREDICTIONS, content_type, body).await;
        assert_eq!((predicted.status, predicted.text("/items/0/file_name")), (200, expected.into()), "{predicted:?}");
    }
}

#[tokio::test]
async fn gzip_bodies_are_decoded_within_the_limits() {
    let server = Server::start().await;
    server.promote(model::small(32, 1)).await;
    let expected = server.request("POST", PREDICTIONS, "image/png", png(48, 48, 1)).await;
    for encoding in ["gzip", "GZIP", "x-gzip"] {
        let response = compressed(&server, PREDICTIONS, "image/png", encoding, gzip(&png(48, 48, 1))).await;
        assert_eq!((response.status, response.at("/prediction")), (200, expected.at("/prediction")), "{response:?}");
    }
    let (content_type, form) = multipart(&[Part::File("a.png", &png(48, 48, 1))]);
    assert_eq!(compressed(&server, PREDICTIONS, &content_type, "gzip", gzip(&form)).await.status, 200);
    let created = compressed(&server, "/v1/datasets", "application/json", "gzip", gzip(b"{\"name\": \"a\"}")).await;
    assert_eq!(created.status, 201, "{created:?}");
    // The limit applies to the decoded bytes; a decompression bomb is stopped at it.
    let noise: Vec<u8> =
        (0..=MAX_UPLOAD_BYTES as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    let large = compressed(&server, PREDICTIONS, "image/png", "gzip", gzip(&noise)).await;
    large.assert_problem(413, PREDICTIONS);
    for path in [PREDICTIONS, "/v1/datasets", "/v1/models"] {
        let media_type = if path == "/v1/datasets" { "application/json" } else { "application/octet-stream" };
        let bomb = compressed(&server, path, media_type, "gzip", gzip(&vec![b' '; 64 << 20])).await;
        assert!([400, 413].contains(&bomb.status), "{path}: {bomb:?}");
        let cut = gzip(&png(48, 48, 1));
        let cut = compressed(&server, path, media_type, "gzip", cut[..cut.len() / 2].to_vec()).await;
        cut.assert_problem(400, path);
    }
}

#[tokio::test]
async fn other_encodings_are_refused_with_the_one_to_use() {
    let server = Server::start().await;
    let mut deflated = ZlibEncoder::new(Vec::new(), Compression::fast());
    deflated.write_all(&png(48, 48, 1)).unwrap();
    for encoding in ["deflate", "br", "zstd", "gzip, gzip"] {
        let refused = compressed(&server, PREDICTIONS, "image/png", encoding, deflated.get_ref().clone()).await;
        refused.assert_problem(415, PREDICTIONS);
        assert!(refused.text("/detail").contains("gzip"), "{refused:?}");
    }
    let identity =
        compressed(&server, "/v1/datasets", "application/json", "identity", b"{\"name\": \"a\"}".to_vec()).await;
    assert_eq!(identity.status, 201);
}

#[tokio::test]
async fn the_inference_protocol_accepts_gzip_bodies() {
    let server = Server::start().await;
    server.promote(model::small(32, 1)).await;
    let tensor = json!({"name": "uint8", "shape": [1, 1, 32, 32], "datatype": "UINT8", "data": vec![7; 1024]});
    let body = json!({ "inputs": [tensor] }).to_string();
    let path = "/v2/models/champion/infer";
    let plain = server.request("POST", path, "application/json", body.clone().into_bytes()).await;
    let zipped = compressed(&server, path, "application/json", "gzip", gzip(body.as_bytes())).await;
    assert_eq!((plain.status, zipped.status), (200, 200), "{zipped:?}");
    let probabilities = |response: &TestResponse| -> Value { response.at("/outputs/0/data") };
    assert_eq!(probabilities(&plain), probabilities(&zipped));
}
