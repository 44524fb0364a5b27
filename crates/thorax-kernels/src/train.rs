//! The three products of a convolution that learns: its output, the gradient of its input and that of its weights.

use super::{
    columns::Columns,
    conv::{ConvShape, Images},
    gradient,
    memory::{Buffer, Numbers},
    pack::{Direction, Source},
    parts,
    product::{self, Finish},
    shared::Shared,
    simd::{Lane, WIDTH},
    stem::{self, Planes},
    strided,
    team::Team,
    winograd::{self, Winograd},
};

/// A convolution of `input`, and ReLU if `relu`; weights `[outputs, inputs, kernel, kernel]`.
///
/// # Panics
/// If images, weights or biases are not those of the shape.
pub fn forward(
    team: &Team,
    shape: ConvShape,
    input: Images<'_>,
    weights: &[f32],
    bias: Option<&[f32]>,
    relu: bool,
) -> Buffer {
    input.check(shape.inputs);
    let bias = bias.map(|bias| bias_lanes(shape, bias));
    let source = Source::new(shape, weights, Direction::Forward);
    convolve(team, input, source, bias.as_deref(), None, relu)
}

/// The gradient of a convolution's input of `input_side` from that of its output; and `add`, laid out as the input, with it.
///
/// # Panics
/// If gradient, weights or `add` are not those of the shape.
pub fn input_gradient(
    team: &Team,
    shape: ConvShape,
    input_side: usize,
    gradient: Images<'_>,
    weights: &[f32],
    add: Option<&[Lane]>,
) -> Buffer {
    gradient.check(shape.outputs);
    if let Some(lanes) = add {
        Images { lanes, side: input_side, ..gradient }.check(shape.inputs);
    }
    if shape.stride > 1 {
        return strided::input_gradient(team, shape, input_side, gradient, weights, add);
    }
    let source = Source::new(shape, weights, Direction::Backward);
    convolve(team, gradient, source, None, add, false)
}

/// The gradient of a convolution's weights, `[outputs, inputs, kernel, kernel]`.
///
/// # Panics
/// If input or gradient are not those of the shape.
pub fn weight_gradient(team: &Team, shape: ConvShape, input: Images<'_>, gradient: Images<'_>) -> Numbers {
    input.check(shape.inputs);
    gradient.check(shape.outputs);
    if winograd::suits(team.level(), shape) {
        return winograd_weight_gradient(team, shape, input, gradient);
    }
    let columns = Columns::new(shape, input);
    let sums = sum_products(team, columns, gradient);
    let (padded, area) = (shape.inputs.next_multiple_of(WIDTH), shape.kernel * shape.kernel);
    unpack(team, shape, |output, rows| {
        let panel = &sums[output * area * padded..][..area * padded];
        for (place, places) in panel.chunks_exact(padded).enumerate() {
            for (input, lane) in places.iter().enumerate().take(shape.inputs) {
                scatter(rows, shape, input * area + place, lane);
            }
        }
    })
}

/// A convolution of plain images `[images, channels, side, side]` of few channels, and ReLU if `relu`.
///
/// # Panics
/// If input, weights or biases are not those of the shape, or the kernel is larger than 8.
pub fn stem_forward(
    team: &Team,
    shape: ConvShape,
    input: &[f32],
    (images, side): (usize, usize),
    weights: &[f32],
    bias: Option<&[f32]>,
    relu: bool,
) -> Buffer {
    let values = planes(shape, input, images, side);
    let columns = Columns::Stem(Planes::new(shape, images, side, &values, &[]));
    let source = Source::new(shape, weights, Direction::Forward);
    let bias = bias.map(|bias| bias_lanes(shape, bias));
    let outputs = shape.outputs.div_ceil(WIDTH);
    let (mut packed, mut scratch) =
        (Buffer::zeros(stem::packed(shape, &[], team.level())), Buffer::new(product::scratch(team, columns, outputs)));
    let mut output = Buffer::new(outputs * columns.pixels());
    let (packed, scratch, result) = (Shared::new(&mut packed), Shared::new(&mut scratch), Shared::new(&mut output));
    team.run(|member| {
        let finish = Finish { bias: bias.as_deref(), relu, ..Finish::plain(result, columns.pixels()) };
        // SAFETY: the buffers are this function's, and the weights are written before they are read.
        unsafe {
            stem::pack(member, shape, &[], |_, _| 0.0, source, packed);
            let weights =
                stem::matrix(shape, &[], member.level(), packed.read(0, stem::packed(shape, &[], team.level())));
            product::product(member, columns, weights, scratch, &finish);
        }
    });
    output
}

/// The gradient of the weights of [`stem_forward`].
///
/// # Panics
/// If input or gradient are not those of the shape.
pub fn stem_weight_gradient(
    team: &Team,
    shape: ConvShape,
    input: &[f32],
    side: usize,
    gradient: Images<'_>,
) -> Numbers {
    gradient.check(shape.outputs);
    let values = planes(shape, input, gradient.images, side);
    let columns = Columns::Stem(Planes::new(shape, gradient.images, side, &values, &[]));
    let sums = sum_products(team, columns, gradient);
    let (panel, area) = (stem::lanes(shape, &[]) * WIDTH, shape.kernel * shape.kernel);
    unpack(team, shape, |output, rows| {
        for (index, input, place) in stem::places(shape) {
            scatter(rows, shape, input * area + place, &sums[output * panel + index]);
        }
    })
}

fn planes(shape: ConvShape, input: &[f32], images: usize, side: usize) -> Vec<f32> {
    assert_eq!(input.len(), images * shape.inputs * side * side, "{images} images of side {side}");
    let mut values = vec![0.0; stem::edged_length(shape, images, side)];
    stem::edged(shape, images, side, &mut values, |plane, row, line| {
        line.copy_from_slice(&input[(plane * side + row) * side..][..side]);
    });
    values
}

/// A bias for each output, in lanes.
pub(super) fn bias_lanes(shape: ConvShape, bias: &[f32]) -> Vec<Lane> {
    assert_eq!(bias.len(), shape.outputs, "a bias for each output");
    let mut lanes = vec![Lane::default(); shape.outputs.div_ceil(WIDTH)];
    for (lane, bias) in lanes.iter_mut().zip(bias.chunks(WIDTH)) {
        lane.0[..bias.len()].copy_from_slice(bias);
    }
    lanes
}

/// Packs the weights and multiplies, whichever way is faster.
fn convolve(
    team: &Team,
    input: Images<'_>,
    source: Source<'_>,
    bias: Option<&[Lane]>,
    residual: Option<&[Lane]>,
    relu: bool,
) -> Buffer {
    let shape = source.convolution();
    let pixels = input.images * shape.side(input.side).pow(2);
    let mut output = Buffer::new(shape.outputs.div_ceil(WIDTH) * pixels);
    let shared = Shared::new(&mut output);
    let finish = Finish { bias, residual, relu, ..Finish::plain(shared, pixels) };
    if winograd::suits(team.level(), shape) {
        by_winograd(team, input, source, &finish);
    } else {
        directly(team, input, source, &finish);
    }
    output
}

fn by_winograd(team: &Team, input: Images<'_>, source: Source<'_>, finish: &Finish<'_>) {
    let layer = Winograd::of(&source);
    let length = winograd::packed(&source);
    let (mut points, mut scratch) =
        (room_for(team, &source, length), Buffer::new(layer.scratch(team, input.images, input.side)));
    let (points, scratch) = (Shared::new(&mut points), Shared::new(&mut scratch));
    team.run(|member| {
        // SAFETY: the buffers are the caller's and this function's, and the points are written before they are read.
        unsafe {
            winograd::pack(member, source, points);
            Winograd { points: points.read(0, length), ..layer }.run(member, input, scratch, finish);
        }
    });
}

fn directly(team: &Team, input: Images<'_>, source: Source<'_>, finish: &Finish<'_>) {
    let columns = Columns::new(source.convolution(), input);
    let (length, outputs) = (source.packed(team.level()), source.channels().1.div_ceil(WIDTH));
    let (mut packed, mut scratch) =
        (room_for(team, &source, length), Buffer::new(product::scratch(team, columns, outputs)));
    let (packed, scratch) = (Shared::new(&mut packed), Shared::new(&mut scratch));
    team.run(|member| {
        // SAFETY: the buffers are the caller's and this function's, and the weights are written before they are read.
        unsafe {
            source.pack(member, packed);
            let weights = source.matrix(member.level(), packed.read(0, length));
            product::product(member, columns, weights, scratch, finish);
        }
    });
}

/// A buffer for packed weights, of zeros where packing does not write: inputs that are missing to a whole lane.
fn room_for(team: &Team, source: &Source<'_>, packed: usize) -> Buffer {
    if source.channels().0.is_multiple_of(WIDTH * team.level().depth()) {
        Buffer::new(packed)
    } else {
        Buffer::zeros(packed)
    }
}

/// The packed sums over all pixels of columns times gradients.
fn sum_products(team: &Team, columns: Columns<'_>, gradient: Images<'_>) -> Buffer {
    let outputs = gradient.channel_lanes();
    let mut sums = Buffer::new(outputs * columns.lanes() * WIDTH);
    let mut scratch = Buffer::new(gradient::scratch(team, columns, outputs));
    let (shared, scratch) = (Shared::new(&mut sums), Shared::new(&mut scratch));
    team.run(|member| {
        // SAFETY: the buffers are this function's.
        unsafe { gradient::weight_gradient(member, columns, gradient, scratch, shared) }
    });
    sums
}

fn winograd_weight_gradient(team: &Team, shape: ConvShape, input: Images<'_>, gradient: Images<'_>) -> Numbers {
    let (inputs, outputs) = (shape.inputs.div_ceil(WIDTH), shape.outputs.div_ceil(WIDTH));
    let mut sums = Buffer::new(winograd::of_points(inputs * WIDTH * outputs));
    let mut scratch = Buffer::new(winograd::gradient_scratch(inputs, outputs, input.images, input.side));
    let (shared, scratch) = (Shared::new(&mut sums), Shared::new(&mut scratch));
    team.run(|member| {
        // SAFETY: the buffers are this function's.
        unsafe { winograd::weight_gradient(member, input, gradient, scratch, shared) }
    });
    unpack(team, shape, |output, rows| {
        team.level().run(winograd::Unpack { sums: &sums, shape, output, rows });
    })
}

/// Weights `[outputs, inputs, kernel, kernel]`: `write(lane of outputs, rows)` writes the rows of sixteen outputs.
fn unpack(team: &Team, shape: ConvShape, write: impl Fn(usize, &mut [f32]) + Sync) -> Numbers {
    let mut weights = Numbers::new(shape.weights());
    let rows = weights.chunks_mut(WIDTH * shape.weights() / shape.outputs).enumerate();
    parts::each(team, rows.collect(), |(output, rows)| write(output, rows));
    weights
}

/// Writes a lane of outputs to their rows.
#[inline(always)]
pub(super) fn scatter(rows: &mut [f32], shape: ConvShape, column: usize, lane: &Lane) {
    let row = shape.weights() / shape.outputs;
    for (row, value) in rows.chunks_exact_mut(row).zip(lane.0) {
        row[column] = value;
    }
}
