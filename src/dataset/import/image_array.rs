//! Arrays of images and labels as NumPy saves them, read row by row.

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

/// Most rows; the entries of an import stand in memory.
const MOST_ROWS: u64 = 1_000_000;

/// An open array of images: `[n, height, width]`, or with 1 or 3 channels behind.
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
    /// What is wrong with it, in words.
    pub fn open(root: &Path, name: &str, limits: &Limits) -> Result<Self, String> {
        let (file, header) = open(root, name)?;
        if !matches!(header.element, Element::Float32 | npy::UINT8) {
            return Err("images must be float32 from 0 to 1 or uint8".into());
        }
        let (rows, height, width, channels) = match header.shape[..] {
            [rows, height, width] => (rows, height, width, 1),
            [rows, height, width, channels @ (1 | 3)] => (rows, height, width, channels as usize),
            _ => return Err(format!("the shape is {:?}, not (n, height, width, 1 or 3)", header.shape)),
        };
        let pixels = height.checked_mul(width).filter(|pixels| *pixels <= limits.max_pixels);
        let sides = pixels.and_then(|_| u32::try_from(height).ok().zip(u32::try_from(width).ok()));
        let Some((height, width)) = sides else {
            return Err(format!("{width} x {height} pixels are over the limit of {}", limits.max_pixels));
        };
        if height.min(width) < imaging::MIN_SIDE {
            return Err(format!("{width} x {height} pixels: each side needs at least {}", imaging::MIN_SIDE));
        }
        if rows > MOST_ROWS {
            return Err(format!("{rows} images, at most {MOST_ROWS} are read"));
        }
        Ok(Self { file, header, rows, height, width, channels })
    }

    /// How many images there are.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Pixels of an image.
    pub(super) fn pixels(&self) -> u64 {
        u64::from(self.height) * u64::from(self.width)
    }

    /// An image, from 0, as PNG: grey, or in colour where its channels differ.
    ///
    /// # Errors
    /// A level that is none, or a file that cannot be read.
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

    /// From 0 to 255, channel by channel.
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
            if inside { Ok((value * 255.0).round() as u8) } else { Err(format!("{value} is not within 0 and 1")) }
        };
        bytes.as_chunks::<4>().0.iter().map(level).collect()
    }
}

/// The labels of an array as classes of the data set, in order: whole numbers are positions in its list of classes, texts their names.
///
/// # Errors
/// The outer one is about the file, an inner one about a row.
pub fn labels(root: &Path, name: &str, classes: &ClassList) -> Result<Vec<Result<String, String>>, String> {
    let (file, header) = open(root, name)?;
    let [rows] = header.shape[..] else {
        return Err(format!("{name}: the shape is {:?}, not (n,)", header.shape));
    };
    if header.element == Element::Float32 {
        return Err(format!("{name}: labels must be whole numbers or texts"));
    }
    if rows > MOST_ROWS {
        return Err(format!("{name}: {rows} labels, at most {MOST_ROWS} are read"));
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
        let name = text(bytes).ok_or("the label is no text")?;
        let class = crate::dataset::match_class(classes, &name).map(str::to_owned);
        return class
            .ok_or_else(|| format!("{name:?} is not a class of this data set: {}", classes.names().join(", ")));
    }
    let number = whole(element, bytes);
    let class = usize::try_from(number).ok().and_then(|at| classes.names().get(at));
    class.cloned().ok_or_else(|| format!("label {number} is none of 0 to {}", classes.len() - 1))
}

/// Characters of four bytes, without the zeros at their end.
fn text(bytes: &[u8]) -> Option<String> {
    let characters = bytes.as_chunks::<4>().0.iter().map(|bytes| char::from_u32(u32::from_le_bytes(*bytes)));
    let text: String = characters.collect::<Option<_>>()?;
    Some(text.trim_end_matches('\0').to_owned())
}

/// Little endian, of 1 to 8 bytes.
fn whole(element: Element, bytes: &[u8]) -> i128 {
    let unsigned = bytes.iter().rev().fold(0_i128, |number, byte| (number << 8) | i128::from(*byte));
    let top = 1_i128 << (bytes.len() * 8);
    let negative = matches!(element, Element::Signed(_)) && unsigned >= top / 2;
    if negative { unsigned - top } else { unsigned }
}

fn open(root: &Path, name: &str) -> Result<(File, Header), String> {
    let path = resolve_below(root, name).map_err(|error| error.to_string())?;
    let failed = |error: std::io::Error| format!("{name}: {error}");
    // Asked before opening: to open a pipe is to wait for its writer.
    let metadata = path.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(format!("{name}: not a file"));
    }
    let file = File::open(&path).map_err(failed)?;
    let header = Header::read(&file, metadata.len()).map_err(|error| format!("{name}: {error}"))?;
    Ok((file, header))
}
