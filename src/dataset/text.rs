//! Text encodings of label files and tables: UTF-8 and UTF-16 with or without byte order mark, and Latin-1 for tables.

/// Decodes a label file: UTF-8, or UTF-16 with a byte order mark (as written by "Unicode text" of Excel and by PowerShell). Invalid UTF-8
/// becomes replacement characters, so that only the rows concerned are rejected.
///
/// # Errors
/// UTF-16 that is invalid or has no byte order mark, and UTF-32.
pub fn decode_labels(bytes: &[u8]) -> Result<String, String> {
    decode(bytes, |bytes| String::from_utf8_lossy(bytes).into_owned())
}

/// Decodes a table: like [`decode_labels`], but bytes that are not UTF-8 are read as Latin-1 (ISO 8859-1).
pub(super) fn decode_table(bytes: &[u8]) -> Result<String, String> {
    decode(bytes, |bytes| match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().copied().map(char::from).collect(),
    })
}

fn decode(bytes: &[u8], decode_bytes: impl Fn(&[u8]) -> String) -> Result<String, String> {
    match bytes {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => Err("the file is UTF-32: save it as UTF-8".into()),
        [0xff, 0xfe, rest @ ..] => decode_utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => decode_utf16(rest, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] => Ok(decode_bytes(rest)),
        // Half of the bytes of ASCII text in UTF-16 are zero; text in other encodings has none.
        _ if bytes.iter().filter(|byte| **byte == 0).count() > bytes.len() / 4 => {
            Err("the file looks like UTF-16 without byte order mark: save it as UTF-8".into())
        }
        _ => Ok(decode_bytes(bytes)),
    }
}

fn decode_utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<String, String> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let units: Vec<u16> = pairs.iter().copied().map(unit).collect();
    let text = String::from_utf16(&units).ok().filter(|_| rest.is_empty());
    text.ok_or_else(|| "the file begins like UTF-16, but is not valid UTF-16: save it as UTF-8".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "p1 a.png normal Köln\n";

    #[test]
    fn utf8_and_utf16_are_decoded_by_their_byte_order_mark() {
        let little: Vec<u8> = "\u{feff}".chars().chain(TEXT.chars()).flat_map(|c| (c as u16).to_le_bytes()).collect();
        let big: Vec<u8> = "\u{feff}".chars().chain(TEXT.chars()).flat_map(|c| (c as u16).to_be_bytes()).collect();
        for bytes in [TEXT.as_bytes(), format!("\u{feff}{TEXT}").as_bytes(), &little, &big] {
            assert_eq!(decode_labels(bytes).as_deref(), Ok(TEXT));
            assert_eq!(decode_table(bytes).as_deref(), Ok(TEXT));
        }
        assert_eq!(decode_table(b"K\xf6ln").as_deref(), Ok("Köln"));
        assert_eq!(decode_labels(b"K\xf6ln").as_deref(), Ok("K\u{fffd}ln"));
    }

    #[test]
    fn other_encodings_are_refused_by_name() {
        let unmarked: Vec<u8> = TEXT.chars().flat_map(|c| (c as u16).to_le_bytes()).collect();
        for (bytes, name) in [
            (unmarked.as_slice(), "UTF-16"),
            (b"\xff\xfea", "UTF-16"),
            (b"\xff\xfe\x00\xd8", "UTF-16"),
            (b"\xff\xfe\0\0a\0\0\0", "UTF-32"),
        ] {
            assert!(decode_labels(bytes).unwrap_err().contains(name), "{bytes:?}");
        }
    }
}
