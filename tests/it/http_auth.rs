//! Authentication: every operation needs the API key, except the ones listed here.

use std::sync::Arc;

use crate::support::Server;

/// Operations that need no key.
const OPEN: [&str; 5] = ["/health/live", "/health/ready", "/metrics", "/v2/health/live", "/v2/health/ready"];

#[tokio::test]
async fn every_operation_that_is_not_listed_as_open_refuses_requests_without_the_key() {
    let server = Server::with(|state, _| state.access.admin_key = Some(Arc::from("a-key-of-the-tests"))).await;
    let document = serde_json::to_value(thorax::http::openapi()).unwrap();
    let mut operations = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let response = server.request(&method.to_uppercase(), &concrete(path), "", Vec::new()).await;
            assert_eq!(response.status == 401, !OPEN.contains(&path.as_str()), "{method} {path}: {}", response.status);
            operations += 1;
        }
    }
    assert!(operations > 50, "the document lists {operations} operations");
}

/// The path with a value for each parameter.
fn concrete(path: &str) -> String {
    let segment = |segment: &str| if segment.starts_with('{') { "x".to_owned() } else { segment.to_owned() };
    path.split('/').map(segment).collect::<Vec<_>>().join("/")
}
