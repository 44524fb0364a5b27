//! The kernels' plain twins: loops in double precision over `[images, channels, side, side]`, for tests to compare with.

use super::{ConvShape, Images, Lane, WIDTH};

/// Images as numbers, channel by channel.
#[derive(Clone, Debug)]
pub struct Plain {
    /// Numbers of images, channels, and pixels on a side.
    pub shape: [usize; 3],
    /// Image by image, channel by channel, row by row.
    pub values: Vec<f64>,
}

impl Plain {
    /// Zeros.
    pub fn zeros(shape @ [images, channels, side]: [usize; 3]) -> Self {
        Self { shape, values: vec![0.0; images * channels * side * side] }
    }

    /// Takes the lanes apart.
    pub fn from_lanes(images: Images<'_>, channels: usize) -> Self {
        let mut plain = Self::zeros([images.images, channels, images.side]);
        let area = images.side * images.side;
        for (index, value) in plain.values.iter_mut().enumerate() {
            let (image, channel, pixel) = (index / area / channels, index / area % channels, index % area);
            let lane = images.lanes[(channel / WIDTH * images.images + image) * area + pixel];
            *value = f64::from(lane.0[channel % WIDTH]);
        }
        plain
    }

    /// Puts the channels into lanes.
    pub fn to_lanes(&self) -> Vec<Lane> {
        let [images, channels, side] = self.shape;
        let area = side * side;
        let mut lanes = vec![Lane::default(); channels.div_ceil(WIDTH) * images * area];
        for (index, &value) in self.values.iter().enumerate() {
            let (image, channel, pixel) = (index / area / channels, index / area % channels, index % area);
            lanes[(channel / WIDTH * images + image) * area + pixel].0[channel % WIDTH] = value as f32;
        }
        lanes
    }

    fn at(&self, image: usize, channel: usize, y: usize, x: usize) -> usize {
        let [_, channels, side] = self.shape;
        ((image * channels + channel) * side + y) * side + x
    }
}

/// Calls `each(output, input, weight)` with the places of every product of a convolution.
fn products(shape: ConvShape, input: &Plain, output: &Plain, mut each: impl FnMut(usize, usize, usize)) {
    let ConvShape { inputs, outputs, kernel, stride, padding } = shape;
    let ([images, _, side], [_, _, out_side]) = (input.shape, output.shape);
    for image in 0..images {
        for (o, i) in (0..outputs).flat_map(|o| (0..inputs).map(move |i| (o, i))) {
            for (y, x) in (0..out_side).flat_map(|y| (0..out_side).map(move |x| (y, x))) {
                for (down, right) in (0..kernel).flat_map(|down| (0..kernel).map(move |right| (down, right))) {
                    let (at_y, at_x) =
                        ((y * stride + down).wrapping_sub(padding), (x * stride + right).wrapping_sub(padding));
                    if at_y < side && at_x < side {
                        let weight = ((o * inputs + i) * kernel + down) * kernel + right;
                        each(output.at(image, o, y, x), input.at(image, i, at_y, at_x), weight);
                    }
                }
            }
        }
    }
}

/// A convolution.
pub fn forward(shape: ConvShape, input: &Plain, weights: &[f32], bias: Option<&[f32]>) -> Plain {
    let mut output = Plain::zeros([input.shape[0], shape.outputs, shape.side(input.shape[2])]);
    let area = output.shape[2] * output.shape[2];
    if let Some(bias) = bias {
        let bias_of = |index: usize| f64::from(bias[index / area % shape.outputs]);
        output.values.iter_mut().enumerate().for_each(|(index, value)| *value = bias_of(index));
    }
    let empty = Plain { values: Vec::new(), ..output };
    products(shape, input, &empty, |o, i, w| output.values[o] += input.values[i] * f64::from(weights[w]));
    output
}

/// The gradient of a convolution's input of that side.
pub fn input_gradient(shape: ConvShape, side: usize, gradient: &Plain, weights: &[f32]) -> Plain {
    let mut input = Plain::zeros([gradient.shape[0], shape.inputs, side]);
    let empty = Plain { values: Vec::new(), ..input };
    products(shape, &empty, gradient, |o, i, w| input.values[i] += gradient.values[o] * f64::from(weights[w]));
    input
}

/// The gradient of a convolution's weights.
pub fn weight_gradient(shape: ConvShape, input: &Plain, gradient: &Plain) -> Vec<f64> {
    let mut weights = vec![0.0; shape.outputs * shape.inputs * shape.kernel * shape.kernel];
    products(shape, input, gradient, |o, i, w| weights[w] += gradient.values[o] * input.values[i]);
    weights
}
