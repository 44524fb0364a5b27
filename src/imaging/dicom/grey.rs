//! Stored values to grey: modality LUT or rescale, then VOI LUT or window, then the photometric interpretation (PS3.3, C.11.1, C.11.2
//! and C.7.6.3.1.2).

use dicom_dictionary_std::tags;

use super::{
    header::{Header, Table},
    undecodable,
};
use crate::imaging::{ImageError, grey::luma};

/// Share of the pixels that may be darker than black and brighter than white where there is no window.
const CUT: f64 = 0.001;

/// How values of interest become 0 to 1.
enum Interest {
    Table(Table),
    /// Centre, width and shape.
    Window(f64, f64, Shape),
    /// From black to white.
    Range(f64, f64),
}

enum Shape {
    Linear,
    LinearExact,
    Sigmoid,
}

/// The plane, 0 black to 65535 white, and whether the file said how to show it.
pub(super) fn plane(header: &Header, values: Vec<u16>) -> Result<(Vec<u16>, bool), ImageError> {
    let photometric = header.photometric();
    let inverted = match (photometric.as_str(), header.samples) {
        ("MONOCHROME2", 1) => false,
        ("MONOCHROME1", 1) => true,
        ("RGB" | "YBR_FULL" | "YBR_FULL_422" | "YBR_RCT" | "YBR_ICT", 3) => return Ok((colour(header, &values), true)),
        (other, samples) => {
            return Err(undecodable(format!(
                "{samples} samples of the photometric interpretation {other:?} are not read"
            )));
        }
    };
    let modality = Modality::of(header)?;
    let padding = Padding::of(header);
    let stored: Vec<f64> =
        (0..=u16::MAX >> (16 - header.bits_stored)).map(|bits| modality.value(header, bits)).collect();
    let (interest, said) = interest(header, &stored, &values, &padding)?;
    let greys: Vec<u16> = (0u16..)
        .zip(&stored)
        .map(|(bits, value)| {
            let grey = (interest.share(*value).clamp(0.0, 1.0) * 65_535.0).round() as u16;
            match (padding.holds(header, bits), inverted) {
                (true, _) => 0,
                (_, true) => u16::MAX - grey,
                _ => grey,
            }
        })
        .collect();
    Ok((values.into_iter().map(|bits| greys[usize::from(bits)]).collect(), said))
}

/// Secondary captures; decoders have made red, green and blue of what was packed.
fn colour(header: &Header, values: &[u16]) -> Vec<u16> {
    let native = matches!(header.pixels, super::header::PixelData::Native { .. });
    let luminance_first = native && header.photometric() != "RGB";
    let grey = |&[r, g, b]: &[u16; 3]| if luminance_first { r } else { luma(r as u8, g as u8, b as u8).into() };
    values.as_chunks::<3>().0.iter().map(|pixel| grey(pixel) * 257).collect()
}

enum Modality {
    Table(Table),
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

/// Stored bits as the number they stand for.
fn signed(header: &Header, bits: u16) -> i64 {
    let sign = header.signed && bits >> (header.bits_stored - 1) & 1 == 1;
    i64::from(bits) - if sign { 1 << header.bits_stored } else { 0 }
}

impl Table {
    /// Values outside the table are mapped to its ends.
    fn look_up(&self, value: f64) -> f64 {
        let place = (value.round() as i64 - self.first).clamp(0, self.entries.len() as i64 - 1);
        f64::from(self.entries[place as usize])
    }
}

/// Values around the image that are none of it.
struct Padding(Option<(i64, i64)>);

impl Padding {
    fn of(header: &Header) -> Self {
        let stored = |bits: u16| if header.signed { i64::from(bits as i16) } else { i64::from(bits) };
        let Some(value) = header.word(tags::PIXEL_PADDING_VALUE).map(stored) else { return Self(None) };
        let limit = header.word(tags::PIXEL_PADDING_RANGE_LIMIT).map_or(value, stored);
        Self(Some((value.min(limit), value.max(limit))))
    }

    fn holds(&self, header: &Header, bits: u16) -> bool {
        self.0.is_some_and(|(low, high)| (low..=high).contains(&signed(header, bits)))
    }
}

/// The VOI LUT, else the first window, else all that 8 bits can say, else the percentiles of what is there.
fn interest(
    header: &Header,
    stored: &[f64],
    values: &[u16],
    padding: &Padding,
) -> Result<(Interest, bool), ImageError> {
    if let Some(table) = header.table(tags::VOILUT_SEQUENCE)? {
        return Ok((Interest::Table(table), true));
    }
    let shape = match header.code(tags::VOILUT_FUNCTION).as_deref() {
        Some("SIGMOID") => Shape::Sigmoid,
        Some("LINEAR_EXACT") => Shape::LinearExact,
        _ => Shape::Linear,
    };
    if let (Some(centre), Some(width)) = (header.number(tags::WINDOW_CENTER), header.number(tags::WINDOW_WIDTH))
        && width > if matches!(shape, Shape::Linear) { 1.0 } else { 0.0 }
    {
        return Ok((Interest::Window(centre, width, shape), true));
    }
    if header.bits_stored <= 8 {
        let (low, high) = stored.iter().fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(*v), high.max(*v)));
        return Ok((Interest::Range(low, high), true));
    }
    Ok((percentiles(header, stored, values, padding), false))
}

fn percentiles(header: &Header, stored: &[f64], values: &[u16], padding: &Padding) -> Interest {
    let mut counts = vec![0u64; stored.len()];
    values.iter().for_each(|bits| counts[usize::from(*bits)] += 1);
    let shown = |bits: &u16| counts[usize::from(*bits)] > 0 && !padding.holds(header, *bits);
    let mut there: Vec<(f64, u64)> = (0..=u16::MAX >> (16 - header.bits_stored))
        .filter(shown)
        .map(|bits| (stored[usize::from(bits)], counts[usize::from(bits)]))
        .collect();
    there.sort_by(|a, b| a.0.total_cmp(&b.0));
    let cut = there.iter().map(|(_, count)| *count as f64).sum::<f64>() * CUT;
    let beyond = |values: &mut dyn Iterator<Item = &(f64, u64)>| {
        let mut seen = 0.0;
        let mut reached = values.skip_while(|(_, count)| {
            seen += *count as f64;
            seen <= cut
        });
        reached.next().map_or(0.0, |(value, _)| *value)
    };
    Interest::Range(beyond(&mut there.iter()), beyond(&mut there.iter().rev()))
}

impl Interest {
    /// 0 at the dark end to 1 at the bright one; what lies beyond is below 0 or above 1.
    fn share(&self, value: f64) -> f64 {
        match self {
            Self::Table(table) => table.look_up(value) / table.largest,
            Self::Window(centre, width, Shape::Linear) => (value - (centre - 0.5)) / (width - 1.0) + 0.5,
            Self::Window(centre, width, Shape::LinearExact) => (value - centre) / width + 0.5,
            Self::Window(centre, width, Shape::Sigmoid) => 1.0 / (1.0 + (-4.0 * (value - centre) / width).exp()),
            Self::Range(low, high) if high > low => (value - low) / (high - low),
            Self::Range(..) => 0.0,
        }
    }
}
