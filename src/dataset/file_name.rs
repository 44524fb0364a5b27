//! File names: which may be stored, and what replaces the others.
//!
//! The name of a DICOM file is often the patient's name. It is never stored or logged, however the file is named and however it came in.

use std::path::Path;

use crate::{
    domain::Sha256,
    imaging::{self, Format},
};

/// Number of hexadecimal digits of the hash in a neutral name. Enough that names in a data set differ.
const DIGITS: usize = 12;

/// Extensions of files that are not DICOM and occur next to radiographs.
const OTHER_EXTENSIONS: [&str; 24] = [
    "png", "jpg", "jpeg", "gif", "bmp", "tif", "tiff", "webp", "txt", "csv", "tsv", "json", "xml", "yaml", "toml",
    "md", "html", "pdf", "xlsx", "npy", "npz", "zip", "tar", "gz",
];

/// The name of a stored file whose own name is not stored: its type and the first digits of its SHA-256.
pub fn neutral_name(sha256: &Sha256, format: Format) -> String {
    format!("radiograph-{}.{}", &sha256.as_str()[..DIGITS], format.extension())
}

/// True if the name of a file with this content must not be stored. `content` may be the beginning of the file, or empty if it cannot
/// be read; then the name itself decides.
pub fn is_private(name: &str, content: &[u8]) -> bool {
    match imaging::sniff(content) {
        Some(Format::Dicom) => true,
        Some(Format::Png | Format::Jpeg) => false,
        None => looks_like_dicom(name),
    }
}

/// True unless the extension is that of another kind of file. DICOM files are called `IM0001`, `1.2.826.0.1`, `name.dcm`.
fn looks_like_dicom(name: &str) -> bool {
    let name = name.rsplit(['/', '\\']).next().unwrap_or_default();
    // A row of an array is called `x_train_128.npy[0]`.
    let name = name.strip_suffix(']').and_then(|name| name.rsplit_once('[')).map_or(name, |(array, _)| array);
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    !OTHER_EXTENSIONS.contains(&extension.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

    fn dicom() -> Vec<u8> {
        [&[0; 128][..], b"DICM"].concat()
    }

    #[test]
    fn the_content_decides_whether_a_name_may_be_stored() {
        for name in ["Zyxwander.png", "Zyxwander.dcm", "Zyxwander"] {
            assert!(is_private(name, &dicom()), "{name}");
            assert!(!is_private(name, PNG), "{name}");
        }
    }

    #[test]
    fn without_a_known_content_names_like_those_of_dicom_files_are_private() {
        for name in
            ["Prüf_Größe.dcm", "a/Zyxwander.DCM", "IM000001", "1.2.826.0.1.3680043", "検査", "Xq.Zw", "x.検査", ""]
        {
            assert!(is_private(name, b""), "{name}");
        }
        for name in ["notes.txt", "a.png", "b.jpeg", "c.gif"] {
            assert!(!is_private(name, b"text"), "{name}");
        }
    }

    #[test]
    fn a_neutral_name_has_the_type_and_the_hash() {
        let sha256 = Sha256::of(b"abc");
        assert_eq!(neutral_name(&sha256, Format::Jpeg), "radiograph-ba7816bf8f01.jpg");
        assert_eq!(neutral_name(&sha256, Format::Dicom), "radiograph-ba7816bf8f01.dcm");
    }
}
