//! The orientation in EXIF data (CIPA DC-008, TIFF 6.0).

use image::metadata::Orientation;

/// Tag of the orientation.
const TAG: u16 = 0x0112;

/// The orientation in the first directory; `None` if there is none or it has no meaning. Its type should be SHORT. Readers must accept every
/// unsigned integer (TIFF 6.0, section 2, page 16), and some cameras and programs write signed ones.
pub(super) fn orientation(exif: &[u8]) -> Option<Orientation> {
    let little_endian = match exif.get(..4)? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let short = |at: usize| {
        let bytes = exif.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if little_endian { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    };
    let long = |at: usize| {
        let bytes = exif.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if little_endian { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    };
    let directory = long(4)? as usize;
    let entries = usize::from(short(directory)?);
    let entry = (0..entries).map(|entry| directory + 2 + 12 * entry).find(|&at| short(at) == Some(TAG))?;
    if long(entry + 4)? != 1 {
        return None;
    }
    let value = match short(entry + 2)? {
        // BYTE and SBYTE; SHORT and SSHORT; LONG and SLONG.
        1 | 6 => u32::from(*exif.get(entry + 8)?),
        3 | 8 => short(entry + 8)?.into(),
        4 | 9 => long(entry + 8)?,
        _ => return None,
    };
    Orientation::from_exif(value.try_into().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with the width and then the orientation.
    fn exif(little_endian: bool, kind: u16, value: &[u8]) -> Vec<u8> {
        let short = |number: u16| if little_endian { number.to_le_bytes() } else { number.to_be_bytes() };
        let long = |number: u32| if little_endian { number.to_le_bytes() } else { number.to_be_bytes() };
        let mut bytes = if little_endian { b"II*\0" } else { b"MM\0*" }.to_vec();
        bytes.extend(long(8));
        bytes.extend(short(2));
        bytes.extend([&short(0x0100)[..], &short(3), &long(1), &long(0)].concat());
        bytes.extend([&short(TAG)[..], &short(kind), &long(1), value].concat());
        bytes.resize(bytes.len() + 4 - value.len() + 4, 0);
        bytes
    }

    /// Pillow rotates the same files (cantaloupe-project/cantaloupe#548, QGIS PR #55073).
    #[test]
    fn integers_of_every_type_and_byte_order_are_read() {
        for number in 1..=8_u8 {
            let expected = Orientation::from_exif(number);
            let (short, long) = (u16::from(number), u32::from(number));
            for (kinds, little, big) in [
                ([1, 6], vec![number], vec![number]),
                ([3, 8], short.to_le_bytes().to_vec(), short.to_be_bytes().to_vec()),
                ([4, 9], long.to_le_bytes().to_vec(), long.to_be_bytes().to_vec()),
            ] {
                for kind in kinds {
                    assert_eq!(orientation(&exif(true, kind, &little)), expected, "II, type {kind}, {number}");
                    assert_eq!(orientation(&exif(false, kind, &big)), expected, "MM, type {kind}, {number}");
                }
            }
        }
    }

    #[test]
    fn data_without_a_meaningful_orientation_has_none() {
        for (kind, value) in [(3, 0_u32), (3, 9), (4, 256), (4, 0x0001_0006), (9, u32::MAX), (2, 6), (5, 6), (11, 6)] {
            assert_eq!(orientation(&exif(true, kind, &value.to_le_bytes())), None, "type {kind}, {value}");
        }
        let whole = exif(true, 4, &6_u32.to_le_bytes());
        for length in 0..whole.len() - 4 {
            assert_eq!(orientation(&whole[..length]), None, "cut off after {length} bytes");
        }
        let mut far = whole.clone();
        far[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(orientation(&far), None);
    }
}
