//! NumPy arrays of images and labels, read row by row.

use std::{
    fs::File,
    io::{BufReader, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::Path,
};

use crate::{
    dataset::{
        folder::resolve_below,
        npy::{self, Element, Header},
    },
    domain::ClassList,
    imaging::{self, GreyImage, Limits},
};

/// Maximum number of rows, because the entries of an import are held in memory.
const MAX_ROWS: u64 = 1_000_000;

/// Open array of images: [n, height, width] or [n, height, width, channels] with 1 or 3 channels.
#[derive(Debug)]
pub struct ImageArray {
    file: File,
    header: Header,
    rows: u64,
    height: u32,
    width: u32,
    channels: usize,
}

impl ImageArray {
    /// Opens a file below `root`.
    ///
    /// # Errors
    /// Description of the problem.
    pub fn open(root: &Path, name: &str, limits: &Limits) -> Result<Self, String> {
        let (file, header) = open(root, name)?;
        if !matches!(header.element, Element::Float32 | npy::UINT8) {
            return Err("images must be float32 from 0 to 1 or uint8".into());
        }
        let (rows, height, width, channels) = match header.shape[..] {
            [rows, height, width] => (rows, height, width, 1),
            [rows, height, width, channels @ (1 | 3)] => (rows, height, width, channels as usize),
            _ => {
                return Err(format!(
                    "the shape must be (n, height, width) or (n, height, width, 1 or 3) (got {:?})",
                    header.shape
                ));
            }
        };
        let pixels = height.checked_mul(width).filter(|pixels| *pixels <= limits.max_pixels);
        let sides = pixels.and_then(|_| u32::try_from(height).ok().zip(u32::try_from(width).ok()));
        let Some((height, width)) = sides else {
            return Err(format!("the images have {width} x {height} pixels, over the limit of {}", limits.max_pixels));
        };
        if height.min(width) < imaging::MIN_SIDE {
            let min = imaging::MIN_SIDE;
            return Err(format!("each side must have at least {min} pixels (got {width} x {height})"));
        }
        if rows > MAX_ROWS {
            return Err(format!("the array must have at most {MAX_ROWS} images (got {rows})"));
        }
        Ok(Self { file, header, rows, height, width, channels })
    }

    /// The number of images.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The number of pixels per image.
    pub(super) fn pixels(&self) -> u64 {
        u64::from(self.height) * u64::from(self.width)
    }

    /// Image `row`, counted from 0, as PNG: grey, or RGB if its channels differ.
    ///
    /// # Errors
    /// A grey level is out of range, or the file cannot be read.
    pub fn png(&self, row: u64) -> Result<Vec<u8>, String> {
        let levels = self.levels(row)?;
        let (width, height) = (self.width, self.height);
        if self.channels == 1 {
            return Ok(imaging::encode_png(&GreyImage { width, height, pixels: levels }));
        }
        let colours = levels.as_chunks::<3>().0;
        if colours.iter().all(|[red, green, blue]| red == green && green == blue) {
            let pixels = colours.iter().map(|[red, ..]| *red).collect();
            return Ok(imaging::encode_png(&GreyImage { width, height, pixels }));
        }
        Ok(imaging::encode_colour_png(width, height, &levels))
    }

    /// The grey levels of an image, 0 to 255, with interleaved channels.
    fn levels(&self, row: u64) -> Result<Vec<u8>, String> {
        let elements = self.pixels() as usize * self.channels;
        let mut bytes = vec![0; elements * self.header.element.bytes() as usize];
        let at = self.header.length + row * bytes.len() as u64;
        self.file.read_exact_at(&mut bytes, at).map_err(|error| format!("image {row}: {error}"))?;
        if self.header.element == npy::UINT8 {
            return Ok(bytes);
        }
        let level = |bytes: &[u8; 4]| {
            let value = f32::from_le_bytes(*bytes);
            let inside = (0.0..=1.0).contains(&value);
            if inside {
                Ok((value * 255.0).round() as u8)
            } else {
                Err(format!("grey levels must be between 0 and 1 (got {value})"))
            }
        };
        bytes.as_chunks::<4>().0.iter().map(level).collect()
    }
}

/// The labels of an array as classes of the data set, in order. Integers are indices in the class list, texts are class names.
///
/// # Errors
/// The outer error concerns the file, an inner error a row.
pub fn labels(root: &Path, name: &str, classes: &ClassList) -> Result<Vec<Result<String, String>>, String> {
    let (file, header) = open(root, name)?;
    let [rows] = header.shape[..] else {
        return Err(format!("{name}: the shape must be (n,) (got {:?})", header.shape));
    };
    if header.element == Element::Float32 {
        return Err(format!("{name}: labels must be integers or texts"));
    }
    if rows > MAX_ROWS {
        return Err(format!("{name}: the array must have at most {MAX_ROWS} labels (got {rows})"));
    }
    let failed = |error: std::io::Error| format!("{name}: {error}");
    let mut from = BufReader::new(file);
    from.seek(SeekFrom::Start(header.length)).map_err(failed)?;
    let mut bytes = vec![0; header.element.bytes() as usize];
    let label = |_| {
        from.read_exact(&mut bytes).map_err(failed)?;
        Ok(label(header.element, &bytes, classes))
    };
    (0..rows).map(label).collect()
}

fn label(element: Element, bytes: &[u8], classes: &ClassList) -> Result<String, String> {
    if let Element::Text(_) = element {
        let name = text(bytes).ok_or("the label is not valid text")?;
        let class = crate::dataset::match_class(classes, &name).map(str::to_owned);
        return class.ok_or_else(|| {
            format!("{name:?} is not a class of this data set (expected one of {})", classes.names().join(", "))
        });
    }
    let number = integer(element, bytes);
    let class = usize::try_from(number).ok().and_then(|at| classes.names().get(at));
    class.cloned().ok_or_else(|| format!("label must be between 0 and {} (got {number})", classes.len() - 1))
}

/// Decodes UTF-32 text without its zero padding.
fn text(bytes: &[u8]) -> Option<String> {
    let characters = bytes.as_chunks::<4>().0.iter().map(|bytes| char::from_u32(u32::from_le_bytes(*bytes)));
    let text: String = characters.collect::<Option<_>>()?;
    Some(text.trim_end_matches('\0').to_owned())
}

/// Decodes a little-endian integer of 1 to 8 bytes.
fn integer(element: Element, bytes: &[u8]) -> i128 {
    let unsigned = bytes.iter().rev().fold(0_i128, |number, byte| (number << 8) | i128::from(*byte));
    let top = 1_i128 << (bytes.len() * 8);
    let negative = matches!(element, Element::Signed(_)) && unsigned >= top / 2;
    if negative { unsigned - top } else { unsigned }
}

/// Opens an array file below `root`.
fn open(root: &Path, name: &str) -> Result<(File, Header), String> {
    let path = resolve_below(root, name).map_err(|error| error.to_string())?;
    let failed = |error: std::io::Error| format!("{name}: {error}");
    // Checked before opening, because opening a named pipe blocks until it has a writer.
    let metadata = path.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(format!("{name}: not a regular file"));
    }
    let file = File::open(&path).map_err(failed)?;
    let header = Header::read(&file, metadata.len()).map_err(|error| format!("{name}: {error}"))?;
    Ok((file, header))
}
