//! Content negotiation by the `Accept` header (RFC 9110, 12.5.1).

use axum::http::{HeaderMap, header};

use super::ApiError;

/// Selects the media type of `offered` with the highest quality in the `Accept` header, the first of equals. Without the header it
/// selects the first. 406 if none is acceptable.
pub fn negotiate<T: Copy>(headers: &HeaderMap, offered: &[(&str, T)]) -> Result<T, ApiError> {
    let sent: Vec<&str> = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let accept = if sent.is_empty() { "*/*".into() } else { sent.join(",").to_ascii_lowercase() };
    let ranges: Vec<(&str, f64)> = accept.split(',').filter_map(range).collect();
    let mut best = (0.0, None);
    for (media_type, value) in offered {
        let quality = quality(media_type, &ranges);
        if quality > best.0 {
            best = (quality, Some(*value));
        }
    }
    let names: Vec<&str> = offered.iter().map(|(media_type, _)| *media_type).collect();
    best.1.ok_or_else(|| {
        ApiError::NotAcceptable(format!("unsupported Accept header: this path returns {}", names.join(", ")))
    })
}

/// Parses a media range and its quality; `None` if it is malformed.
fn range(text: &str) -> Option<(&str, f64)> {
    let mut parts = text.split(';').map(str::trim);
    let range = parts.next().filter(|range| range.contains('/'))?;
    let quality = parts.find_map(|parameter| parameter.strip_prefix("q="));
    let quality = quality.map_or(Some(1.0), |quality| quality.parse().ok())?;
    Some((range, quality))
}

/// Quality of a media type, from the most specific range that matches it.
fn quality(media_type: &str, ranges: &[(&str, f64)]) -> f64 {
    let family = media_type.split('/').next().unwrap_or_default();
    let any_of_family = format!("{family}/*");
    let by_specificity = [media_type, &any_of_family, "*/*"];
    let best = by_specificity.iter().find_map(|candidate| ranges.iter().find(|(range, _)| range == candidate));
    best.map_or(0.0, |(_, quality)| *quality)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFERED: [(&str, u8); 3] = [("application/json", 0), ("text/markdown", 1), ("text/csv", 2)];

    fn selected(accept: &str) -> Option<u8> {
        let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]);
        negotiate(&headers, &OFFERED).ok()
    }

    #[test]
    fn selects_the_highest_quality_and_the_first_of_equals() {
        assert_eq!(negotiate(&HeaderMap::new(), &OFFERED).ok(), Some(0));
        let known = [
            ("*/*", Some(0)),
            ("text/csv", Some(2)),
            ("Text/Markdown; charset=utf-8", Some(1)),
            ("text/*", Some(1)),
            ("text/*;q=0.5, text/csv", Some(2)),
            ("text/markdown;q=0.3, application/json;q=0.2", Some(1)),
            ("text/html, application/xhtml+xml, application/xml;q=0.9, */*;q=0.8", Some(0)),
            ("*/*, application/json;q=0", Some(1)),
            ("application/pdf", None),
            ("text/csv;q=0", None),
            ("", None),
        ];
        for (accept, expected) in known {
            assert_eq!(selected(accept), expected, "{accept}");
        }
    }

    #[test]
    fn an_error_lists_the_available_media_types() {
        let headers = HeaderMap::from_iter([(header::ACCEPT, "image/png".parse().unwrap())]);
        let error = negotiate(&headers, &OFFERED).unwrap_err().to_string();
        assert!(error.contains("text/markdown") && error.contains("Accept"), "{error}");
    }
}
