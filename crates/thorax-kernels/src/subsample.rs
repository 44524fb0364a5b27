//! Stride-2 subsampling: every second pixel of every second row, which is all that a 1x1 convolution with stride 2
//! reads.
//!
//! A stage of a ResNet (V1) starts with two such convolutions. Their input is subsampled once; both then run without
//! a stride, forward and backward, and only the sum of their gradients has to be spread out again.

use super::{layout::Images, memory::Buffer, parallel, pool::planes, simd::ChannelBlock, team::Team};

/// Stride.
const STRIDE: usize = 2;

/// Side of the output for an input of `side`: half of it, rounded up.
pub fn subsampled_side(side: usize) -> usize {
    side.div_ceil(STRIDE)
}

/// Pixels whose row and column are even.
///
/// # Panics
/// If the images are not whole planes of their side.
pub fn subsample2(team: &Team, images: Images<'_>) -> Buffer {
    let side = images.side;
    let (area, kept) = (side * side, subsampled_side(side).pow(2));
    let mut output = Buffer::new(planes(images.blocks.len(), side) * kept);
    let parts = images.blocks.chunks(area).zip(output.chunks_mut(kept)).collect();
    parallel::for_each(team, parts, |(plane, output): (&[ChannelBlock], &mut [ChannelBlock])| {
        subsample_plane(plane, side, output)
    });
    output
}

/// Subsamples one channel block of one image.
pub(super) fn subsample_plane(plane: &[ChannelBlock], side: usize, output: &mut [ChannelBlock]) {
    for (row, output) in plane.chunks(side).step_by(STRIDE).zip(output.chunks_mut(subsampled_side(side))) {
        output.iter_mut().zip(row.iter().step_by(STRIDE)).for_each(|(output, block)| *output = *block);
    }
}

/// Gradient with respect to the input of [`subsample2`], whose side is `side`: zero for the pixels that were dropped.
///
/// # Panics
/// If the gradient is not whole planes of the subsampled side.
pub fn subsample2_backward(team: &Team, side: usize, gradient: &[ChannelBlock]) -> Buffer {
    let (area, kept) = (side * side, subsampled_side(side).pow(2));
    let mut result = Buffer::new(planes(gradient.len(), subsampled_side(side)) * area);
    let parts = gradient.chunks(kept).zip(result.chunks_mut(area)).collect();
    parallel::for_each(team, parts, |(gradient, plane): (&[ChannelBlock], &mut [ChannelBlock])| {
        for (y, row) in plane.chunks_mut(side).enumerate() {
            row.fill(ChannelBlock::default());
            if y.is_multiple_of(STRIDE) {
                let gradient = &gradient[y / STRIDE * subsampled_side(side)..];
                row.iter_mut().step_by(STRIDE).zip(gradient).for_each(|(place, block)| *place = *block);
            }
        }
    });
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BLOCK;

    #[test]
    fn subsampling_and_its_gradient_keep_pixel_positions() {
        for (side, images, threads) in [(1, 1, 1), (2, 3, 2), (7, 2, 2), (12, 5, 3)] {
            let team = Team::new(threads);
            let blocks: Vec<ChannelBlock> =
                (0..2 * images * side * side).map(|i| ChannelBlock([1.0 + i as f32; BLOCK])).collect();
            let small = subsample2(&team, Images { blocks: &blocks, images, side });
            let stays = |i: &usize| (i / side % side).is_multiple_of(2) && (i % side).is_multiple_of(2);
            let expected: Vec<ChannelBlock> = (0..blocks.len()).filter(stays).map(|i| blocks[i]).collect();
            assert_eq!(*small, *expected, "side {side}");
            let spread = subsample2_backward(&team, side, &small);
            let place = |i: usize| if stays(&i) { blocks[i] } else { ChannelBlock::default() };
            assert_eq!(*spread, *(0..blocks.len()).map(place).collect::<Vec<_>>(), "side {side}");
        }
    }
}
