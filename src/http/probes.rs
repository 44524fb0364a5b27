//! Paths of probes and scrapers, which are answered when other requests are not: while the server drains, and beyond rate limits.

use axum::extract::Request;

const PATHS: [&str; 5] = ["/health/live", "/health/ready", "/metrics", "/v2/health/live", "/v2/health/ready"];

/// True for a request of a probe or a scraper.
pub(super) fn is_monitoring(request: &Request) -> bool {
    PATHS.contains(&request.uri().path())
}
