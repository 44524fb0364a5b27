//! Reasons for which compressed data cannot be decoded, in plain words. Decoders of PNG, JPEG, gzip and zip describe errors in the terms of
//! their implementation, which tell a client nothing; those texts go to the debug log. All messages of such decoders pass through here.

use std::fmt::Display;

/// The reason of the first row with a text that occurs in the decoder's message, in lower case.
const REASONS: [(&[&str], &str); 9] = [
    (
        &[
            "unexpected end",
            "unexpected eof",
            "failed to fill whole buffer",
            "early eof",
            "incomplete deflate stream",
            "insufficientinput",
            "not have enough data",
            "could not find eocd",
            "could not find central directory end",
        ],
        "is truncated",
    ),
    (&["crc error", "crc mismatch", "invalid checksum"], "is damaged: a checksum (CRC-32) does not match"),
    (&["wrongchecksum"], "is damaged: the checksum of its pixels (Adler-32) does not match"),
    (&["matching checksum"], "is damaged: its checksum does not match"),
    (&["deflate", "huffman", "coefficient", "inflation"], "is damaged: its compressed data is invalid"),
    (&["gzip header"], "is damaged: its gzip header is invalid"),
    (&["chunk is missing", "not all components have data"], "has no image data"),
    (&["limits are exceeded", "decompression space"], "has too much metadata"),
    (&["unsupported", "password", "not supported"], "uses a feature of its format that is not supported"),
];

/// The reason for everything else: a header or table that contradicts the rest of the file.
const OTHERWISE: &str = "is damaged: its structure is invalid";

/// A sentence about `what`, such as "the PNG is truncated", for the error of a decoder.
pub fn plain_reason(what: &str, error: &dyn Display) -> String {
    let message = error.to_string();
    tracing::debug!(message, "{what} cannot be decoded");
    let lower = message.to_lowercase();
    let known = REASONS.iter().find(|(texts, _)| texts.iter().any(|text| lower.contains(text)));
    format!("{what} {}", known.map_or(OTHERWISE, |(_, reason)| reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_decoders_become_reasons_in_plain_words() {
        let of = |message: &str| plain_reason("it", &message);
        assert_eq!(
            of("CRC error: expected 0xbf4ec5c3 have 0x1 while decoding ChunkType { type: IDAT } chunk."),
            "it is damaged: a checksum (CRC-32) does not match"
        );
        assert_eq!(
            of("Corrupt deflate stream. WrongChecksum"),
            "it is damaged: the checksum of its pixels (Adler-32) does not match"
        );
        assert_eq!(of("Corrupt deflate stream. InsufficientInput"), "it is truncated");
        assert_eq!(of("corrupt deflate stream"), "it is damaged: its compressed data is invalid");
        assert_eq!(
            of("invalid JPEG format: failed to decode huffman code"),
            "it is damaged: its compressed data is invalid"
        );
        assert_eq!(
            of("corrupt gzip stream does not have a matching checksum"),
            "it is damaged: its checksum does not match"
        );
        assert_eq!(of("invalid JPEG format: use of unset quantization table"), format!("it {OTHERWISE}"));
    }
}
