//! The embedded dashboard, the API documentation, and security headers.

use std::{collections::BTreeMap, sync::LazyLock};

use axum::{
    Router,
    extract::{Path, Request},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
    routing::get,
};
use include_dir::{Dir, File, include_dir};
use utoipa::openapi::OpenApi;
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::{ApiError, AppState};
use crate::domain::Sha256;

static FOLDER: Dir = include_dir!("$CARGO_MANIFEST_DIR/static");

/// Embedded files by path below `static/`.
static ASSETS: LazyLock<BTreeMap<String, Asset>> = LazyLock::new(|| {
    let mut assets = BTreeMap::new();
    collect(&FOLDER, &mut assets);
    assets
});

/// Content security policy: scripts and styles from this server only; images also from files that the user selected (`blob:`).
const POLICY: &str = "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; \
                      form-action 'self'; frame-ancestors 'none'";

/// Content security policy of `/docs`: Swagger UI uses inline styles.
const DOCS_POLICY: &str = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; \
                              object-src 'none'; base-uri 'none'; frame-ancestors 'none'";

/// Headers of every response: other sites' pages can neither embed it nor keep a handle to a window with it.
const SECURITY_HEADERS: [(HeaderName, &str); 6] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "same-origin"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
];

/// An embedded file.
struct Asset {
    bytes: &'static [u8],
    media_type: &'static str,
    etag: String,
}

/// Routes `/`, `/static`, `/openapi.json` and `/docs`.
pub(super) fn router(openapi: OpenApi) -> Router<AppState> {
    Router::new()
        .route("/", get(|headers: HeaderMap| async move { serve("index.html", &headers) }))
        .route("/static/{*path}", get(asset))
        .merge(
            SwaggerUi::new("/docs")
                .url("/openapi.json", openapi)
                // The default sends the address of the document to a validator on the internet.
                .config(Config::from("/openapi.json").validator_url("none")),
        )
}

/// Sets security headers on every response.
pub(super) async fn set_security_headers(request: Request, next: Next) -> Response {
    let policy = if request.uri().path().starts_with("/docs") { DOCS_POLICY } else { POLICY };
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    for (name, value) in &SECURITY_HEADERS {
        headers.insert(name.clone(), HeaderValue::from_static(value));
    }
    // Results of patients stay out of caches, unless a handler says otherwise.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

async fn asset(Path(path): Path<String>, headers: HeaderMap) -> Result<Response, ApiError> {
    serve(&path, &headers)
}

fn serve(path: &str, headers: &HeaderMap) -> Result<Response, ApiError> {
    let asset = ASSETS.get(path).ok_or(ApiError::NotFound("page"))?;
    // Browsers cache the file but revalidate it each time, so that a new binary takes effect at once.
    let common = [(header::ETAG, asset.etag.as_str()), (header::CACHE_CONTROL, "no-cache")];
    if matches_etag(headers, &asset.etag) {
        return Ok((StatusCode::NOT_MODIFIED, common).into_response());
    }
    Ok((common, [(header::CONTENT_TYPE, asset.media_type)], asset.bytes).into_response())
}

/// True if `If-None-Match` contains the tag (RFC 9110, 13.1.2: weak comparison).
fn matches_etag(headers: &HeaderMap, etag: &str) -> bool {
    let sent = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut tags = sent.flat_map(|value| value.split(',')).map(|tag| tag.trim().trim_start_matches("W/"));
    tags.any(|tag| tag == "*" || tag == etag)
}

fn collect(folder: &'static Dir, assets: &mut BTreeMap<String, Asset>) {
    for file in folder.files() {
        let path = file.path().to_string_lossy().replace('\\', "/");
        assets.insert(path, Asset::new(file));
    }
    folder.dirs().for_each(|inner| collect(inner, assets));
}

impl Asset {
    fn new(file: &'static File) -> Self {
        let bytes = file.contents();
        let media_type = media_type(file.path().extension().and_then(|extension| extension.to_str()));
        Self { bytes, media_type, etag: format!("\"{}\"", Sha256::of(bytes)) }
    }
}

fn media_type(extension: Option<&str>) -> &'static str {
    match extension {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("json" | "map") => "application/json",
        Some("webmanifest") => "application/manifest+json",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("ico") => "image/x-icon",
        Some("woff2") => "font/woff2",
        Some("txt" | "md") | None => "text/plain; charset=utf-8",
        Some(_) => "application/octet-stream",
    }
}
