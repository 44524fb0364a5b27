//! Grey-scale pipeline: modality LUT or rescale, then VOI LUT or window, then photometric interpretation (PS3.3, C.11.1, C.11.2 and
//! C.7.6.3.1.2).

use std::ops::RangeInclusive;

use dicom_dictionary_std::tags;

use super::{
    frame::{SampleColour, StoredValues},
    header::{Header, LookupTable},
    undecodable,
};
use crate::imaging::{ImageError, grey::luma, jpeg::rgb_of_ycbcr};

/// Fraction of pixels clipped to black and to white if the file has no window.
const CLIPPED: f64 = 0.001;

/// VOI (value of interest) transformation, which maps modality values to 0..1.
enum VoiTransform {
    /// Table, and its output value that is white.
    Table(LookupTable, f64),
    /// Window centre, width and function.
    Window(f64, f64, VoiFunction),
    /// Values of black and white.
    Range(f64, f64),
}

/// VOI LUT Function (PS3.3, C.11.2.1.3).
enum VoiFunction {
    Linear,
    LinearExact,
    Sigmoid,
}

/// Result of the grey-scale pipeline.
pub(super) struct GreyPlane {
    /// Grey levels in row-major order, 0 (black) to 65535 (white).
    pub(super) plane: Vec<u16>,
    /// True if the file defines its rendering: by table, window, or at most 8 bits.
    pub(super) has_window: bool,
    /// Fraction of its declared range that the VOI LUT uses: below a quarter if it was scaled by its maximum, else 1.
    pub(super) table_range: f64,
}

/// Computes the grey plane.
///
/// # Errors
/// The photometric interpretation is not supported, or a lookup table is corrupt.
pub(super) fn plane(header: &Header, stored: StoredValues) -> Result<GreyPlane, ImageError> {
    let photometric = header.photometric();
    let inverted = match (photometric.as_str(), header.samples) {
        ("MONOCHROME2", 1) => false,
        ("MONOCHROME1", 1) => true,
        ("RGB" | "YBR_FULL" | "YBR_FULL_422" | "YBR_RCT" | "YBR_ICT", 3) => {
            return Ok(GreyPlane { plane: colour(&stored), has_window: true, table_range: 1.0 });
        }
        ("PALETTE COLOR", 1) => {
            return Ok(GreyPlane { plane: palette(header, &stored)?, has_window: true, table_range: 1.0 });
        }
        (other, samples) => {
            return Err(undecodable(format!(
                "the photometric interpretation {other:?} with {samples} samples per pixel is not supported"
            )));
        }
    };
    let bits = StoredBits { count: stored.bits_stored, signed: stored.signed };
    let modality = Modality::of(header)?;
    let padding = Padding::of(header);
    let modality_values: Vec<f64> = bits.patterns().map(|pattern| modality.value(bits.value(pattern))).collect();
    let (voi, has_window) = voi_transform(header, bits, &modality_values, &stored.values, &padding)?;
    let greys: Vec<u16> = bits
        .patterns()
        .zip(&modality_values)
        .map(|(pattern, value)| {
            let grey = (voi.apply(*value).clamp(0.0, 1.0) * 65_535.0).round() as u16;
            match (padding.contains(bits.value(pattern)), inverted) {
                (true, _) => 0,
                (_, true) => u16::MAX - grey,
                _ => grey,
            }
        })
        .collect();
    let plane = stored.values.into_iter().map(|pattern| greys[usize::from(pattern)]).collect();
    let table_range = if let VoiTransform::Table(table, white) = &voi { white / table.max } else { 1.0 };
    Ok(GreyPlane { plane, has_window, table_range })
}

/// The luma of a colour image (secondary capture).
fn colour(stored: &StoredValues) -> Vec<u16> {
    let max = u32::from(u16::MAX >> (16 - stored.bits_stored));
    let eight_bits = |sample: u16| ((u32::from(sample) * 255 + max / 2) / max) as u8;
    let pixels = stored.values.as_chunks::<3>().0.iter().map(|pixel| pixel.map(eight_bits));
    let grey = |pixel: [u8; 3]| {
        let [r, g, b] = if stored.colour == SampleColour::Ybr { rgb_of_ycbcr(pixel) } else { pixel };
        u16::from(luma(r, g, b)) * 257
    };
    pixels.map(grey).collect()
}

/// The luma of the palette colours.
fn palette(header: &Header, stored: &StoredValues) -> Result<Vec<u16>, ImageError> {
    let tables = header.palette()?;
    let bits = StoredBits { count: stored.bits_stored, signed: stored.signed };
    let greys: Vec<u16> = bits
        .patterns()
        .map(|pattern| {
            let index = bits.value(pattern) as f64;
            let [r, g, b] = tables.each_ref().map(|table| (table.look_up(index) / table.max * 255.0).round() as u8);
            u16::from(luma(r, g, b)) * 257
        })
        .collect();
    Ok(stored.values.iter().map(|pattern| greys[usize::from(*pattern)]).collect())
}

/// Encoding of stored values.
#[derive(Clone, Copy)]
struct StoredBits {
    /// Bits Stored.
    count: u16,
    /// Two's complement.
    signed: bool,
}

impl StoredBits {
    /// All bit patterns.
    fn patterns(self) -> RangeInclusive<u16> {
        0..=u16::MAX >> (16 - self.count)
    }

    /// The number that a bit pattern encodes.
    fn value(self, pattern: u16) -> i64 {
        let is_negative = self.signed && pattern >> (self.count - 1) & 1 == 1;
        i64::from(pattern) - if is_negative { 1 << self.count } else { 0 }
    }
}

/// Modality transformation, which maps stored values to modality values.
enum Modality {
    Table(LookupTable),
    Rescale { slope: f64, intercept: f64 },
}

impl Modality {
    fn of(header: &Header) -> Result<Self, ImageError> {
        if let Some(table) = header.table(tags::MODALITY_LUT_SEQUENCE, header.signed)? {
            return Ok(Self::Table(table));
        }
        let slope = header.checked_number(tags::RESCALE_SLOPE, "Rescale Slope")?;
        let intercept = header.checked_number(tags::RESCALE_INTERCEPT, "Rescale Intercept")?;
        // A slope of 0 would make every image uniform.
        let slope = slope.filter(|slope| *slope != 0.0).unwrap_or(1.0);
        Ok(Self::Rescale { slope, intercept: intercept.unwrap_or(0.0) })
    }

    fn value(&self, stored: i64) -> f64 {
        match self {
            Self::Table(table) => table.look_up(stored as f64),
            Self::Rescale { slope, intercept } => stored as f64 * slope + intercept,
        }
    }
}

impl LookupTable {
    /// The entry for `value`; values outside the table map to its first or last entry.
    fn look_up(&self, value: f64) -> f64 {
        let index = (value.round() as i64 - self.first).clamp(0, self.entries.len() as i64 - 1);
        f64::from(self.entries[index as usize])
    }

    /// The output value that is white: the declared maximum, or the largest entry if that is less than a quarter of it. Agfa declares 16
    /// bits for entries of 10 or 12 bits, and the image would be nearly black.
    fn white(&self) -> f64 {
        let largest = f64::from(self.entries.iter().copied().max().unwrap_or(0));
        if largest > 0.0 && largest < self.max / 4.0 { largest } else { self.max }
    }
}

/// Range of stored values that are padding outside the exposed area.
struct Padding(Option<(i64, i64)>);

impl Padding {
    fn of(header: &Header) -> Self {
        let stored = |bits: u16| if header.signed { i64::from(bits as i16) } else { i64::from(bits) };
        let Some(value) = header.word(tags::PIXEL_PADDING_VALUE).map(stored) else { return Self(None) };
        let limit = header.word(tags::PIXEL_PADDING_RANGE_LIMIT).map_or(value, stored);
        Self(Some((value.min(limit), value.max(limit))))
    }

    fn contains(&self, stored: i64) -> bool {
        self.0.is_some_and(|(low, high)| (low..=high).contains(&stored))
    }
}

/// The VOI transformation: VOI LUT, else the first window, else the full range for at most 8 bits, else percentiles of the values. The
/// flag is false for percentiles.
fn voi_transform(
    header: &Header,
    bits: StoredBits,
    modality_values: &[f64],
    patterns: &[u16],
    padding: &Padding,
) -> Result<(VoiTransform, bool), ImageError> {
    // The first mapped value is signed if modality values can be negative (PS3.3, C.11.2.1.1).
    let signed = modality_values.iter().any(|value| *value < 0.0);
    if let Some(table) = header.table(tags::VOILUT_SEQUENCE, signed)? {
        let white = table.white();
        return Ok((VoiTransform::Table(table, white), true));
    }
    let function = match header.code(tags::VOILUT_FUNCTION).as_deref() {
        Some("SIGMOID") => VoiFunction::Sigmoid,
        Some("LINEAR_EXACT") => VoiFunction::LinearExact,
        _ => VoiFunction::Linear,
    };
    if let (Some(centre), Some(width)) = (header.number(tags::WINDOW_CENTER), header.number(tags::WINDOW_WIDTH))
        && (width > 0.0 && !matches!(function, VoiFunction::Linear) || width >= 1.0)
    {
        return Ok((VoiTransform::Window(centre, width, function), true));
    }
    if bits.count <= 8 {
        let extremes = (f64::MAX, f64::MIN);
        let (low, high) = modality_values.iter().fold(extremes, |(low, high), v| (low.min(*v), high.max(*v)));
        return Ok((VoiTransform::Range(low, high), true));
    }
    Ok((percentiles(bits, modality_values, patterns, padding), false))
}

/// The range between the lower and upper [`CLIPPED`] quantile of the modality values without padding.
fn percentiles(bits: StoredBits, modality_values: &[f64], patterns: &[u16], padding: &Padding) -> VoiTransform {
    let mut counts = vec![0u64; modality_values.len()];
    patterns.iter().for_each(|pattern| counts[usize::from(*pattern)] += 1);
    let occurs = |pattern: &u16| counts[usize::from(*pattern)] > 0 && !padding.contains(bits.value(*pattern));
    let mut values: Vec<(f64, u64)> = bits
        .patterns()
        .filter(occurs)
        .map(|pattern| (modality_values[usize::from(pattern)], counts[usize::from(pattern)]))
        .collect();
    values.sort_by(|a, b| a.0.total_cmp(&b.0));
    let clipped = values.iter().map(|(_, count)| *count as f64).sum::<f64>() * CLIPPED;
    let quantile = |values: &mut dyn Iterator<Item = &(f64, u64)>| {
        let mut seen = 0.0;
        let mut reached = values.skip_while(|(_, count)| {
            seen += *count as f64;
            seen <= clipped
        });
        reached.next().map_or(0.0, |(value, _)| *value)
    };
    VoiTransform::Range(quantile(&mut values.iter()), quantile(&mut values.iter().rev()))
}

impl VoiTransform {
    /// Maps a modality value: 0 is black and 1 is white; values beyond are below 0 or above 1.
    fn apply(&self, value: f64) -> f64 {
        match self {
            Self::Table(table, white) => table.look_up(value) / white,
            // The smallest width of the linear function is a step.
            Self::Window(centre, width, VoiFunction::Linear) if *width == 1.0 => f64::from(value > centre - 0.5),
            Self::Window(centre, width, VoiFunction::Linear) => (value - (centre - 0.5)) / (width - 1.0) + 0.5,
            Self::Window(centre, width, VoiFunction::LinearExact) => (value - centre) / width + 0.5,
            Self::Window(centre, width, VoiFunction::Sigmoid) => 1.0 / (1.0 + (-4.0 * (value - centre) / width).exp()),
            Self::Range(low, high) if high > low => (value - low) / (high - low),
            Self::Range(..) => 0.0,
        }
    }
}
