//! The first convolution of a network: few channels and a large kernel. Its input is unblocked: one zero-padded plane
//! per channel.

use std::ops::Range;

use super::{
    layout::{ConvShape, for_each_row},
    pack::{Source, Weights},
    shared::Shared,
    simd::{BLOCK, ChannelBlock, Level},
    team::Worker,
};

/// A kernel row takes half a block: up to eight columns.
const ROW_SLOTS: usize = BLOCK / 2;

/// A batch of images as zero-padded planes.
#[derive(Clone, Copy)]
pub(super) struct PaddedPlanes<'a> {
    shape: ConvShape,
    images: usize,
    /// Side of an image without its padding.
    side: usize,
    /// `[images, channels, padded side, padded side]`, and one kernel row more after the last plane.
    values: &'a [f32],
    borders: &'a [Border],
}

/// Outputs whose window covers the same part of the kernel inside the image. One extra input is 1 for them and 0 for
/// all other outputs.
///
/// If each channel is `grey * scale + shift`, the shifts add a constant to every output, except to those whose window
/// reaches beyond the image. For these, the weight of the extra input subtracts the part that lies outside. The
/// alternative, a plane that marks the inside of the image, would double the input.
#[derive(Clone, Debug)]
pub(super) struct Border {
    /// Position of the extra input among the gathered numbers.
    pub(super) slot: usize,
    down: Span,
    right: Span,
}

/// Range of outputs along one axis, and the range of taps that are inside the image for them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Span {
    outputs: Range<usize>,
    taps: Range<usize>,
}

impl Border {
    /// True if the tap (row-major) is inside the image.
    pub(super) fn covers(&self, shape: ConvShape, tap: usize) -> bool {
        self.down.taps.contains(&(tap / shape.kernel)) && self.right.taps.contains(&(tap % shape.kernel))
    }
}

/// All groups of outputs whose window reaches beyond the image, at the positions that the kernel rows leave free.
pub(super) fn borders(shape: ConvShape, side: usize) -> Vec<Border> {
    let (spans, rows) = (spans(shape, side), shape.inputs * shape.kernel);
    let within = (0..rows).flat_map(|row| row * ROW_SLOTS + shape.kernel..(row + 1) * ROW_SLOTS);
    let pairs = spans.iter().flat_map(|down| spans.iter().map(move |right| (down.clone(), right.clone())));
    let seen = |span: &Span| span.taps.len() == shape.kernel;
    let pairs = pairs.filter(|(down, right)| !(seen(down) && seen(right)));
    pairs.zip(within.chain(rows * ROW_SLOTS..)).map(|((down, right), slot)| Border { slot, down, right }).collect()
}

fn spans(shape: ConvShape, side: usize) -> Vec<Span> {
    let ConvShape { kernel, stride, padding, .. } = shape;
    let mut spans: Vec<Span> = Vec::new();
    for output in 0..shape.side(side) {
        let taps = padding.saturating_sub(output * stride)..(side + padding - output * stride).min(kernel);
        match spans.last_mut() {
            Some(last) if last.taps == taps => last.outputs.end = output + 1,
            _ => spans.push(Span { outputs: output..output + 1, taps }),
        }
    }
    spans
}

impl<'a> PaddedPlanes<'a> {
    /// Planes that [`pad`] wrote.
    pub(super) fn new(shape: ConvShape, images: usize, side: usize, values: &'a [f32], borders: &'a [Border]) -> Self {
        assert!(shape.kernel <= ROW_SLOTS, "the first kernel must not be larger than 8 (got {})", shape.kernel);
        assert_eq!(values.len(), padded_len(shape, images, side), "the padded planes have the wrong length");
        Self { shape, images, side, values, borders }
    }

    pub(super) fn pixels(&self) -> usize {
        self.images * self.shape.side(self.side).pow(2)
    }

    pub(super) fn blocks(&self) -> usize {
        blocks(self.shape, self.borders)
    }

    /// Gathers one block: two kernel rows. Rows are ordered by channel, then from the top.
    pub(super) fn gather(&self, block: usize, first: usize, gathered: &mut [ChannelBlock]) {
        for half in 0..2 {
            self.gather_row(2 * block + half, half * ROW_SLOTS, first, gathered);
        }
        let side = self.shape.side(self.side);
        for border in self.borders.iter().filter(|border| border.slot / BLOCK == block) {
            for_each_row(first, gathered, (side, side), |_, y, x, line| {
                let Range { start, end } = border.right.outputs;
                let columns = start.max(x) - x..end.min(x + line.len()).max(x) - x;
                if border.down.outputs.contains(&y) && columns.start < columns.end {
                    line[columns].iter_mut().for_each(|block| block.0[border.slot % BLOCK] = 1.0);
                }
            });
        }
    }

    /// Gathers one kernel row into the columns from `start` on. Unused columns are zero.
    fn gather_row(&self, row: usize, start: usize, first: usize, gathered: &mut [ChannelBlock]) {
        let (side, width) = (self.shape.side(self.side), padded_side(self.shape, self.side));
        let ConvShape { inputs, kernel, stride, .. } = self.shape;
        if row >= inputs * kernel {
            return gathered.iter_mut().for_each(|block| block.0[start..start + ROW_SLOTS].fill(0.0));
        }
        let (channel, down) = (row / kernel, row % kernel);
        let counts: [f32; ROW_SLOTS] = std::array::from_fn(|right| if right < kernel { 1.0 } else { 0.0 });
        for_each_row(first, gathered, (side, side), |image, y, x, line| {
            let seen = ((image * inputs + channel) * width + y * stride + down) * width + x * stride;
            for (block, window) in line.iter_mut().zip(self.values[seen..].windows(ROW_SLOTS).step_by(stride)) {
                let row: [f32; ROW_SLOTS] = std::array::from_fn(|right| window[right] * counts[right]);
                block.0[start..start + ROW_SLOTS].copy_from_slice(&row);
            }
        });
    }
}

/// Side of a plane with its padding.
fn padded_side(shape: ConvShape, side: usize) -> usize {
    side + 2 * shape.padding
}

/// Blocks per output: the inputs of the packed matrix.
pub(super) fn blocks(shape: ConvShape, borders: &[Border]) -> usize {
    let rows = (shape.inputs * shape.kernel).div_ceil(2);
    borders.last().map_or(rows, |border| rows.max(border.slot / BLOCK + 1))
}

/// Length of the padded planes.
pub(super) fn padded_len(shape: ConvShape, images: usize, side: usize) -> usize {
    images * shape.inputs * padded_side(shape, side).pow(2) + ROW_SLOTS
}

/// Writes planes inside their padding: `fill(plane, row, line)` writes a line of `side` numbers.
pub(super) fn pad(
    shape: ConvShape,
    images: usize,
    side: usize,
    values: &mut [f32],
    mut fill: impl FnMut(usize, usize, &mut [f32]),
) {
    let width = padded_side(shape, side);
    for plane in 0..images * shape.inputs {
        for y in 0..side {
            let start = (plane * width + y + shape.padding) * width + shape.padding;
            fill(plane, y, &mut values[start..start + side]);
        }
    }
}

/// The packed matrix of that level.
pub(super) fn matrix<'a>(
    shape: ConvShape,
    borders: &[Border],
    level: Level,
    blocks: &'a [ChannelBlock],
) -> Weights<'a> {
    Weights::new(level, blocks, self::blocks(shape, borders), shape.outputs.div_ceil(BLOCK))
}

/// Length of the packed matrix.
pub(super) fn packed(shape: ConvShape, borders: &[Border], level: Level) -> usize {
    matrix(shape, borders, level, &[]).packed()
}

/// Packs the weights into zeros. `unseen` returns the weight of an output for the extra input of a border. Every
/// worker of the team must call it.
///
/// # Safety
/// No thread outside the team may access `packed`.
pub(super) unsafe fn pack(
    worker: &Worker<'_>,
    shape: ConvShape,
    borders: &[Border],
    unseen: impl Fn(usize, &Border) -> f32,
    source: Source<'_>,
    packed: Shared<'_>,
) {
    let matrix = matrix(shape, borders, worker.level(), &[]);
    worker.parallel_for(matrix.outputs, |output| {
        // SAFETY: only this worker accesses this panel during the phase.
        let panel = unsafe { packed.slice_mut(output * matrix.panel, matrix.panel) };
        worker.level().pack(panel, |panel| {
            for (index, input, tap) in taps(shape) {
                panel[index] = source.block(input, tap, output);
            }
            for border in borders {
                let outputs = output * BLOCK..shape.outputs.min((output + 1) * BLOCK);
                panel[border.slot]
                    .0
                    .iter_mut()
                    .zip(outputs)
                    .for_each(|(weight, output)| *weight = unseen(output, border));
            }
        });
    });
}

/// Position in a panel, input channel, and tap of each weight.
pub(super) fn taps(shape: ConvShape) -> impl Iterator<Item = (usize, usize, usize)> {
    let kernel = shape.kernel;
    (0..shape.inputs * kernel).flat_map(move |row| {
        (0..kernel).map(move |right| (row * ROW_SLOTS + right, row / kernel, row % kernel * kernel + right))
    })
}
