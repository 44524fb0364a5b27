//! Forward and backward passes of a convolution in training: output, input gradient and weight gradient.

use super::{
    im2col::Im2col,
    layout::{ConvShape, Images},
    matmul::{self, Epilogue},
    memory::{Buffer, FloatBuffer},
    pack::{Direction, Source, bias_blocks, scatter},
    parallel,
    shared::Shared,
    simd::{BLOCK, ChannelBlock},
    stem::{self, PaddedPlanes},
    strided,
    team::Team,
    weight_gradient,
    winograd::{self, Winograd},
};

/// Computes the convolution of `input`, adds `bias`, and applies ReLU if `relu` is set.
///
/// `weights` are `[outputs, inputs, kernel, kernel]`. The result is `[output blocks, images, side, side]` with
/// `shape.side(input.side)`.
///
/// # Panics
/// If the sizes of `input`, `weights` or `bias` do not match `shape`.
pub fn forward(
    team: &Team,
    shape: ConvShape,
    input: Images<'_>,
    weights: &[f32],
    bias: Option<&[f32]>,
    relu: bool,
) -> Buffer {
    input.check(shape.inputs);
    let bias = bias.map(|bias| bias_blocks(shape, bias));
    let source = Source::new(shape, weights, Direction::Forward);
    convolve(team, input, source, bias.as_deref(), None, relu)
}

/// Computes the gradient with respect to the input, whose side is `input_side`, from the gradient of the output.
/// `add` has the layout of the input and is added to the result; it is the gradient of a shortcut connection.
///
/// # Panics
/// If the sizes of `gradient`, `weights` or `add` do not match `shape`.
pub fn input_gradient(
    team: &Team,
    shape: ConvShape,
    input_side: usize,
    gradient: Images<'_>,
    weights: &[f32],
    add: Option<&[ChannelBlock]>,
) -> Buffer {
    gradient.check(shape.outputs);
    if let Some(blocks) = add {
        Images { blocks, side: input_side, ..gradient }.check(shape.inputs);
    }
    if shape.stride > 1 {
        return strided::input_gradient(team, shape, input_side, gradient, weights, add);
    }
    let source = Source::new(shape, weights, Direction::Backward);
    convolve(team, gradient, source, None, add, false)
}

/// Computes the gradient with respect to the weights, `[outputs, inputs, kernel, kernel]`.
///
/// # Panics
/// If the sizes of `input` or `gradient` do not match `shape`.
pub fn weight_gradient(team: &Team, shape: ConvShape, input: Images<'_>, gradient: Images<'_>) -> FloatBuffer {
    input.check(shape.inputs);
    gradient.check(shape.outputs);
    if winograd::is_applicable(team.level(), shape) {
        return winograd_weight_gradient(team, shape, input, gradient);
    }
    let columns = Im2col::new(shape, input);
    let sums = sum_products(team, columns, gradient);
    let (padded, area) = (shape.inputs.next_multiple_of(BLOCK), shape.kernel * shape.kernel);
    unpack(team, shape, |output, rows| {
        let panel = &sums[output * area * padded..][..area * padded];
        for (place, places) in panel.chunks_exact(padded).enumerate() {
            for (input, block) in places.iter().enumerate().take(shape.inputs) {
                scatter(rows, shape, input * area + place, block);
            }
        }
    })
}

/// Computes the first convolution of a network, whose input is unblocked, `[images, inputs, side, side]`, and has few
/// channels; then adds `bias` and applies ReLU if `relu` is set.
///
/// # Panics
/// If the sizes of `input`, `weights` or `bias` do not match `shape`, or the kernel is larger than 8.
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
    let columns = Im2col::Stem(PaddedPlanes::new(shape, images, side, &values, &[]));
    let source = Source::new(shape, weights, Direction::Forward);
    let bias = bias.map(|bias| bias_blocks(shape, bias));
    let outputs = shape.outputs.div_ceil(BLOCK);
    let (mut packed, mut scratch) =
        (Buffer::zeros(stem::packed(shape, &[], team.level())), Buffer::new(matmul::scratch(team, columns, outputs)));
    let mut output = Buffer::new(outputs * columns.pixels());
    let (packed, scratch, result) = (Shared::new(&mut packed), Shared::new(&mut scratch), Shared::new(&mut output));
    team.run(|worker| {
        let epilogue = Epilogue { bias: bias.as_deref(), relu, ..Epilogue::plain(result, columns.pixels()) };
        // SAFETY: this function owns the buffers, and the weights are packed before they are read.
        unsafe {
            stem::pack(worker, shape, &[], |_, _| 0.0, source, packed);
            let weights =
                stem::matrix(shape, &[], worker.level(), packed.slice(0, stem::packed(shape, &[], team.level())));
            matmul::matmul(worker, columns, weights, scratch, &epilogue);
        }
    });
    output
}

/// Computes the gradient with respect to the weights of [`stem_forward`].
///
/// # Panics
/// If the sizes of `input` or `gradient` do not match `shape`.
pub fn stem_weight_gradient(
    team: &Team,
    shape: ConvShape,
    input: &[f32],
    side: usize,
    gradient: Images<'_>,
) -> FloatBuffer {
    gradient.check(shape.outputs);
    let values = planes(shape, input, gradient.images, side);
    let columns = Im2col::Stem(PaddedPlanes::new(shape, gradient.images, side, &values, &[]));
    let sums = sum_products(team, columns, gradient);
    let (panel, area) = (stem::blocks(shape, &[]) * BLOCK, shape.kernel * shape.kernel);
    unpack(team, shape, |output, rows| {
        for (index, input, place) in stem::taps(shape) {
            scatter(rows, shape, input * area + place, &sums[output * panel + index]);
        }
    })
}

fn planes(shape: ConvShape, input: &[f32], images: usize, side: usize) -> Vec<f32> {
    assert_eq!(
        input.len(),
        images * shape.inputs * side * side,
        "the input must be {images} images of {side}x{side} pixels"
    );
    let mut values = vec![0.0; stem::padded_len(shape, images, side)];
    stem::pad(shape, images, side, &mut values, |plane, row, line| {
        line.copy_from_slice(&input[(plane * side + row) * side..][..side]);
    });
    values
}

/// Packs the weights and convolves with the faster algorithm.
fn convolve(
    team: &Team,
    input: Images<'_>,
    source: Source<'_>,
    bias: Option<&[ChannelBlock]>,
    residual: Option<&[ChannelBlock]>,
    relu: bool,
) -> Buffer {
    let shape = source.convolution();
    let pixels = input.images * shape.side(input.side).pow(2);
    let mut output = Buffer::new(shape.outputs.div_ceil(BLOCK) * pixels);
    let shared = Shared::new(&mut output);
    let epilogue = Epilogue { bias, residual, relu, ..Epilogue::plain(shared, pixels) };
    if winograd::is_applicable(team.level(), shape) {
        convolve_winograd(team, input, source, &epilogue);
    } else {
        convolve_direct(team, input, source, &epilogue);
    }
    output
}

fn convolve_winograd(team: &Team, input: Images<'_>, source: Source<'_>, epilogue: &Epilogue<'_>) {
    let layer = Winograd::of(&source);
    let length = winograd::packed(&source);
    let (mut points, mut scratch) =
        (packed_buffer(team, &source, length), Buffer::new(layer.scratch(team, input.images, input.side)));
    let (points, scratch) = (Shared::new(&mut points), Shared::new(&mut scratch));
    team.run(|worker| {
        // SAFETY: the caller and this function own the buffers, and the transformed weights are written before they
        // are read.
        unsafe {
            winograd::pack(worker, source, points);
            Winograd { points: points.slice(0, length), ..layer }.run(worker, input, scratch, epilogue);
        }
    });
}

fn convolve_direct(team: &Team, input: Images<'_>, source: Source<'_>, epilogue: &Epilogue<'_>) {
    let columns = Im2col::new(source.convolution(), input);
    let (length, outputs) = (source.packed(team.level()), source.channels().1.div_ceil(BLOCK));
    let (mut packed, mut scratch) =
        (packed_buffer(team, &source, length), Buffer::new(matmul::scratch(team, columns, outputs)));
    let (packed, scratch) = (Shared::new(&mut packed), Shared::new(&mut scratch));
    team.run(|worker| {
        // SAFETY: the caller and this function own the buffers, and the packed weights are written before they are
        // read.
        unsafe {
            source.pack(worker, packed);
            let weights = source.matrix(worker.level(), packed.slice(0, length));
            matmul::matmul(worker, columns, weights, scratch, epilogue);
        }
    });
}

/// Buffer for packed weights. It is zeroed if packing leaves gaps: inputs that are missing to a whole block.
fn packed_buffer(team: &Team, source: &Source<'_>, packed: usize) -> Buffer {
    if source.channels().0.is_multiple_of(BLOCK * team.level().depth()) {
        Buffer::new(packed)
    } else {
        Buffer::zeros(packed)
    }
}

/// Sums the products of im2col columns and gradients over all pixels. The result is a packed matrix.
fn sum_products(team: &Team, columns: Im2col<'_>, gradient: Images<'_>) -> Buffer {
    let outputs = gradient.channel_blocks();
    let mut sums = Buffer::new(outputs * columns.blocks() * BLOCK);
    let mut scratch = Buffer::new(weight_gradient::scratch(team, columns, outputs));
    let (shared, scratch) = (Shared::new(&mut sums), Shared::new(&mut scratch));
    team.run(|worker| {
        // SAFETY: this function owns the buffers.
        unsafe { weight_gradient::weight_gradient(worker, columns, gradient, scratch, shared) }
    });
    sums
}

fn winograd_weight_gradient(team: &Team, shape: ConvShape, input: Images<'_>, gradient: Images<'_>) -> FloatBuffer {
    let (inputs, outputs) = (shape.inputs.div_ceil(BLOCK), shape.outputs.div_ceil(BLOCK));
    let mut sums = Buffer::new(winograd::points_len(inputs * BLOCK * outputs));
    let mut scratch = Buffer::new(winograd::gradient_scratch(inputs, outputs, input.images, input.side));
    let (shared, scratch) = (Shared::new(&mut sums), Shared::new(&mut scratch));
    team.run(|worker| {
        // SAFETY: this function owns the buffers.
        unsafe { winograd::weight_gradient(worker, input, gradient, scratch, shared) }
    });
    unpack(team, shape, |output, rows| {
        team.level().run(winograd::Unpack { sums: &sums, shape, output, rows });
    })
}

/// Unpacks to weights `[outputs, inputs, kernel, kernel]`: `write(output block, rows)` writes the rows of sixteen
/// outputs.
fn unpack(team: &Team, shape: ConvShape, write: impl Fn(usize, &mut [f32]) + Sync) -> FloatBuffer {
    let mut weights = FloatBuffer::new(shape.weights());
    let rows = weights.chunks_mut(BLOCK * shape.weights() / shape.outputs).enumerate();
    parallel::for_each(team, rows.collect(), |(output, rows)| write(output, rows));
    weights
}
