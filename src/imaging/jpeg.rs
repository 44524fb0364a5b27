//! Marker segments of a JPEG stream (ITU-T T.81, annex B).

/// True if the stream reaches its end marker (EOI). Decoders fill the missing part of a truncated file with grey.
pub(super) fn is_complete(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    while let Some(at) = next_marker(rest) {
        let (marker, after) = (rest[at + 1], &rest[at + 2..]);
        rest = match marker {
            0xd9 => return true,
            // SOI, restart markers and TEM have no segment; every other marker is followed by the length of its segment.
            0xd8 | 0xd0..=0xd7 | 0x01 => after,
            _ => match after.first_chunk::<2>().and_then(|length| after.get(u16::from_be_bytes(*length).into()..)) {
                Some(next) => next,
                None => return false,
            },
        };
    }
    false
}

/// The position of the next marker: a byte 0xff that is followed by neither a stuffed zero nor a fill byte. Entropy-coded data cannot
/// contain a marker by accident, because each of its bytes 0xff is followed by a stuffed zero.
pub(super) fn next_marker(bytes: &[u8]) -> Option<usize> {
    let is_marker = |&at: &usize| bytes.get(at + 1).is_some_and(|next| !matches!(next, 0x00 | 0xff));
    memchr::memchr_iter(0xff, bytes).find(is_marker)
}
