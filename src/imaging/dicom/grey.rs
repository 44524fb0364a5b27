//! Grey-scale pipeline: modality LUT or rescale, then VOI LUT or window, then photometric interpretation (PS3.3, C.11.1, C.11.2 and
//! C.7.6.3.1.2).

use dicom_dictionary_std::tags;

use super::{
    header::{Header, LookupTable},
    undecodable,
};
use crate::imaging::{ImageError, grey::luma};

/// Fraction of pixels clipped to black and to white if the file has no window.
const CLIPPED: f64 = 0.001;

/// VOI (value of interest) transformation, which maps modality values to 0..1.
enum VoiTransform {
    Table(LookupTable),
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

/// The grey plane, 0 (black) to 65535 (white), and whether the file defines its rendering (by table, window, or at most 8 bits).
pub(super) fn plane(header: &Header, values: Vec<u16>) -> Result<(Vec<u16>, bool), ImageError> {
    let photometric = header.photometric();
    let inverted = match (photometric.as_str(), header.samples) {
        ("MONOCHROME2", 1) => false,
        ("MONOCHROME1", 1) => true,
        ("RGB" | "YBR_FULL" | "YBR_FULL_422" | "YBR_RCT" | "YBR_ICT", 3) => return Ok((colour(header, &values), true)),
        (other, samples) => {
            return Err(undecodable(format!(
                "the photometric interpretation {other:?} with {samples} samples per pixel is not supported"
            )));
        }
    };
    let modality = Modality::of(header)?;
    let padding = Padding::of(header);
    let stored: Vec<f64> =
        (0..=u16::MAX >> (16 - header.bits_stored)).map(|bits| modality.value(header, bits)).collect();
    let (voi, defined) = voi_transform(header, &stored, &values, &padding)?;
    let greys: Vec<u16> = (0u16..)
        .zip(&stored)
        .map(|(bits, value)| {
            let grey = (voi.apply(*value).clamp(0.0, 1.0) * 65_535.0).round() as u16;
            match (padding.contains(header, bits), inverted) {
                (true, _) => 0,
                (_, true) => u16::MAX - grey,
                _ => grey,
            }
        })
        .collect();
    Ok((values.into_iter().map(|bits| greys[usize::from(bits)]).collect(), defined))
}

/// The luma of a colour image (secondary capture). Decoders convert encapsulated YBR to RGB.
fn colour(header: &Header, values: &[u16]) -> Vec<u16> {
    let native = matches!(header.pixels, super::header::PixelData::Native { .. });
    let is_ybr = native && header.photometric() != "RGB";
    let grey = |&[r, g, b]: &[u16; 3]| if is_ybr { r } else { luma(r as u8, g as u8, b as u8).into() };
    values.as_chunks::<3>().0.iter().map(|pixel| grey(pixel) * 257).collect()
}

/// Modality transformation, which maps stored values to modality values.
enum Modality {
    Table(LookupTable),
    Rescale { slope: f64, intercept: f64 },
}

impl Modality {
    fn of(header: &Header) -> Result<Self, ImageError> {
        if let Some(table) = header.table(tags::MODALITY_LUT_SEQUENCE)? {
            return Ok(Self::Table(table));
        }
        let slope = header.number(tags::RESCALE_SLOPE).filter(|slope| *slope != 0.0).unwrap_or(1.0);
        Ok(Self::Rescale { slope, intercept: header.number(tags::RESCALE_INTERCEPT).unwrap_or(0.0) })
    }

    fn value(&self, header: &Header, bits: u16) -> f64 {
        let stored = signed(header, bits);
        match self {
            Self::Table(table) => table.look_up(stored as f64),
            Self::Rescale { slope, intercept } => stored as f64 * slope + intercept,
        }
    }
}

/// The stored value as signed or unsigned number.
fn signed(header: &Header, bits: u16) -> i64 {
    let sign = header.signed && bits >> (header.bits_stored - 1) & 1 == 1;
    i64::from(bits) - if sign { 1 << header.bits_stored } else { 0 }
}

impl LookupTable {
    /// The entry for `value`; values outside the table map to its first or last entry.
    fn look_up(&self, value: f64) -> f64 {
        let index = (value.round() as i64 - self.first).clamp(0, self.entries.len() as i64 - 1);
        f64::from(self.entries[index as usize])
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

    fn contains(&self, header: &Header, bits: u16) -> bool {
        self.0.is_some_and(|(low, high)| (low..=high).contains(&signed(header, bits)))
    }
}

/// The VOI transformation: VOI LUT, else the first window, else the full range for at most 8 bits, else percentiles of the values. The
/// flag is false for percentiles.
fn voi_transform(
    header: &Header,
    stored: &[f64],
    values: &[u16],
    padding: &Padding,
) -> Result<(VoiTransform, bool), ImageError> {
    if let Some(table) = header.table(tags::VOILUT_SEQUENCE)? {
        return Ok((VoiTransform::Table(table), true));
    }
    let function = match header.code(tags::VOILUT_FUNCTION).as_deref() {
        Some("SIGMOID") => VoiFunction::Sigmoid,
        Some("LINEAR_EXACT") => VoiFunction::LinearExact,
        _ => VoiFunction::Linear,
    };
    if let (Some(centre), Some(width)) = (header.number(tags::WINDOW_CENTER), header.number(tags::WINDOW_WIDTH))
        && width > if matches!(function, VoiFunction::Linear) { 1.0 } else { 0.0 }
    {
        return Ok((VoiTransform::Window(centre, width, function), true));
    }
    if header.bits_stored <= 8 {
        let (low, high) = stored.iter().fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(*v), high.max(*v)));
        return Ok((VoiTransform::Range(low, high), true));
    }
    Ok((percentiles(header, stored, values, padding), false))
}

/// The range between the lower and upper [`CLIPPED`] quantile of the values without padding.
fn percentiles(header: &Header, stored: &[f64], values: &[u16], padding: &Padding) -> VoiTransform {
    let mut counts = vec![0u64; stored.len()];
    values.iter().for_each(|bits| counts[usize::from(*bits)] += 1);
    let occurs = |bits: &u16| counts[usize::from(*bits)] > 0 && !padding.contains(header, *bits);
    let mut values: Vec<(f64, u64)> = (0..=u16::MAX >> (16 - header.bits_stored))
        .filter(occurs)
        .map(|bits| (stored[usize::from(bits)], counts[usize::from(bits)]))
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
            Self::Table(table) => table.look_up(value) / table.max,
            Self::Window(centre, width, VoiFunction::Linear) => (value - (centre - 0.5)) / (width - 1.0) + 0.5,
            Self::Window(centre, width, VoiFunction::LinearExact) => (value - centre) / width + 0.5,
            Self::Window(centre, width, VoiFunction::Sigmoid) => 1.0 / (1.0 + (-4.0 * (value - centre) / width).exp()),
            Self::Range(low, high) if high > low => (value - low) / (high - low),
            Self::Range(..) => 0.0,
        }
    }
}
