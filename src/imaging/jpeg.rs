//! JPEG streams (ITU-T T.81): marker segments, colour space, and decoding to one grey plane.

use std::io::Cursor;

use image::{DynamicImage, GrayImage, metadata::Orientation};
use jpeg_decoder::{ColorTransform, Decoder};

use super::{
    DecodedImage, GreyImage, ImageError, Limits, check_size, damage::plain_reason, exif, grey::luma, undecodable,
};

/// Marker segments of a stream that say how to decode it.
#[derive(Default)]
pub(super) struct Stream {
    /// The frame header (SOF); none if the stream has none.
    pub(super) frame: Option<Frame>,
    /// True if a JFIF segment is present: JFIF allows only grey and YCbCr.
    pub(super) jfif: bool,
    /// Transform flag of the Adobe segment: 0 (RGB or CMYK), 1 (YCbCr) or 2 (YCCK).
    pub(super) adobe: Option<u8>,
    /// Orientation by the EXIF segment.
    pub(super) orientation: Option<Orientation>,
    /// Identifiers of the components that have a scan.
    scanned: Vec<u8>,
    /// True if the stream reaches its end marker (EOI). Decoders fill the missing part of a truncated stream with grey.
    pub(super) complete: bool,
}

/// Frame header.
pub(super) struct Frame {
    /// Marker code of the frame: 0xc0 baseline, 0xc1 extended, 0xc2 progressive, 0xc3 lossless, from 0xc9 arithmetic coding, 0xf7 JPEG-LS.
    pub(super) code: u8,
    /// Bits per sample.
    pub(super) precision: u8,
    pub(super) width: u16,
    pub(super) height: u16,
    pub(super) components: Vec<Component>,
}

/// Component of a frame: its identifier, and its horizontal and vertical sampling factors.
pub(super) struct Component {
    pub(super) id: u8,
    pub(super) sampling: (u8, u8),
}

/// Colour space of the components.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ColourSpace {
    Grey,
    Rgb,
    YCbCr,
    Cmyk,
    Ycck,
}

impl Stream {
    /// Parses the marker segments.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let mut stream = Self::default();
        let mut rest = bytes;
        while let Some(at) = next_marker(rest) {
            let (marker, after) = (rest[at + 1], &rest[at + 2..]);
            rest = match marker {
                0xd9 => {
                    stream.complete = true;
                    break;
                }
                // SOI, restart markers and TEM have no segment; every other marker is followed by the length of its segment.
                0xd8 | 0xd0..=0xd7 | 0x01 => after,
                _ => match segment(after) {
                    Some((content, next)) => {
                        stream.add(marker, content);
                        next
                    }
                    None => break,
                },
            };
        }
        stream
    }

    fn add(&mut self, marker: u8, content: &[u8]) {
        match marker {
            // SOF; 0xc4, 0xc8 and 0xcc are tables and an extension.
            0xc0..=0xc3 | 0xc5..=0xc7 | 0xc9..=0xcb | 0xcd..=0xcf | 0xf7 if self.frame.is_none() => {
                self.frame = Frame::parse(marker, content);
            }
            // Shorter segments are not valid, and are removed from stored files.
            0xe0 if content.starts_with(b"JFIF\0") && content.len() >= 14 => self.jfif = true,
            0xe1 if self.orientation.is_none() => {
                let exif = content.strip_prefix(b"Exif\0\0");
                self.orientation = exif.and_then(exif::orientation);
            }
            0xda => {
                let count = content.first().copied().unwrap_or(0);
                let selectors = content.get(1..).unwrap_or_default().as_chunks::<2>().0.iter().take(count.into());
                self.scanned.extend(selectors.map(|[id, _]| id));
            }
            0xee if content.starts_with(b"Adobe") && content.len() >= 12 => self.adobe = Some(content[11]),
            _ => {}
        }
    }

    /// The frame header.
    ///
    /// # Errors
    /// The stream has no frame header, no end marker, or a component without a scan.
    pub(super) fn whole_frame(&self) -> Result<&Frame, ImageError> {
        let frame = self.frame.as_ref().ok_or_else(|| undecodable("the JPEG has no frame header"))?;
        if !self.complete {
            return Err(undecodable("the JPEG is truncated: it has no end marker"));
        }
        if let Some(component) = frame.components.iter().find(|component| !self.scanned.contains(&component.id)) {
            return Err(undecodable(format!("the JPEG has no scan of component {}", component.id)));
        }
        Ok(frame)
    }

    /// The colour space by the rules of libjpeg: the JFIF segment, else the Adobe segment, else the component identifiers.
    fn colour_space(&self, frame: &Frame) -> Option<ColourSpace> {
        match (frame.components.len(), self.adobe) {
            (1, _) => Some(ColourSpace::Grey),
            (3, _) if self.jfif => Some(ColourSpace::YCbCr),
            (3, Some(0)) => Some(ColourSpace::Rgb),
            (3, None) if frame.has_rgb_ids() => Some(ColourSpace::Rgb),
            (3, _) => Some(ColourSpace::YCbCr),
            (4, Some(2)) => Some(ColourSpace::Ycck),
            (4, _) => Some(ColourSpace::Cmyk),
            _ => None,
        }
    }
}

impl Frame {
    fn parse(code: u8, content: &[u8]) -> Option<Self> {
        let (&[precision, y1, y0, x1, x0, count], rest) = content.split_first_chunk::<6>()?;
        let component = |&[id, sampling, _]: &[u8; 3]| Component { id, sampling: (sampling >> 4, sampling & 15) };
        let components: Vec<Component> = rest.as_chunks::<3>().0.iter().take(count.into()).map(component).collect();
        let size = |high, low| u16::from_be_bytes([high, low]);
        (components.len() == usize::from(count)).then_some(Self {
            code,
            precision,
            width: size(x1, x0),
            height: size(y1, y0),
            components,
        })
    }

    /// True if the component identifiers are the letters R, G and B.
    pub(super) fn has_rgb_ids(&self) -> bool {
        let ids: Vec<u8> = self.components.iter().map(|component| component.id.to_ascii_uppercase()).collect();
        ids == b"RGB"
    }

    /// True if a component has fewer samples than another, which only chroma has.
    pub(super) fn is_subsampled(&self) -> bool {
        self.components.iter().any(|component| component.sampling != self.components[0].sampling)
    }

    /// True if the entropy coding is arithmetic.
    fn is_arithmetic(&self) -> bool {
        (0xc9..=0xcf).contains(&self.code)
    }
}

/// The content of a segment that starts at its length, and the rest of the stream.
fn segment(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = usize::from(u16::from_be_bytes(*bytes.first_chunk::<2>()?));
    let (segment, rest) = bytes.split_at_checked(length)?;
    Some((segment.get(2..)?, rest))
}

/// The position of the next marker: a byte 0xff that is followed by neither a stuffed zero nor a fill byte. Entropy-coded data cannot
/// contain a marker by accident, because each of its bytes 0xff is followed by a stuffed zero.
pub(super) fn next_marker(bytes: &[u8]) -> Option<usize> {
    let is_marker = |&at: &usize| bytes.get(at + 1).is_some_and(|next| !matches!(next, 0x00 | 0xff));
    memchr::memchr_iter(0xff, bytes).find(is_marker)
}

/// Decodes a JPEG file whose frame header is within `limits`, and applies its EXIF orientation.
pub(super) fn read(bytes: &[u8], limits: &Limits) -> Result<DecodedImage, ImageError> {
    let stream = Stream::parse(bytes);
    let frame = stream.frame.as_ref().ok_or_else(|| undecodable("the JPEG has no frame header"))?;
    check_size(frame.width.into(), frame.height.into(), limits)?;
    // The decoder would fill the missing part with grey, and half a chest must not pass for a whole one.
    stream.whole_frame()?;
    if frame.precision != 8 {
        return Err(undecodable(format!("a JPEG file must have 8 bits per sample (got {})", frame.precision)));
    }
    if frame.is_arithmetic() {
        return Err(undecodable("JPEG with arithmetic coding is not supported"));
    }
    let count = frame.components.len();
    let colour = stream
        .colour_space(frame)
        .ok_or_else(|| undecodable(format!("a JPEG file must have 1, 3 or 4 components (got {count})")))?;
    let samples = decode(bytes, colour)?;
    let pixels: Vec<u8> = match colour {
        ColourSpace::Grey => samples,
        ColourSpace::Rgb | ColourSpace::YCbCr => {
            samples.as_chunks::<3>().0.iter().map(|&[r, g, b]| luma(r, g, b)).collect()
        }
        // The decoder inverts inks, and converts YCCK to CMYK.
        ColourSpace::Cmyk | ColourSpace::Ycck => {
            samples.as_chunks::<4>().0.iter().map(|inks| grey_of_inks(inks.map(|ink| 255 - ink))).collect()
        }
    };
    let (width, height) = (frame.width.into(), frame.height.into());
    let plane = GrayImage::from_raw(width, height, pixels)
        .ok_or_else(|| undecodable("the JPEG has fewer pixels than its frame header announces"))?;
    let mut image = DynamicImage::ImageLuma8(plane);
    image.apply_orientation(stream.orientation.unwrap_or(Orientation::NoTransforms));
    // Viewers convert inks in different ways.
    let viewers_agree = !matches!(colour, ColourSpace::Cmyk | ColourSpace::Ycck);
    let (width, height) = (image.width(), image.height());
    Ok(DecodedImage { image: GreyImage { width, height, pixels: image.into_bytes() }, viewers_agree, synthetic: false })
}

/// Decodes the samples in row-major order, interleaved: three components to RGB, four to inverted inks. Samples of more than
/// 8 bits (lossless coding) are two bytes in native byte order.
///
/// The decoder is `jpeg-decoder`: unlike `zune-jpeg`, it also decodes subsampled components in scans of their own.
pub(super) fn decode(bytes: &[u8], colour: ColourSpace) -> Result<Vec<u8>, ImageError> {
    let mut decoder = Decoder::new(Cursor::new(bytes));
    decoder.set_color_transform(match colour {
        ColourSpace::Grey => ColorTransform::Grayscale,
        ColourSpace::Rgb => ColorTransform::RGB,
        ColourSpace::YCbCr => ColorTransform::YCbCr,
        ColourSpace::Cmyk => ColorTransform::CMYK,
        ColourSpace::Ycck => ColorTransform::YCCK,
    });
    decoder.decode().map_err(|error| undecodable(plain_reason("the JPEG", &error)))
}

/// The RGB of full-range YCbCr (ITU-T T.871).
pub(super) fn rgb_of_ycbcr([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    let [y, cb, cr] = [f32::from(y), f32::from(cb) - 128.0, f32::from(cr) - 128.0];
    // A cast from a float saturates.
    [y + 1.402 * cr, y - 0.344_136 * cb - 0.714_136 * cr, y + 1.772 * cb].map(|value| value.round() as u8)
}

/// The luma of the inks C, M, Y, K, which Adobe stores inverted: 0 is full ink, 255 is none.
fn grey_of_inks([c, m, y, k]: [u8; 4]) -> u8 {
    let [r, g, b] = [c, m, y].map(|ink| ((u32::from(ink) * u32::from(k) + 127) / 255) as u8);
    luma(r, g, b)
}
