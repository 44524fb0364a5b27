//! Every second pixel of every second row: all that a 1x1 convolution with a stride of 2 looks at.
//!
//! In a network two such convolutions begin a stage. Thinned once for both, their input lies side by side as for convolutions without a
//! stride, forwards and backwards, and only the sum of their gradients has to be spread out again.

use super::{conv::Images, memory::Buffer, parts, pool::planes, simd::Lane, team::Team};

/// Step between the pixels that stay.
const STRIDE: usize = 2;

/// Side of what stays of that side.
pub fn thinned(side: usize) -> usize {
    side.div_ceil(STRIDE)
}

/// The pixels whose row and column are even.
///
/// # Panics
/// If the images are not whole planes of their side.
pub fn thin(team: &Team, images: Images<'_>) -> Buffer {
    let side = images.side;
    let (area, kept) = (side * side, thinned(side).pow(2));
    let mut output = Buffer::new(planes(images.lanes.len(), side) * kept);
    let parts = images.lanes.chunks(area).zip(output.chunks_mut(kept)).collect();
    parts::each(team, parts, |(plane, output): (&[Lane], &mut [Lane])| thin_plane(plane, side, output));
    output
}

/// What stays of one lane of one image.
pub(super) fn thin_plane(plane: &[Lane], side: usize, output: &mut [Lane]) {
    for (row, output) in plane.chunks(side).step_by(STRIDE).zip(output.chunks_mut(thinned(side))) {
        output.iter_mut().zip(row.iter().step_by(STRIDE)).for_each(|(output, lane)| *output = *lane);
    }
}

/// The gradient of [`thin`]'s input of that side from that of its output: zeros where nothing stayed.
///
/// # Panics
/// If the gradient is not whole planes of the thinned side.
pub fn thin_backward(team: &Team, side: usize, gradient: &[Lane]) -> Buffer {
    let (area, kept) = (side * side, thinned(side).pow(2));
    let mut result = Buffer::new(planes(gradient.len(), thinned(side)) * area);
    let parts = gradient.chunks(kept).zip(result.chunks_mut(area)).collect();
    parts::each(team, parts, |(gradient, plane): (&[Lane], &mut [Lane])| {
        for (y, row) in plane.chunks_mut(side).enumerate() {
            row.fill(Lane::default());
            if y.is_multiple_of(STRIDE) {
                let gradient = &gradient[y / STRIDE * thinned(side)..];
                row.iter_mut().step_by(STRIDE).zip(gradient).for_each(|(place, lane)| *place = *lane);
            }
        }
    });
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WIDTH;

    #[test]
    fn what_stays_comes_back_to_its_place() {
        for (side, images, threads) in [(1, 1, 1), (2, 3, 2), (7, 2, 2), (12, 5, 3)] {
            let team = Team::new(threads);
            let lanes: Vec<Lane> = (0..2 * images * side * side).map(|i| Lane([1.0 + i as f32; WIDTH])).collect();
            let small = thin(&team, Images { lanes: &lanes, images, side });
            let stays = |i: &usize| (i / side % side).is_multiple_of(2) && (i % side).is_multiple_of(2);
            let expected: Vec<Lane> = (0..lanes.len()).filter(stays).map(|i| lanes[i]).collect();
            assert_eq!(*small, *expected, "side {side}");
            let spread = thin_backward(&team, side, &small);
            let place = |i: usize| if stays(&i) { lanes[i] } else { Lane::default() };
            assert_eq!(*spread, *(0..lanes.len()).map(place).collect::<Vec<_>>(), "side {side}");
        }
    }
}
