//! Poolings: the maximum over 3x3 pixels of a ResNet's stem or over 2x2, and the mean over all pixels at the end.
//!
//! A window is 2 or 3 pixels wide, known when this is compiled.

use super::{
    conv::Images,
    memory::Buffer,
    parts,
    simd::{Lane, Vector, WIDTH, Work},
    team::Team,
};

/// Step between windows.
const STRIDE: usize = 2;

/// Which pixel of its window each output came from, row by row, for sixteen channels.
pub type Origin = [u8; WIDTH];

/// Pixels outside of the image on each side, which never are the maximum: one for a window of 3, none for one of 2.
pub(super) const fn padding(window: usize) -> usize {
    (window - 1) / 2
}

/// Side of the output for that side of the input. A last pixel that fills no window of 2 is left out.
pub fn pooled(side: usize, window: usize) -> usize {
    (side + 2 * padding(window) - window) / STRIDE + 1
}

/// Maxima over windows with a stride of 2, and where each came from: of equal ones the first.
///
/// # Panics
/// If the images have less pixels than a window or not whole lanes of them.
pub fn max_pool<const WINDOW: usize>(team: &Team, images: Images<'_>) -> (Buffer, Vec<Origin>) {
    let (side, planes) = (images.side, planes(images.lanes.len(), images.side));
    let area = pooled(side, WINDOW).pow(2);
    let mut output = Buffer::new(planes * area);
    let mut origins = vec![Origin::default(); planes * area];
    let parts = images.lanes.chunks(side * side).zip(output.chunks_mut(area)).zip(origins.chunks_mut(area));
    parts::each(team, parts.collect(), |((plane, output), origins)| {
        team.level().run(MaxPool::<WINDOW> { plane, side, output, origins });
    });
    (output, origins)
}

/// The gradient of [`max_pool`]'s input of that side from that of its output.
///
/// # Panics
/// If gradient and origins are not those of whole planes.
pub fn max_pool_backward<const WINDOW: usize>(
    team: &Team,
    side: usize,
    gradient: &[Lane],
    origins: &[Origin],
) -> Buffer {
    let area = pooled(side, WINDOW).pow(2);
    assert_eq!(gradient.len(), origins.len(), "an origin of each output");
    let mut result = Buffer::new(planes(gradient.len(), pooled(side, WINDOW)) * side * side);
    let parts = gradient.chunks(area).zip(origins.chunks(area)).zip(result.chunks_mut(side * side));
    parts::each(team, parts.collect(), |((gradient, origins), result)| {
        team.level().run(Distribute::<WINDOW> { gradient, origins, side, result });
    });
    result
}

/// Mean of each channel of each image, `[images, channels]`.
///
/// # Panics
/// If the images have not lanes enough.
pub fn mean(images: Images<'_>, channels: usize) -> Vec<f32> {
    let area = images.side * images.side;
    let mut means = vec![0.0; images.images * channels];
    for (plane, pixels) in images.lanes.chunks_exact(area).enumerate() {
        let (lane, image) = (plane / images.images, plane % images.images);
        let row = &mut means[image * channels..][..channels];
        for (channel, mean) in row[lane * WIDTH..].iter_mut().take(WIDTH).enumerate() {
            *mean = pixels.iter().map(|pixel| pixel.0[channel]).sum::<f32>() / area as f32;
        }
    }
    means
}

/// The gradient of [`mean`]'s input, images of that side, from that of its output.
///
/// # Panics
/// If the gradient is not whole rows.
pub fn mean_backward(gradient: &[f32], channels: usize, side: usize) -> Buffer {
    let (images, area) = (gradient.len() / channels, side * side);
    assert_eq!(images * channels, gradient.len(), "whole rows");
    let mut result = Buffer::new(channels.div_ceil(WIDTH) * images * area);
    for (plane, pixels) in result.chunks_exact_mut(area).enumerate() {
        let (lane, image) = (plane / images, plane % images);
        let row = &gradient[image * channels..][..channels];
        let share = |channel| row.get(lane * WIDTH + channel).map_or(0.0, |gradient| gradient / area as f32);
        pixels.fill(Lane(std::array::from_fn(share)));
    }
    result
}

/// How many planes of that side so many lanes are.
pub(super) fn planes(lanes: usize, side: usize) -> usize {
    let area = side * side;
    assert!(area > 0 && lanes > 0 && lanes.is_multiple_of(area), "whole planes of {side}x{side} pixels");
    lanes / area
}

/// One plane's maxima.
struct MaxPool<'a, const WINDOW: usize> {
    plane: &'a [Lane],
    side: usize,
    output: &'a mut [Lane],
    origins: &'a mut [Origin],
}

impl<const WINDOW: usize> Work for MaxPool<'_, WINDOW> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let (side, across, padding) = (self.side, pooled(self.side, WINDOW), padding(WINDOW));
        for (index, (output, origin)) in self.output.iter_mut().zip(self.origins).enumerate() {
            let (top, left) = (index / across * STRIDE, index % across * STRIDE);
            let mut best: Option<(V, V)> = None;
            for place in 0..WINDOW * WINDOW {
                let (y, x) = (top + place / WINDOW, left + place % WINDOW);
                if !(padding..side + padding).contains(&y) || !(padding..side + padding).contains(&x) {
                    continue;
                }
                let value = V::load(&self.plane[(y - padding) * side + x - padding]);
                let here = V::splat(place as f32);
                best = Some(match best {
                    None => (value, here),
                    Some((most, at)) => (value.pick(most, value, most), value.pick(most, here, at)),
                });
            }
            let (most, at) = best.expect("a window holds at least one pixel");
            most.store(output);
            let mut places = Lane::default();
            at.store(&mut places);
            *origin = places.0.map(|place| place as u8);
        }
    }
}

/// One plane's gradient: each pixel gets that of the windows whose maximum it is.
struct Distribute<'a, const WINDOW: usize> {
    gradient: &'a [Lane],
    origins: &'a [Origin],
    side: usize,
    result: &'a mut [Lane],
}

impl<const WINDOW: usize> Work for Distribute<'_, WINDOW> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let (across, padding) = (pooled(self.side, WINDOW), padding(WINDOW));
        for (index, result) in self.result.iter_mut().enumerate() {
            let (y, x) = (index / self.side + padding, index % self.side + padding);
            let mut sum = V::zero();
            for down in windows::<WINDOW>(y, across) {
                for right in windows::<WINDOW>(x, across) {
                    let window = down * across + right;
                    let place = ((y - down * STRIDE) * WINDOW + x - right * STRIDE) as f32;
                    let origin = V::load(&Lane(self.origins[window].map(f32::from)));
                    // Whole numbers: equal where neither is greater.
                    let gradient = origin.pick(V::splat(place), V::zero(), V::load(&self.gradient[window]));
                    sum = sum.add(V::splat(place).pick(origin, V::zero(), gradient));
                }
            }
            sum.store(result);
        }
    }
}

/// The windows, in one direction, that hold the padded place.
#[inline(always)]
fn windows<const WINDOW: usize>(place: usize, across: usize) -> std::ops::Range<usize> {
    (place + 1).saturating_sub(WINDOW).div_ceil(STRIDE)..(place / STRIDE + 1).min(across)
}

#[cfg(test)]
mod tests;
