//! Which form of an answer a client wants (RFC 9110, 12.5.1).

use axum::http::{HeaderMap, header};

use super::ApiError;

/// Of the `offered` media types the one that the `Accept` header ranks highest, of equals the first; the first where there is no
/// such header. 406 when it takes none.
pub fn negotiate<T: Copy>(headers: &HeaderMap, offered: &[(&str, T)]) -> Result<T, ApiError> {
    let sent: Vec<&str> = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let accept = if sent.is_empty() { "*/*".into() } else { sent.join(",").to_ascii_lowercase() };
    let ranges: Vec<(&str, f64)> = accept.split(',').filter_map(range).collect();
    let mut best = (0.0, None);
    for (media_type, form) in offered {
        let quality = quality(media_type, &ranges);
        if quality > best.0 {
            best = (quality, Some(*form));
        }
    }
    let names: Vec<&str> = offered.iter().map(|(media_type, _)| *media_type).collect();
    best.1.ok_or_else(|| ApiError::NotAcceptable(format!("Accept: this path answers with {}", names.join(", "))))
}

/// A media range and its quality; a range that cannot be read counts for nothing.
fn range(text: &str) -> Option<(&str, f64)> {
    let mut parts = text.split(';').map(str::trim);
    let range = parts.next().filter(|range| range.contains('/'))?;
    let quality = parts.find_map(|parameter| parameter.strip_prefix("q="));
    let quality = quality.map_or(Some(1.0), |quality| quality.parse().ok())?;
    Some((range, quality))
}

/// By the range that names the type most closely.
fn quality(media_type: &str, ranges: &[(&str, f64)]) -> f64 {
    let family = media_type.split('/').next().unwrap_or_default();
    let any_of_family = format!("{family}/*");
    let wanted = [media_type, &any_of_family, "*/*"];
    let by_closeness = wanted.iter().find_map(|wanted| ranges.iter().find(|(range, _)| range == wanted));
    by_closeness.map_or(0.0, |(_, quality)| *quality)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFERED: [(&str, u8); 3] = [("application/json", 0), ("text/markdown", 1), ("text/csv", 2)];

    fn chosen(accept: &str) -> Option<u8> {
        let headers = HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]);
        negotiate(&headers, &OFFERED).ok()
    }

    #[test]
    fn the_best_ranked_form_is_chosen_and_the_first_of_equals() {
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
        for (accept, form) in known {
            assert_eq!(chosen(accept), form, "{accept}");
        }
    }

    #[test]
    fn a_refusal_names_what_there_is() {
        let headers = HeaderMap::from_iter([(header::ACCEPT, "image/png".parse().unwrap())]);
        let refused = negotiate(&headers, &OFFERED).unwrap_err().to_string();
        assert!(refused.contains("text/markdown") && refused.contains("Accept"), "{refused}");
    }
}
