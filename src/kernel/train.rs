//! Stand-ins for the convolutions' kernels.

use super::{
    Team,
    plain::{self, Plain},
    simd::Lane,
};

/// A square convolution's measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Channels in.
    pub inputs: usize,
    /// Channels out.
    pub outputs: usize,
    /// Side of the kernel.
    pub kernel: usize,
    /// Step between outputs.
    pub stride: usize,
    /// Zeros around the image.
    pub padding: usize,
}

impl ConvShape {
    /// Side of the output for that side of the input.
    pub fn side(&self, input: usize) -> usize {
        (input + 2 * self.padding - self.kernel) / self.stride + 1
    }
}

/// Images of one size, each pixel's channels in lanes: `[lanes of channels, images, side, side]`.
#[derive(Clone, Copy)]
pub struct Images<'a> {
    /// The pixels.
    pub lanes: &'a [Lane],
    /// How many images.
    pub images: usize,
    /// Pixels on a side.
    pub side: usize,
}

fn plain(shape: usize, images: Images<'_>) -> Plain {
    Plain::from_lanes(images, shape)
}

pub fn forward(_: &Team, shape: ConvShape, input: Images<'_>, weights: &[f32], bias: Option<&[f32]>) -> Vec<Lane> {
    plain::forward(shape, &plain(shape.inputs, input), weights, bias).to_lanes()
}

pub fn input_gradient(_: &Team, shape: ConvShape, side: usize, gradient: Images<'_>, weights: &[f32]) -> Vec<Lane> {
    plain::input_gradient(shape, side, &plain(shape.outputs, gradient), weights).to_lanes()
}

pub fn weight_gradient(_: &Team, shape: ConvShape, input: Images<'_>, gradient: Images<'_>) -> Vec<f32> {
    let sums = plain::weight_gradient(shape, &plain(shape.inputs, input), &plain(shape.outputs, gradient));
    sums.into_iter().map(|sum| sum as f32).collect()
}

fn image_batch(input: &[f32], images: usize, side: usize) -> Plain {
    Plain { shape: [images, 3, side], values: input.iter().copied().map(f64::from).collect() }
}

pub fn stem_forward(
    _: &Team,
    shape: ConvShape,
    input: &[f32],
    images: usize,
    side: usize,
    weights: &[f32],
    bias: Option<&[f32]>,
) -> Vec<Lane> {
    plain::forward(shape, &image_batch(input, images, side), weights, bias).to_lanes()
}

pub fn stem_weight_gradient(
    _: &Team,
    shape: ConvShape,
    input: &[f32],
    images: usize,
    side: usize,
    gradient: Images<'_>,
) -> Vec<f32> {
    let sums = plain::weight_gradient(shape, &image_batch(input, images, side), &plain(shape.outputs, gradient));
    sums.into_iter().map(|sum| sum as f32).collect()
}
