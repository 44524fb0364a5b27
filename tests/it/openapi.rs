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

/// Operations that need the API key declare it, and a 401 response with a challenge.
#[test]
fn every_operation_declares_whether_it_needs_the_key() {
    let document = serde_json::to_value(thorax::http::openapi()).unwrap();
    assert_eq!(document["components"]["securitySchemes"]["api_key"]["scheme"], "bearer");
    for_each_operation(&document, |name, operation| {
        let open = operation["security"] == serde_json::json!([]);
        let guarded = operation["security"] == serde_json::json!([{ "api_key": [] }]);
        let challenge = &operation["responses"]["401"]["headers"]["WWW-Authenticate"];
        assert!(open != guarded && guarded == challenge.is_object(), "{name}");
    });
}

/// The responses that the server gives before a handler runs.
#[test]
fn every_operation_declares_the_responses_of_the_server() {
    let document = serde_json::to_value(thorax::http::openapi()).unwrap();
    for_each_operation(&document, |name, operation| {
        let responses = operation["responses"].as_object().unwrap();
        let guarded = operation["security"] != serde_json::json!([]);
        let mut expected = vec!["400", "403"];
        expected.extend(if guarded { &["401", "429", "503"][..] } else { &[] });
        expected.extend(if guarded && !name.starts_with("get ") { &["507"][..] } else { &[] });
        expected.extend(if operation["requestBody"].is_object() { &["408", "413", "415"][..] } else { &[] });
        for status in expected {
            assert!(responses.contains_key(status), "{name}: {status}");
        }
        for status in ["429", "503"].iter().filter(|status| responses.contains_key(**status)) {
            assert!(responses[*status]["headers"]["Retry-After"].is_object(), "{name}: {status}");
        }
    });
}

/// The server refuses unknown fields, except for those of the Open Inference Protocol.
#[test]
fn request_bodies_have_no_other_fields() {
    let document = serde_json::to_value(thorax::http::openapi()).unwrap();
    let mut checked = 0;
    for_each_operation(&document, |name, operation| {
        for content in operation["requestBody"]["content"].as_object().into_iter().flat_map(|content| content.values())
        {
            let reference = content["schema"]["$ref"].as_str().unwrap_or_default().trim_start_matches('#');
            let schema = document.pointer(reference).unwrap();
            if schema["type"] == "object" {
                let protocol = name.contains(" /v2/");
                assert_eq!(schema["additionalProperties"] == false, !protocol, "{name}: {reference}");
                checked += 1;
            }
        }
    });
    assert!(checked > 10, "{checked}");
}

/// The formats of the OpenAPI registry; a maximum beyond 2^53 could not be read by all clients.
#[test]
fn unsigned_integers_have_their_bounds() {
    fn check(value: &serde_json::Value, checked: &mut u32) {
        let maximum = match value["format"].as_str() {
            Some("uint8") => Some(u8::MAX.into()),
            Some("uint16") => Some(u16::MAX.into()),
            Some("uint32") => Some(u32::MAX.into()),
            Some(other) => return assert!(!other.starts_with('u') || ["uint64", "uuid"].contains(&other), "{other}"),
            None => None,
        };
        if let Some(maximum) = maximum {
            assert!(value["maximum"].as_u64().is_some_and(|bound| bound <= maximum), "{value}");
            *checked += 1;
        }
        let children = value.as_object().into_iter().flat_map(|object| object.values());
        children.chain(value.as_array().into_iter().flatten()).for_each(|child| check(child, checked));
    }
    let mut checked = 0;
    check(&serde_json::to_value(thorax::http::openapi()).unwrap(), &mut checked);
    assert!(checked > 10, "{checked}");
}

/// Calls `check` with the name and the description of each operation.
fn for_each_operation(document: &serde_json::Value, mut check: impl FnMut(&str, &serde_json::Value)) {
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            check(&format!("{method} {path}"), operation);
        }
    }
}

/// A server without a key describes itself without one.
#[tokio::test]
async fn the_document_of_a_server_without_a_key_has_no_security() {
    let server = crate::support::Server::start().await;
    let document = server.get("/openapi.json").await.json();
    assert!(document["components"]["securitySchemes"].as_object().is_none_or(serde_json::Map::is_empty));
    for_each_operation(&document, |name, operation| {
        assert!(operation.get("security").is_none() && operation["responses"].get("401").is_none(), "{name}");
    });
}
