//! Pooling: the maximum over 3x3 pixels (stem of a ResNet) or 2x2, and the global mean.
//!
//! The window is 2 or 3 pixels wide, as a const parameter.

use super::{
    layout::Images,
    memory::Buffer,
    parallel,
    simd::{BLOCK, ChannelBlock, Kernel, Vector},
    team::Team,
};

/// Stride of the windows.
const STRIDE: usize = 2;

/// Index of the maximum within its window, row-major, for sixteen channels.
pub type ArgMax = [u8; BLOCK];

/// Padding on each side: 1 for a window of 3, 0 for a window of 2. Padding is never the maximum.
pub(super) const fn padding(window: usize) -> usize {
    (window - 1) / 2
}

/// Side of the output for an input of `side`. A last pixel that does not fill a window of 2 is dropped.
pub fn pooled_side(side: usize, window: usize) -> usize {
    (side + 2 * padding(window) - window) / STRIDE + 1
}

/// Max pooling with stride 2, and the index of each maximum (the first one of equal values).
///
/// # Panics
/// If the images are smaller than a window or their blocks are not whole planes.
pub fn max_pool<const WINDOW: usize>(team: &Team, images: Images<'_>) -> (Buffer, Vec<ArgMax>) {
    let (side, planes) = (images.side, planes(images.blocks.len(), images.side));
    let area = pooled_side(side, WINDOW).pow(2);
    let mut output = Buffer::new(planes * area);
    let mut argmax = vec![ArgMax::default(); planes * area];
    let parts = images.blocks.chunks(side * side).zip(output.chunks_mut(area)).zip(argmax.chunks_mut(area));
    parallel::for_each(team, parts.collect(), |((plane, output), argmax)| {
        team.level().run(MaxPoolKernel::<WINDOW> { plane, side, output, argmax });
    });
    (output, argmax)
}

/// Gradient with respect to the input of [`max_pool`], whose side is `side`, from the gradient of its output.
///
/// # Panics
/// If gradient and indices do not have the same length or are not whole planes.
pub fn max_pool_backward<const WINDOW: usize>(
    team: &Team,
    side: usize,
    gradient: &[ChannelBlock],
    argmax: &[ArgMax],
) -> Buffer {
    let area = pooled_side(side, WINDOW).pow(2);
    assert_eq!(gradient.len(), argmax.len(), "there must be one index per output");
    let mut result = Buffer::new(planes(gradient.len(), pooled_side(side, WINDOW)) * side * side);
    let parts = gradient.chunks(area).zip(argmax.chunks(area)).zip(result.chunks_mut(side * side));
    parallel::for_each(team, parts.collect(), |((gradient, argmax), result)| {
        team.level().run(MaxPoolBackwardKernel::<WINDOW> { gradient, argmax, side, result });
    });
    result
}

/// Mean of each channel of each image, `[images, channels]`.
///
/// # Panics
/// If the images have fewer channels.
pub fn mean(images: Images<'_>, channels: usize) -> Vec<f32> {
    let area = images.side * images.side;
    let mut means = vec![0.0; images.images * channels];
    for (plane, pixels) in images.blocks.chunks_exact(area).enumerate() {
        let (block, image) = (plane / images.images, plane % images.images);
        let row = &mut means[image * channels..][..channels];
        for (channel, mean) in row[block * BLOCK..].iter_mut().take(BLOCK).enumerate() {
            *mean = pixels.iter().map(|pixel| pixel.0[channel]).sum::<f32>() / area as f32;
        }
    }
    means
}

/// Gradient with respect to the input of [`mean`], images of `side`, from the gradient of its output.
///
/// # Panics
/// If the gradient is not whole rows of `channels`.
pub fn mean_backward(gradient: &[f32], channels: usize, side: usize) -> Buffer {
    let (images, area) = (gradient.len() / channels, side * side);
    assert_eq!(images * channels, gradient.len(), "the gradient must be whole rows of {channels} channels");
    let mut result = Buffer::new(channels.div_ceil(BLOCK) * images * area);
    for (plane, pixels) in result.chunks_exact_mut(area).enumerate() {
        let (block, image) = (plane / images, plane % images);
        let row = &gradient[image * channels..][..channels];
        let share = |channel| row.get(block * BLOCK + channel).map_or(0.0, |gradient| gradient / area as f32);
        pixels.fill(ChannelBlock(std::array::from_fn(share)));
    }
    result
}

/// Number of planes of that side in `blocks` blocks.
pub(super) fn planes(blocks: usize, side: usize) -> usize {
    let area = side * side;
    assert!(
        area > 0 && blocks > 0 && blocks.is_multiple_of(area),
        "the blocks must be whole planes of {side}x{side} pixels"
    );
    blocks / area
}

/// Max pooling of one plane.
struct MaxPoolKernel<'a, const WINDOW: usize> {
    plane: &'a [ChannelBlock],
    side: usize,
    output: &'a mut [ChannelBlock],
    argmax: &'a mut [ArgMax],
}

impl<const WINDOW: usize> Kernel for MaxPoolKernel<'_, WINDOW> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let (side, across, padding) = (self.side, pooled_side(self.side, WINDOW), padding(WINDOW));
        for (index, (output, argmax)) in self.output.iter_mut().zip(self.argmax).enumerate() {
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
                    Some((most, at)) => (value.select_gt(most, value, most), value.select_gt(most, here, at)),
                });
            }
            let (most, at) = best.expect("a window holds at least one pixel");
            most.store(output);
            let mut places = ChannelBlock::default();
            at.store(&mut places);
            *argmax = places.0.map(|place| place as u8);
        }
    }
}

/// Gradient of one plane: each pixel gets the gradients of the windows whose maximum it is.
struct MaxPoolBackwardKernel<'a, const WINDOW: usize> {
    gradient: &'a [ChannelBlock],
    argmax: &'a [ArgMax],
    side: usize,
    result: &'a mut [ChannelBlock],
}

impl<const WINDOW: usize> Kernel for MaxPoolBackwardKernel<'_, WINDOW> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let (across, padding) = (pooled_side(self.side, WINDOW), padding(WINDOW));
        for (index, result) in self.result.iter_mut().enumerate() {
            let (y, x) = (index / self.side + padding, index % self.side + padding);
            let mut sum = V::zero();
            for down in windows::<WINDOW>(y, across) {
                for right in windows::<WINDOW>(x, across) {
                    let window = down * across + right;
                    let place = ((y - down * STRIDE) * WINDOW + x - right * STRIDE) as f32;
                    let index = V::load(&ChannelBlock(self.argmax[window].map(f32::from)));
                    // The numbers are integers: equal if neither is greater.
                    let gradient = index.select_gt(V::splat(place), V::zero(), V::load(&self.gradient[window]));
                    sum = sum.add(V::splat(place).select_gt(index, V::zero(), gradient));
                }
            }
            sum.store(result);
        }
    }
}

/// Range of windows, along one axis, that contain the padded position.
#[inline(always)]
fn windows<const WINDOW: usize>(place: usize, across: usize) -> std::ops::Range<usize> {
    (place + 1).saturating_sub(WINDOW).div_ceil(STRIDE)..(place / STRIDE + 1).min(across)
}

#[cfg(test)]
mod tests;
