//! Query parameters, cursors and JSON that an operation does not take: refused with the field and in plain words.

use serde_json::{Value, json};

use crate::support::{Server, TestResponse};

/// Each operation of the document: method, path with a value for each parameter, description.
fn operations() -> Vec<(String, String, Value)> {
    let document = serde_json::to_value(thorax::http::openapi()).unwrap();
    let mut operations = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        let id = "01890a5d-ac96-774b-bcce-b302099a8057";
        let segments = path.split('/').map(|segment| if segment.starts_with('{') { id } else { segment });
        let concrete = segments.collect::<Vec<_>>().join("/");
        for (method, operation) in methods.as_object().unwrap() {
            operations.push((method.to_uppercase(), concrete.clone(), operation.clone()));
        }
    }
    assert!(operations.len() > 50, "{}", operations.len());
    operations
}

/// The detail of an error, of a problem document or of the Open Inference Protocol.
fn text(response: &TestResponse) -> String {
    String::from_utf8_lossy(&response.bytes).into_owned()
}

#[tokio::test]
async fn an_unknown_query_parameter_of_any_operation_is_refused_by_name() {
    let server = Server::start().await;
    for (method, path, _) in operations() {
        let refused = server.request(&method, &format!("{path}?lmit=3"), "", Vec::new()).await;
        assert_eq!(refused.status, 400, "{method} {path}: {refused:?}");
        assert!(text(&refused).contains("lmit"), "{method} {path}: {refused:?}");
        if method == "GET" {
            assert_eq!(server.request("HEAD", &format!("{path}?lmit=3"), "", Vec::new()).await.status, 400, "{path}");
        }
    }
    let refused = server.get("/v1/datasets?lmit=3&limit=2").await;
    assert_eq!(
        refused.at("/errors"),
        json!([{"pointer": "/lmit", "detail": "unknown query parameter: use after, limit"}])
    );
    assert_eq!(server.get("/v1/datasets?%6Cimit=2").await.status, 200, "percent-encoded");
}

#[tokio::test]
async fn a_documented_query_parameter_is_never_unknown() {
    let server = Server::start().await;
    for (method, path, operation) in operations() {
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        for parameter in parameters.iter().filter(|parameter| parameter["in"] == "query") {
            let name = parameter["name"].as_str().unwrap();
            let response = server.request(&method, &format!("{path}?{name}=1"), "", Vec::new()).await;
            assert!(!text(&response).contains("unknown query parameter"), "{method} {path} {name}: {response:?}");
        }
    }
}

#[tokio::test]
async fn a_malformed_cursor_of_any_list_is_400() {
    let server = Server::start().await;
    let lists: Vec<String> = operations()
        .into_iter()
        .filter(|(_, _, operation)| {
            operation["parameters"].as_array().into_iter().flatten().any(|parameter| parameter["name"] == "after")
        })
        .map(|(_, path, _)| path)
        .collect();
    assert!(lists.len() >= 10, "{lists:?}");
    for path in lists {
        let malformed = ["x", "", "-1", "1%00", "%F0%9F%A9%BB", "'%20or%201=1"];
        for cursor in malformed {
            let refused = server.get(&format!("{path}?after={cursor}")).await;
            assert_eq!(refused.status, 400, "{path} {cursor}: {refused:?}");
            assert!(text(&refused).contains("after"), "{path} {cursor}: {refused:?}");
        }
    }
}

#[tokio::test]
async fn values_of_the_wrong_type_are_named_in_plain_words() {
    let server = Server::start().await;
    let known = [
        ("/v1/datasets?limit=x", "/limit", "must be a whole number of at least 0"),
        ("/v1/datasets?limit=0", "/limit", "must be between 1 and 200 (got 0)"),
        ("/v1/datasets?limit=99999999999", "/limit", "is too large"),
        ("/v1/datasets?limit=1&limit=2", "/limit", "is given more than once"),
        ("/v1/models?run_id=7", "/run_id", "must be a UUID"),
        ("/v1/training-runs?status=done", "/status", "must be one of"),
        ("/v1/recipes/thorax/preview", "/radiograph", "is missing"),
    ];
    for (path, pointer, detail) in known {
        let refused = server.get(path).await;
        assert_eq!((refused.status, refused.text("/errors/0/pointer")), (400, pointer.into()), "{path}: {refused:?}");
        assert!(refused.text("/errors/0/detail").starts_with(detail), "{path}: {refused:?}");
    }
    let named = |body: &'static str| server.request("POST", "/v1/datasets", "application/json", body.into());
    let refused = named(r#"{"name": 7}"#).await;
    assert_eq!(refused.at("/errors/0"), json!({"pointer": "/name", "detail": "must be a text (got 7)"}));
    let refused = named(r#"["name"]"#).await;
    assert_eq!((refused.status, refused.text("/errors/0/detail")), (422, "must be an object".into()));
    for broken in ["", "{", "{\"name\": }", "{\"name\": \"a\"} x"] {
        let refused = named(broken).await;
        assert_eq!(refused.status, 400, "{broken}");
        assert!(refused.text("/detail").contains("not valid JSON"), "{refused:?}");
    }
    let refused = server.request("POST", "/v1/datasets", "text/plain", b"{}".to_vec()).await;
    assert!(refused.status == 415 && refused.text("/detail").contains("application/json"), "{refused:?}");
}

#[tokio::test]
async fn no_error_has_the_words_of_the_parsers() {
    let server = Server::start().await;
    for (method, path, operation) in operations() {
        let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
        let mut answers = Vec::new();
        for parameter in parameters.iter().filter(|parameter| parameter["in"] == "query") {
            for value in ["x", "-1", "1e400", ""] {
                let path = format!("{path}?{}={value}", parameter["name"].as_str().unwrap());
                answers.push(server.request(&method, &path, "", Vec::new()).await);
            }
        }
        if operation["requestBody"].is_object() {
            for body in
                [r#"{"a": 1}"#, "[1]", "{", "null", "7", r#"{"dataset_id": "x", "name": 1, "path": 2, "model_id": []}"#]
            {
                answers.push(server.request(&method, &path, "application/json", body.into()).await);
            }
        }
        for response in answers {
            let text = text(&response);
            for words in [
                "deserialize",
                "u32",
                "u64",
                "i64",
                "invalid type",
                "struct ",
                "UUID parsing",
                "target type",
                "invalid digit",
                " at line ",
                "EOF",
            ] {
                assert!(!text.contains(words), "{method} {path}: {words:?} in {text}");
            }
        }
    }
}
