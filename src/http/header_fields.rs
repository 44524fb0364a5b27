//! Parameters of `Content-Type` and `Content-Disposition` as clients write them: quoted or not, extended (RFC 8187), and as encoded words
//! (RFC 2047), which .NET sends in forms.

use axum::http::{HeaderMap, HeaderName, header};
use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use encoding_rs::{Encoding, WINDOWS_1252};
use percent_encoding::percent_decode;

/// Base64 of encoded words, with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A parameter of a header field, such as `boundary`. A value that should be quoted is accepted without quotes.
pub(super) fn parameter(headers: &HeaderMap, field: HeaderName, name: &str) -> Option<String> {
    let value = headers.get(field)?.as_bytes();
    parameters(value).into_iter().find(|(known, _)| known == name).map(|(_, value)| text(&value))
}

/// Name of a form's part; empty if it has none.
pub(super) fn part_name(headers: &HeaderMap) -> String {
    parameter(headers, header::CONTENT_DISPOSITION, "name").map(|name| decode_words(&name)).unwrap_or_default()
}

/// File name of a form's part: `filename*` takes precedence over `filename` (RFC 6266, 4.3).
pub(super) fn file_name(headers: &HeaderMap) -> Option<String> {
    let extended = parameter(headers, header::CONTENT_DISPOSITION, "filename*");
    let extended = extended.and_then(|value| decode_extended(&value));
    extended.or_else(|| parameter(headers, header::CONTENT_DISPOSITION, "filename").map(|name| decode_words(&name)))
}

/// The parameters after the first `;`, with names in lower case.
fn parameters(field: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut parameters = Vec::new();
    let mut rest = field.iter().position(|byte| *byte == b';').map(|at| &field[at..]).unwrap_or_default();
    loop {
        rest = trim_start(rest, |byte| byte == b';' || byte.is_ascii_whitespace());
        let Some(end) = rest.iter().position(|byte| matches!(byte, b'=' | b';')) else { return parameters };
        let name = String::from_utf8_lossy(rest[..end].trim_ascii()).to_ascii_lowercase();
        if rest[end] == b';' {
            rest = &rest[end..];
            continue;
        }
        let (value, after) = parameter_value(trim_start(&rest[end + 1..], |byte| byte.is_ascii_whitespace()));
        parameters.push((name, value));
        rest = after;
    }
}

/// The value of a parameter, and the rest of the field.
fn parameter_value(field: &[u8]) -> (Vec<u8>, &[u8]) {
    let Some(quoted) = field.strip_prefix(b"\"") else {
        let end = field.iter().position(|byte| *byte == b';').unwrap_or(field.len());
        return (field[..end].trim_ascii().to_vec(), &field[end..]);
    };
    let mut value = Vec::new();
    let mut at = 0;
    while let Some(byte) = quoted.get(at) {
        match (byte, quoted.get(at + 1)) {
            (b'"', _) => return (value, &quoted[at + 1..]),
            // Only these: some clients send paths with backslashes.
            (b'\\', Some(escaped @ (b'"' | b'\\'))) => {
                value.push(*escaped);
                at += 1;
            }
            _ => value.push(*byte),
        }
        at += 1;
    }
    (value, &[])
}

fn trim_start(bytes: &[u8], skip: impl Fn(u8) -> bool) -> &[u8] {
    let start = bytes.iter().position(|byte| !skip(*byte)).unwrap_or(bytes.len());
    &bytes[start..]
}

/// UTF-8 as browsers send it, else Windows-1252, which includes ISO 8859-1.
fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => WINDOWS_1252.decode_without_bom_handling(bytes).0.into_owned(),
    }
}

/// `charset'language'percent-encoded` (RFC 8187); none if it is malformed.
fn decode_extended(value: &str) -> Option<String> {
    let mut parts = value.splitn(3, '\'');
    let (charset, _language, encoded) = (parts.next()?, parts.next()?, parts.next()?);
    let bytes: Vec<u8> = percent_decode(encoded.as_bytes()).collect();
    Some(Encoding::for_label(charset.as_bytes())?.decode_without_bom_handling(&bytes).0.into_owned())
}

/// Replaces encoded words, `=?charset?B?…?=` and `=?charset?Q?…?=`, by their text (RFC 2047). White space between two of them is not part
/// of the text.
fn decode_words(value: &str) -> String {
    let (mut decoded, mut rest, mut after_word) = (String::new(), value, false);
    while let Some(start) = rest.find("=?") {
        let (before, word) = rest.split_at(start);
        if !(after_word && before.trim().is_empty()) {
            decoded.push_str(before);
        }
        match decode_word(word) {
            Some((text, after)) => {
                decoded.push_str(&text);
                (rest, after_word) = (after, true);
            }
            None => {
                decoded.push_str("=?");
                (rest, after_word) = (&word[2..], false);
            }
        }
    }
    decoded.push_str(rest);
    decoded
}

/// The text of the encoded word at the start, and what follows it.
fn decode_word(word: &str) -> Option<(String, &str)> {
    let mut parts = word.strip_prefix("=?")?.splitn(3, '?');
    let (charset, encoding, rest) = (parts.next()?, parts.next()?, parts.next()?);
    let (encoded, after) = rest.split_once("?=")?;
    // A language may follow the character set (RFC 2231, 5).
    let charset = Encoding::for_label(charset.split('*').next()?.as_bytes())?;
    let bytes = match encoding {
        "B" | "b" => BASE64.decode(encoded).ok()?,
        "Q" | "q" => {
            percent_decode(encoded.replace('%', "%25").replace('_', " ").replace('=', "%").as_bytes()).collect()
        }
        _ => return None,
    };
    Some((charset.decode_without_bom_handling(&bytes).0.into_owned(), after))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn disposition(value: &[u8]) -> HeaderMap {
        HeaderMap::from_iter([(header::CONTENT_DISPOSITION, HeaderValue::from_bytes(value).unwrap())])
    }

    #[test]
    fn reads_the_file_names_of_many_clients() {
        let known: [(&[u8], &str); 14] = [
            // curl, requests
            (b"form-data; name=\"file\"; filename=\"a.png\"", "a.png"),
            // .NET: both, the first as an encoded word
            (
                b"form-data; name=file; filename=\"=?utf-8?B?UHLDvGZfR3LDtsOfZS5kY20=?=\"; filename*=utf-8''Pr%C3%BCf_Gr%C3%B6%C3%9Fe.dcm",
                "Prüf_Größe.dcm",
            ),
            (b"form-data; name=file; filename=\"=?utf-8?B?UHLDvGZfR3LDtsOfZS5kY20=?=\"", "Prüf_Größe.dcm"),
            // RFC 8187, alone and before `name`
            (b"form-data; name=file; filename*=UTF-8''%E6%A4%9C%E6%9F%BB.dcm", "検査.dcm"),
            (b"form-data; filename*=iso-8859-1'de'Pr%FCf.dcm; name=file", "Prüf.dcm"),
            (b"form-data; name=file; filename=ascii.dcm; filename*=UTF-8''Pr%C3%BCf.dcm", "Prüf.dcm"),
            // malformed extended value: the plain one counts
            (b"form-data; name=file; filename=\"plain.dcm\"; filename*=broken", "plain.dcm"),
            // Q encoding, two words
            (b"form-data; name=file; filename=\"=?iso-8859-1?Q?Pr=FCf_?= =?utf-8?q?Gr=C3=B6=C3=9Fe.png?=\"", "Prüf Größe.png"),
            // browsers and curl: raw UTF-8; old clients: raw Latin-1
            ("form-data; name=\"file\"; filename=\"Größe.png\"".as_bytes(), "Größe.png"),
            (b"form-data; name=\"file\"; filename=\"Gr\xf6\xdfe.png\"", "Größe.png"),
            (b"form-data; name=\"file\"; filename=\"a \\\"b\\\"; name=x.png\"", "a \"b\"; name=x.png"),
            (b"form-data; name=\"file\"; filename=\"C:\\folder\\a.png\"", "C:\\folder\\a.png"),
            (b"form-data; name=file; filename=my scan.png", "my scan.png"),
            (b"form-data; name=file; filename=\"100% =?sure?.png\"", "100% =?sure?.png"),
        ];
        for (value, expected) in known {
            let headers = disposition(value);
            assert_eq!(file_name(&headers).as_deref(), Some(expected), "{}", String::from_utf8_lossy(value));
            assert_eq!(part_name(&headers), "file", "{}", String::from_utf8_lossy(value));
        }
        assert_eq!(file_name(&disposition(b"form-data; name=\"label\"")), None);
        assert_eq!(part_name(&HeaderMap::new()), "");
    }

    #[test]
    fn reads_parameters_with_and_without_quotes() {
        for value in [
            "multipart/related; type=\"application/dicom\"; boundary=\"a=b c\"",
            "multipart/related; type=application/dicom; boundary=a=b c",
            "multipart/related;boundary=a=b c;TYPE=application/dicom;",
        ] {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, value.parse().unwrap())]);
            let found = |name| parameter(&headers, header::CONTENT_TYPE, name);
            assert_eq!(found("type").as_deref(), Some("application/dicom"), "{value}");
            assert_eq!(found("boundary").as_deref(), Some("a=b c"), "{value}");
            assert_eq!(found("start"), None);
        }
    }
}
