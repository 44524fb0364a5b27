//! The OpenAPI document in the repository equals the one that the program serves.

#[test]
fn the_committed_openapi_document_is_the_served_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi/openapi.json");
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    let served = thorax::http::openapi().to_pretty_json().unwrap() + "\n";
    let how = "openapi/openapi.json is out of date: run `cargo run --release -- openapi > openapi/openapi.json`";
    assert!(kept == served, "{how}");
}

/// OpenAPI 3.1, 4.8.17: the description is the only required field of a response. Validators and client generators refuse a document
/// without it.
#[test]
fn every_response_has_a_description() {
    let document = serde_json::to_value(thorax::http::openapi()).unwrap();
    let mut missing = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            for (status, response) in operation["responses"].as_object().unwrap() {
                if response["description"].as_str().unwrap_or_default().is_empty() {
                    missing.push(format!("{method} {path}: {status}"));
                }
            }
        }
    }
    assert!(missing.is_empty(), "without a description: {missing:#?}");
}

/// Operations that need the API key declare it, and a 401 response.
#[test]
fn every_operation_declares_whether_it_needs_the_key() {
    let document = serde_json::to_value(thorax::http::openapi()).unwrap();
    assert_eq!(document["security"], serde_json::json!([{ "api_key": [] }]));
    assert_eq!(document["components"]["securitySchemes"]["api_key"]["scheme"], "bearer");
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let open = operation["security"] == serde_json::json!([]);
            let unauthorized = operation["responses"].get("401").is_some();
            assert_ne!(open, unauthorized, "{method} {path}");
        }
    }
}
