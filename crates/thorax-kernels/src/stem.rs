//! The first layer: few channels and a large kernel. Its input comes as plain planes, one a channel, with zeros around each.

use std::ops::Range;

use super::{
    columns,
    conv::ConvShape,
    pack::{Source, Weights},
    shared::Shared,
    simd::{Lane, Level, WIDTH},
    team::Member,
};

/// A row of the kernel takes half a lane: up to eight columns.
const ROW: usize = WIDTH / 2;

/// Images as planes.
#[derive(Clone, Copy)]
pub(super) struct Planes<'a> {
    shape: ConvShape,
    images: usize,
    /// Of an image without its edge.
    side: usize,
    /// `[images, channels, edged side, edged side]`, and a row's rest after the last.
    values: &'a [f32],
    edges: &'a [Edge],
}

/// Outputs that see the same part of the kernel inside of the image, and a number among those they look at that is one for them and zero
/// for all others.
///
/// Where each channel is `grey * scale + shift`, the shifts come to a constant for all outputs but those that look beyond the image:
/// for them the weight of this number takes away what they do not see. A plane that says where the image is would take as many
/// numbers again as the grey levels.
#[derive(Clone, Debug)]
pub(super) struct Edge {
    /// Where the number stands.
    pub(super) slot: usize,
    down: Span,
    right: Span,
}

/// Outputs along one side, and the places of the kernel that they see inside of the image.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Span {
    outputs: Range<usize>,
    places: Range<usize>,
}

impl Edge {
    /// Whether they see that place of the kernel, from the left, then from the top.
    pub(super) fn sees(&self, shape: ConvShape, place: usize) -> bool {
        self.down.places.contains(&(place / shape.kernel)) && self.right.places.contains(&(place % shape.kernel))
    }
}

/// All outputs that do not see the whole kernel, in the slots that the rows leave free, in their order.
pub(super) fn edges(shape: ConvShape, side: usize) -> Vec<Edge> {
    let (spans, rows) = (spans(shape, side), shape.inputs * shape.kernel);
    let within = (0..rows).flat_map(|row| row * ROW + shape.kernel..(row + 1) * ROW);
    let pairs = spans.iter().flat_map(|down| spans.iter().map(move |right| (down.clone(), right.clone())));
    let seen = |span: &Span| span.places.len() == shape.kernel;
    let pairs = pairs.filter(|(down, right)| !(seen(down) && seen(right)));
    pairs.zip(within.chain(rows * ROW..)).map(|((down, right), slot)| Edge { slot, down, right }).collect()
}

fn spans(shape: ConvShape, side: usize) -> Vec<Span> {
    let ConvShape { kernel, stride, padding, .. } = shape;
    let mut spans: Vec<Span> = Vec::new();
    for output in 0..shape.side(side) {
        let places = padding.saturating_sub(output * stride)..(side + padding - output * stride).min(kernel);
        match spans.last_mut() {
            Some(last) if last.places == places => last.outputs.end = output + 1,
            _ => spans.push(Span { outputs: output..output + 1, places }),
        }
    }
    spans
}

impl<'a> Planes<'a> {
    /// Planes that [`edged`] made.
    pub(super) fn new(shape: ConvShape, images: usize, side: usize, values: &'a [f32], edges: &'a [Edge]) -> Self {
        assert!(shape.kernel <= ROW, "a row of the kernel fits half a lane");
        assert_eq!(values.len(), edged_length(shape, images, side), "edged planes");
        Self { shape, images, side, values, edges }
    }

    pub(super) fn pixels(&self) -> usize {
        self.images * self.shape.side(self.side).pow(2)
    }

    pub(super) fn lanes(&self) -> usize {
        lanes(self.shape, self.edges)
    }

    /// Two rows of the kernel a lane; the rows by channel, then from the top.
    pub(super) fn gather(&self, lane: usize, first: usize, gathered: &mut [Lane]) {
        for half in 0..2 {
            self.gather_row(2 * lane + half, half * ROW, first, gathered);
        }
        let side = self.shape.side(self.side);
        for edge in self.edges.iter().filter(|edge| edge.slot / WIDTH == lane) {
            columns::rows(first, gathered, (side, side), |_, y, x, line| {
                let Range { start, end } = edge.right.outputs;
                let columns = start.max(x) - x..end.min(x + line.len()).max(x) - x;
                if edge.down.outputs.contains(&y) && columns.start < columns.end {
                    line[columns].iter_mut().for_each(|lane| lane.0[edge.slot % WIDTH] = 1.0);
                }
            });
        }
    }

    /// One row of the kernel, from `start` of the lanes on; zeros where there is none, and after its end.
    fn gather_row(&self, row: usize, start: usize, first: usize, gathered: &mut [Lane]) {
        let (side, width) = (self.shape.side(self.side), edged_side(self.shape, self.side));
        let ConvShape { inputs, kernel, stride, .. } = self.shape;
        if row >= inputs * kernel {
            return gathered.iter_mut().for_each(|lane| lane.0[start..start + ROW].fill(0.0));
        }
        let (channel, down) = (row / kernel, row % kernel);
        let counts: [f32; ROW] = std::array::from_fn(|right| if right < kernel { 1.0 } else { 0.0 });
        columns::rows(first, gathered, (side, side), |image, y, x, line| {
            let seen = ((image * inputs + channel) * width + y * stride + down) * width + x * stride;
            for (lane, window) in line.iter_mut().zip(self.values[seen..].windows(ROW).step_by(stride)) {
                let row: [f32; ROW] = std::array::from_fn(|right| window[right] * counts[right]);
                lane.0[start..start + ROW].copy_from_slice(&row);
            }
        });
    }
}

/// Side of a plane with the zeros around it.
fn edged_side(shape: ConvShape, side: usize) -> usize {
    side + 2 * shape.padding
}

/// Lanes of the numbers that an output looks at, and of the packed matrix's inputs.
pub(super) fn lanes(shape: ConvShape, edges: &[Edge]) -> usize {
    let rows = (shape.inputs * shape.kernel).div_ceil(2);
    edges.last().map_or(rows, |edge| rows.max(edge.slot / WIDTH + 1))
}

/// How many numbers edged planes are.
pub(super) fn edged_length(shape: ConvShape, images: usize, side: usize) -> usize {
    images * shape.inputs * edged_side(shape, side).pow(2) + ROW
}

/// Puts planes where zeros lie around each: `fill(plane, row, line)` writes a line of `side` numbers.
pub(super) fn edged(
    shape: ConvShape,
    images: usize,
    side: usize,
    values: &mut [f32],
    mut fill: impl FnMut(usize, usize, &mut [f32]),
) {
    let width = edged_side(shape, side);
    for plane in 0..images * shape.inputs {
        for y in 0..side {
            let start = (plane * width + y + shape.padding) * width + shape.padding;
            fill(plane, y, &mut values[start..start + side]);
        }
    }
}

/// The packed matrix of that level.
pub(super) fn matrix<'a>(shape: ConvShape, edges: &[Edge], level: Level, lanes: &'a [Lane]) -> Weights<'a> {
    Weights::new(level, lanes, self::lanes(shape, edges), shape.outputs.div_ceil(WIDTH))
}

/// Lanes of it.
pub(super) fn packed(shape: ConvShape, edges: &[Edge], level: Level) -> usize {
    matrix(shape, edges, level, &[]).packed()
}

/// Packs weights for planes into zeros; `unseen` says which weight an output has for the number of an edge. Every member of the team
/// comes here.
///
/// # Safety
/// Nobody outside the team may have `packed`.
pub(super) unsafe fn pack(
    member: &Member<'_>,
    shape: ConvShape,
    edges: &[Edge],
    unseen: impl Fn(usize, &Edge) -> f32,
    source: Source<'_>,
    packed: Shared<'_>,
) {
    let matrix = matrix(shape, edges, member.level(), &[]);
    member.each(matrix.outputs, |output| {
        // SAFETY: this member alone has this panel until the phase is over.
        let panel = unsafe { packed.part(output * matrix.panel, matrix.panel) };
        member.level().pack(panel, |panel| {
            for (index, input, place) in places(shape) {
                panel[index] = source.lane(input, place, output);
            }
            for edge in edges {
                let outputs = output * WIDTH..shape.outputs.min((output + 1) * WIDTH);
                panel[edge.slot].0.iter_mut().zip(outputs).for_each(|(weight, output)| *weight = unseen(output, edge));
            }
        });
    });
}

/// Where in a panel each weight of an output stands, its channel, and its place in the kernel.
pub(super) fn places(shape: ConvShape) -> impl Iterator<Item = (usize, usize, usize)> {
    let kernel = shape.kernel;
    (0..shape.inputs * kernel).flat_map(move |row| {
        (0..kernel).map(move |right| (row * ROW + right, row / kernel, row % kernel * kernel + right))
    })
}
