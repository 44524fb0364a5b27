//! Sequences of unknown VR and undefined length (UN), which are encoded in implicit VR whatever the transfer syntax is (PS3.5, 6.2.2).

use std::borrow::Cow;

use super::syntax::TransferSyntax;

/// Maximum nesting depth of sequences.
const MAX_DEPTH: usize = 32;

/// Length field of an undefined length.
const UNDEFINED: u32 = u32::MAX;

/// VRs whose length field has four bytes.
const LONG_VRS: [&[u8; 2]; 13] =
    [b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"];

/// Tags as (group, element).
const ITEM: (u16, u16) = (0xfffe, 0xe000);
const ITEM_END: (u16, u16) = (0xfffe, 0xe00d);
const SEQUENCE_END: (u16, u16) = (0xfffe, 0xe0dd);
const PIXEL_DATA: (u16, u16) = (0x7fe0, 0x0010);

/// The data set, in which each such sequence has a defined length, so that a reader of explicit VR can skip it. A data set that cannot be
/// parsed is returned as it is.
pub(super) fn with_defined_lengths<'a>(data_set: &'a [u8], syntax: &TransferSyntax) -> Cow<'a, [u8]> {
    let head = [&b"UN\0\0"[..], &UNDEFINED.to_le_bytes()].concat();
    if syntax.implicit || memchr::memmem::find(data_set, &head).is_none() {
        return data_set.into();
    }
    let mut reader = Reader { bytes: data_set, big_endian: syntax.big_endian, unknown: Vec::new() };
    reader.elements(0, data_set.len(), 0);
    let mut data_set = data_set.to_vec();
    for (start, end) in reader.unknown {
        let length = (end - start) as u32;
        let bytes = if syntax.big_endian { length.to_be_bytes() } else { length.to_le_bytes() };
        data_set[start - 4..start].copy_from_slice(&bytes);
    }
    data_set.into()
}

/// Walks the elements of a data set in explicit VR and collects the values of the sequences of unknown VR and undefined length.
struct Reader<'a> {
    bytes: &'a [u8],
    big_endian: bool,
    /// Start and end of each value.
    unknown: Vec<(usize, usize)>,
}

impl Reader<'_> {
    /// Walks elements from `at` up to `end` or to an item delimiter, and returns the position after them; none if they are corrupt.
    fn elements(&mut self, mut at: usize, end: usize, depth: usize) -> Option<usize> {
        while at < end {
            let tag = self.tag(at)?;
            if tag == ITEM_END {
                return Some(at + 8);
            }
            if tag == PIXEL_DATA && depth == 0 {
                return Some(end);
            }
            let vr: &[u8; 2] = self.bytes.get(at + 4..)?.first_chunk()?;
            let (value, length) = if LONG_VRS.contains(&vr) {
                (at + 12, self.long(at + 8)?)
            } else {
                (at + 8, u32::from(self.short(at + 6)?))
            };
            at = match (vr, length) {
                (b"UN", UNDEFINED) => {
                    let after = implicit_sequence(self.bytes, value, depth)?;
                    self.unknown.push((value, after));
                    after
                }
                (_, UNDEFINED) => self.items(value, end, depth + 1)?,
                (b"SQ", length) => {
                    let after = value.checked_add(length as usize)?;
                    self.items(value, after, depth + 1)?;
                    after
                }
                (_, length) => value.checked_add(length as usize)?,
            };
        }
        Some(at)
    }

    /// Walks the items of a sequence from `at` up to `end` or to a sequence delimiter, and returns the position after them.
    fn items(&mut self, mut at: usize, end: usize, depth: usize) -> Option<usize> {
        if depth > MAX_DEPTH {
            return None;
        }
        while at < end {
            let (tag, length) = (self.tag(at)?, self.long(at + 4)?);
            at += 8;
            match (tag, length) {
                (SEQUENCE_END, _) => return Some(at),
                (ITEM, UNDEFINED) => at = self.elements(at, end, depth)?,
                (ITEM, length) => {
                    let after = at.checked_add(length as usize)?;
                    self.elements(at, after, depth)?;
                    at = after;
                }
                _ => return None,
            }
        }
        Some(at)
    }

    fn tag(&self, at: usize) -> Option<(u16, u16)> {
        Some((self.short(at)?, self.short(at + 2)?))
    }

    fn short(&self, at: usize) -> Option<u16> {
        let bytes = *self.bytes.get(at..)?.first_chunk()?;
        Some(if self.big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }

    fn long(&self, at: usize) -> Option<u32> {
        let bytes = *self.bytes.get(at..)?.first_chunk()?;
        Some(if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }
}

/// The position after a sequence of undefined length in implicit VR little endian, whose items start at `at`.
fn implicit_sequence(bytes: &[u8], mut at: usize, depth: usize) -> Option<usize> {
    if depth > MAX_DEPTH {
        return None;
    }
    loop {
        let (tag, length) = implicit_header(bytes, at)?;
        at += 8;
        match (tag, length) {
            (SEQUENCE_END, _) => return Some(at),
            (ITEM, UNDEFINED) => at = implicit_item(bytes, at, depth)?,
            (ITEM, length) => at = at.checked_add(length as usize)?,
            _ => return None,
        }
    }
}

/// The position after the item delimiter of an item of undefined length.
fn implicit_item(bytes: &[u8], mut at: usize, depth: usize) -> Option<usize> {
    loop {
        let (tag, length) = implicit_header(bytes, at)?;
        at += 8;
        match (tag, length) {
            (ITEM_END, _) => return Some(at),
            (_, UNDEFINED) => at = implicit_sequence(bytes, at, depth + 1)?,
            (_, length) => at = at.checked_add(length as usize)?,
        }
    }
}

/// Tag and length of an element in implicit VR little endian.
fn implicit_header(bytes: &[u8], at: usize) -> Option<((u16, u16), u32)> {
    let [g0, g1, e0, e1, length @ ..]: [u8; 8] = *bytes.get(at..)?.first_chunk()?;
    Some(((u16::from_le_bytes([g0, g1]), u16::from_le_bytes([e0, e1])), u32::from_le_bytes(length)))
}
