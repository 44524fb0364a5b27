//! Which of several media types a client would rather have (RFC 9110, 12.5.1).

use axum::http::{HeaderMap, header};

/// The one of `offered` that the client prefers; of equals the first. Without an `Accept` header all are welcome; `None` when
/// it takes none of them.
pub(super) fn preferred<'a, const N: usize>(headers: &HeaderMap, offered: [&'a str; N]) -> Option<&'a str> {
    let accept: Vec<&str> = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let accept = if accept.is_empty() { "*/*".to_owned() } else { accept.join(",") };
    let ranges: Vec<Range> = accept.split(',').map(Range::parse).collect();
    let mut best: Option<(&str, f32)> = None;
    for kind in offered {
        let quality = quality(&ranges, kind);
        if quality > best.map_or(0.0, |(_, best)| best) {
            best = Some((kind, quality));
        }
    }
    best.map(|(kind, _)| kind)
}

struct Range {
    name: String,
    quality: f32,
}

impl Range {
    fn parse(text: &str) -> Self {
        let mut parts = text.split(';').map(|part| part.trim().to_ascii_lowercase());
        let name = parts.next().unwrap_or_default();
        let quality = parts.find_map(|part| part.strip_prefix("q=").map(|value| value.parse().unwrap_or(0.0)));
        Self { name, quality: quality.unwrap_or(1.0) }
    }
}

/// What the most specific range that covers `kind` says.
fn quality(ranges: &[Range], kind: &str) -> f32 {
    let whole = kind.split('/').next().map(|family| format!("{family}/*")).unwrap_or_default();
    let of = |name: &str| ranges.iter().find(|range| range.name == name).map(|range| range.quality);
    of(kind).or_else(|| of(&whole)).or_else(|| of("*/*")).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(accept: Option<&str>) -> Option<&'static str> {
        let mut headers = HeaderMap::new();
        if let Some(accept) = accept {
            headers.insert(header::ACCEPT, accept.parse().unwrap());
        }
        preferred(&headers, ["text/event-stream", "application/json"])
    }

    #[test]
    fn the_first_is_for_who_takes_anything_and_the_other_for_who_asks_for_it() {
        for accept in [None, Some("*/*"), Some("text/event-stream"), Some("text/event-stream, application/json")] {
            assert_eq!(chosen(accept), Some("text/event-stream"), "{accept:?}");
        }
        for accept in
            ["application/json", "application/*", "text/event-stream;q=0.5, application/json", "Application/JSON;q=1"]
        {
            assert_eq!(chosen(Some(accept)), Some("application/json"), "{accept}");
        }
        assert_eq!(chosen(Some("*/*, text/event-stream;q=0")), Some("application/json"));
        assert_eq!(chosen(Some("application/json, application/problem+json")), Some("application/json"));
    }

    #[test]
    fn who_takes_neither_gets_neither() {
        for accept in ["image/png", "application/json;q=0", "text/html, application/xml"] {
            assert_eq!(chosen(Some(accept)), None, "{accept}");
        }
    }
}
