//! Text values by Specific Character Set (0008,0005): single character sets, and several with code extensions (PS3.3, C.12.1.1.2; PS3.5,
//! 6.1.2.5).

use dicom_encoding::text::{SpecificCharacterSet, TextCodec};

const ESCAPE: u8 = 0x1b;

/// Escape sequences after ESC (PS3.3, tables C.12-3 and C.12-4) and the character set that they select. ISO-IR 87 and 159 are decoded with
/// their sequence, since their codec is ISO-2022-JP, which needs it.
const EXTENSIONS: [(&[u8], &str); 15] = [
    (b"$(D", JAPANESE),
    (b"$)C", "ISO_IR 149"),
    (b"$)A", "GBK"),
    (b"$B", JAPANESE),
    (b"(B", "ISO_IR 6"),
    (b"(J", "ISO_IR 13"),
    (b")I", "ISO_IR 13"),
    (b"-A", "ISO_IR 100"),
    (b"-B", "ISO_IR 101"),
    (b"-C", "ISO_IR 109"),
    (b"-D", "ISO_IR 110"),
    (b"-F", "ISO_IR 126"),
    (b"-G", "ISO_IR 127"),
    (b"-H", "ISO_IR 138"),
    (b"-L", "ISO_IR 144"),
];

/// The multi-byte character sets of Japanese.
const JAPANESE: &str = "ISO_IR 87";

/// The character sets of a header.
pub(super) struct CharacterSets {
    /// The set of texts without escape sequences; `None` if the header declares none, or one that is unknown.
    initial: Option<SpecificCharacterSet>,
}

impl CharacterSets {
    /// Reads a value of Specific Character Set. Its first value may be empty, which is ASCII.
    pub(super) fn declared(value: &[u8]) -> Self {
        let declared = String::from_utf8_lossy(value);
        let mut codes = declared.split('\\').map(|code| code.trim_matches(['\0', ' ']));
        let initial = codes.next().filter(|code| !code.is_empty()).and_then(SpecificCharacterSet::from_code);
        Self { initial: initial.filter(|set| *set != SpecificCharacterSet::ISO_IR_6) }
    }

    /// Decodes a text. Bytes that are not of the declared character set are read as UTF-8 if they are UTF-8, else as ISO 8859-1: both are
    /// common in files that declare ASCII or nothing.
    pub(super) fn decode(&self, value: &[u8]) -> String {
        let mut segments = value.split(|byte| *byte == ESCAPE);
        let mut text = decode_by(self.initial.as_ref(), segments.next().unwrap_or_default());
        for segment in segments {
            text += &self.decode_extension(segment);
        }
        text
    }

    /// Decodes the text after an ESC byte, up to the next one.
    fn decode_extension(&self, segment: &[u8]) -> String {
        let Some((sequence, code)) = EXTENSIONS.iter().find(|(sequence, _)| segment.starts_with(sequence)) else {
            return decode_by(self.initial.as_ref(), segment);
        };
        let set = SpecificCharacterSet::from_code(code);
        if *code == JAPANESE {
            return decode_by(set.as_ref(), &[&[ESCAPE], segment].concat());
        }
        // ASCII in the lower half leaves the upper half to the initial set.
        let set = set.filter(|set| *set != SpecificCharacterSet::ISO_IR_6).or_else(|| self.initial.clone());
        decode_by(set.as_ref(), &segment[sequence.len()..])
    }

    /// Every plausible reading of a text, for comparisons that must not miss one: some headers declare another character set than they use.
    pub(super) fn readings(&self, value: &[u8]) -> Vec<String> {
        let mut readings = vec![self.decode(value), decode_latin(value)];
        readings.extend(std::str::from_utf8(value).map(str::to_owned));
        readings.dedup();
        readings
    }
}

fn decode_by(set: Option<&SpecificCharacterSet>, bytes: &[u8]) -> String {
    match (set, std::str::from_utf8(bytes)) {
        (None, Ok(text)) => text.to_owned(),
        (None, Err(_)) => decode_latin(bytes),
        (Some(set), utf8) => {
            set.decode(bytes).unwrap_or_else(|_| utf8.map_or_else(|_| decode_latin(bytes), str::to_owned))
        }
    }
}

/// ISO 8859-1, in which each byte is a character.
fn decode_latin(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(sets: &str, value: &[u8]) -> String {
        CharacterSets::declared(sets.as_bytes()).decode(value)
    }

    /// PS3.5, annexes H.3, I.2, J.3 and K.2, and the single sets of table C.12-2.
    #[test]
    fn decodes_the_examples_of_the_standard() {
        let yamada = b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B";
        assert_eq!(decoded("\\ISO 2022 IR 87", yamada), "Yamada^Tarou=山田^太郎=やまだ^たろう");
        let katakana =
            b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J";
        assert_eq!(decoded("ISO 2022 IR 13\\ISO 2022 IR 87", katakana), "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう");
        let hong = b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf";
        assert_eq!(decoded("\\ISO 2022 IR 149", hong), "Hong^Gildong=洪^吉洞=홍^길동");
        let wang = "Wang^XiaoDong=王^小东=";
        assert_eq!(decoded("ISO_IR 192", wang.as_bytes()), wang);
        assert_eq!(decoded("GB18030", b"Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab="), wang);
        assert_eq!(
            decoded("\\ISO 2022 IR 58", b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab="),
            "Zhang^XiaoDong=张^小东="
        );
        assert_eq!(decoded("ISO_IR 100", b"Buc^J\xe9r\xf4me"), "Buc^Jérôme");
        assert_eq!(decoded("ISO_IR 144", b"\xbb\xee\xdace\xdc\xd1yp\xd3").chars().count(), 10);
        assert_eq!(decoded("ISO_IR 126", b"\xc4\xe9\xef\xed\xf5\xf3\xe9\xef\xf2"), "Διονυσιος");
        assert_eq!(
            decoded("\\ISO 2022 IR 100\\ISO 2022 IR 144", b"J\x1b-A\xe9r\xf4me=\x1b-L\xbb\xee\xda"),
            "Jérôme=Люк"
        );
    }

    #[test]
    fn text_of_an_undeclared_or_unknown_set_is_utf_8_or_latin_1() {
        for sets in ["", "ISO_IR 6", "UNKNOWN"] {
            assert_eq!(decoded(sets, "Prüf^Größe".as_bytes()), "Prüf^Größe", "{sets}");
            assert_eq!(decoded(sets, b"Pr\xfcf^Gr\xf6\xdfe"), "Prüf^Größe", "{sets}");
            assert_eq!(decoded(sets, b"CHEST"), "CHEST");
        }
    }

    #[test]
    fn readings_include_a_set_that_is_used_instead_of_the_declared_one() {
        let sets = CharacterSets::declared(b"ISO_IR 100");
        assert!(sets.readings("Größe".as_bytes()).contains(&"Größe".to_owned()));
        let sets = CharacterSets::declared(b"ISO_IR 192");
        assert!(sets.readings(b"Gr\xf6\xdfe").contains(&"Größe".to_owned()));
    }
}
