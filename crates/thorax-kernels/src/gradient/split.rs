//! The same gradient by tiles of split numbers: the pixels of a channel lie side by side, once for the nine places of a 3x3 kernel.

use std::ops::Range;

use super::groups;
use crate::{
    around::Around,
    columns::Columns,
    conv::Images,
    product::share,
    reading::Reading,
    shared::Shared,
    simd::{
        Lane, Vector, WIDTH, Work,
        tiles::{self, Factors, Parts, ROWS, Tile, Tiles},
    },
    team::Member,
};

/// Pixels that one instruction sums over.
const STEP: usize = 2 * WIDTH;

/// Bytes of split numbers that go through all sums together, in lanes; in tests so few that there are several chunks.
const HELD: usize = if cfg!(test) { 8 << 10 } else { 3 << 19 } / size_of::<Lane>();

/// Fewest steps of them: for each chunk the sums are read and written.
const STEPS: usize = if cfg!(test) { 2 } else { 32 };

/// Some rows of inputs and of gradients, split.
#[derive(Clone, Copy)]
struct Chunk {
    parts: Parts,
    steps: usize,
    /// Lanes of a channel's row, with the halo. An odd number, or all rows would want the same few places of a cache.
    row: usize,
    inputs: usize,
    outputs: usize,
}

impl Chunk {
    /// The largest of them.
    fn new(reading: &Reading<'_>, parts: Parts, outputs: usize) -> Self {
        let inputs = reading.lanes();
        let total = reading.rows().div_ceil(STEP);
        let fits = (HELD / ((inputs + outputs) * parts.count() * ROWS)).max(STEPS);
        // Chunks of nearly the same size.
        let steps = total.div_ceil(total.div_ceil(fits));
        let row = (steps + (2 * reading.halo()).div_ceil(STEP)) | 1;
        Self { parts, steps, row, inputs, outputs }
    }

    /// Lanes of one lane of inputs.
    fn input(&self) -> usize {
        self.parts.count() * ROWS * self.row
    }

    /// Lanes of one lane of gradients.
    fn output(&self) -> usize {
        self.parts.count() * ROWS * self.steps
    }

    fn lanes(&self) -> usize {
        self.inputs * self.input() + self.outputs * self.output()
    }

    /// Where a lane of gradients begins, after all inputs.
    fn output_at(&self, lane: usize) -> usize {
        self.inputs * self.input() + lane * self.output()
    }
}

/// Lanes of scratch that [`weight_gradient`] needs.
pub(super) fn scratch(columns: Columns<'_>, parts: Parts, outputs: usize) -> usize {
    Chunk::new(&Reading::new(columns), parts, outputs).lanes()
}

/// As [`weight_gradient`](super::weight_gradient), for a team whose level has tiles.
///
/// # Safety
/// As there.
pub(super) unsafe fn weight_gradient(
    member: &Member<'_>,
    columns: Columns<'_>,
    parts: Parts,
    gradient: Images<'_>,
    scratch: Shared<'_>,
    sums: Shared<'_>,
) {
    let reading = Reading::new(columns);
    let chunk = Chunk::new(&reading, parts, gradient.channel_lanes());
    let places = reading.places();
    let (inputs, outputs) = (chunk.inputs.div_ceil(2), chunk.outputs.div_ceil(2));
    let (input_groups, output_groups) = groups(inputs, outputs, member.threads());
    for first in (0..reading.rows()).step_by(chunk.steps * STEP) {
        member.each(chunk.inputs + chunk.outputs, |lane| match lane.checked_sub(chunk.inputs) {
            // SAFETY of both: this member alone has this lane of the scratch until the phase is over.
            None => turn(reading, lane, first, chunk, unsafe { scratch.part(lane * chunk.input(), chunk.input()) }),
            Some(output) => {
                let rows = unsafe { scratch.part(chunk.output_at(output), chunk.output()) };
                split(reading, gradient, output, first, chunk, rows);
            }
        });
        member.each(input_groups * output_groups, |item| {
            let (input, output) = (item / output_groups, item % output_groups);
            member.run(Products {
                chunk,
                // SAFETY: nobody writes the scratch in this phase.
                lanes: unsafe { scratch.read(0, chunk.lanes()) },
                places: &places,
                sums,
                fresh: first == 0,
                inputs: share(input, input_groups, inputs),
                outputs: share(output, output_groups, outputs),
            });
        });
    }
}

/// Writes the rows of a lane of inputs' channels.
fn turn(reading: Reading<'_>, lane: usize, first: usize, chunk: Chunk, rows: &mut [Lane]) {
    let end = reading.rows() + 2 * reading.halo();
    let (high, mut low) = chunk.parts.of(rows);
    let mut pixels = [Lane::default(); STEP];
    for column in 0..chunk.row {
        let start = end.min(first + column * STEP);
        let (there, beyond) = pixels.split_at_mut(STEP.min(end - start));
        reading.gather(lane, start, there);
        beyond.fill(Lane::default());
        let low = low.as_mut().map(|low| &mut low[column..]);
        tiles::transpose(&pixels, chunk.row, &mut high[column..], low);
    }
}

/// Writes a lane of the gradients for the rows from `first` on, zeros where they are nobody's.
fn split(reading: Reading<'_>, gradient: Images<'_>, lane: usize, first: usize, chunk: Chunk, rows: &mut [Lane]) {
    let mut pixels = [Lane::default(); STEP];
    for (step, rows) in rows.chunks_exact_mut(chunk.parts.count() * ROWS).enumerate() {
        let start = reading.rows().min(first + step * STEP);
        let (there, beyond) = pixels.split_at_mut(STEP.min(reading.rows() - start));
        match reading {
            Reading::Columns(_) => there.copy_from_slice(&gradient.plane(lane)[start..][..there.len()]),
            Reading::Around(around) => Around { images: gradient }.gather(lane, start + around.halo(), there),
        }
        beyond.fill(Lane::default());
        tiles::split_weights(&pixels, chunk.parts, rows);
    }
}

/// The products of some pairs of lanes of inputs with some pairs of lanes of gradients.
struct Products<'a> {
    chunk: Chunk,
    lanes: &'a [Lane],
    places: &'a [usize],
    sums: Shared<'a>,
    /// Whether they begin at zero, whatever is there.
    fresh: bool,
    inputs: Range<usize>,
    outputs: Range<usize>,
}

impl Work for Products<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { chunk, lanes, fresh, .. } = self;
        let registers = Tiles::begin();
        for output in self.outputs.clone() {
            let outputs = pair(output, chunk.outputs);
            for input in self.inputs.clone() {
                let inputs = pair(input, chunk.inputs);
                for (index, &place) in self.places.iter().enumerate() {
                    let factors = Factors {
                        parts: chunk.parts,
                        inputs: inputs.map(|lane| &lanes[lane * chunk.input()..][..chunk.input()]),
                        place,
                        outputs: outputs.map(|lane| &lanes[chunk.output_at(lane)..][..chunk.output()]),
                    };
                    let sums = |output, input| self.sums(output, index * chunk.inputs + input);
                    let sums = outputs.map(|output| inputs.map(|input| sums(output, input)));
                    // SAFETY: this item alone has these inputs and outputs until the phase is over.
                    unsafe { registers.multiply_transposed(factors, sums, fresh) };
                }
            }
        }
    }
}

impl Products<'_> {
    /// The sums of one lane of outputs and one of inputs at one place.
    fn sums(&self, output: usize, input: usize) -> *mut Tile {
        let start = (output * self.places.len() * self.chunk.inputs + input) * WIDTH;
        // SAFETY: this item alone has them.
        let sums = unsafe { self.sums.part(start, ROWS) };
        std::ptr::from_mut(sums.as_mut_array().expect("sixteen lanes"))
    }
}

/// The lanes of a pair; where the last has only one, that one twice.
fn pair(pair: usize, lanes: usize) -> [usize; 2] {
    [2 * pair, (2 * pair + 1).min(lanes - 1)]
}
