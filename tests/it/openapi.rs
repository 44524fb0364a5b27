//! The checked-in description of the interface is the one that the program serves.

#[test]
fn the_committed_openapi_document_is_the_served_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi/openapi.json");
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    let served = thorax::http::openapi().to_pretty_json().unwrap() + "\n";
    let how = "openapi/openapi.json is out of date: run `cargo run --release -- openapi > openapi/openapi.json`";
    assert!(kept == served, "{how}");
}
