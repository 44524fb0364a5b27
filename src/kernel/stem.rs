//! The first layer: few channels and a large kernel. Its input comes as plain planes, one a channel, with zeros around each.

use super::{
    columns,
    conv::ConvShape,
    pack::Source,
    shared::Shared,
    simd::{Lane, WIDTH},
    team::Member,
};

/// A row of the kernel takes half a lane: up to eight columns, of which the last ones count nothing.
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
}

impl<'a> Planes<'a> {
    /// Planes that [`edged`] made.
    pub(super) fn new(shape: ConvShape, images: usize, side: usize, values: &'a [f32]) -> Self {
        assert!(shape.kernel <= ROW, "a row of the kernel fits half a lane");
        assert_eq!(values.len(), images * shape.inputs * edged_side(shape, side).pow(2) + ROW, "edged planes");
        Self { shape, images, side, values }
    }

    pub(super) fn pixels(&self) -> usize {
        self.images * self.shape.side(self.side).pow(2)
    }

    pub(super) fn lanes(&self) -> usize {
        lanes(self.shape)
    }

    /// Two rows of the kernel a lane; the rows by channel, then from the top.
    pub(super) fn gather(&self, lane: usize, first: usize, gathered: &mut [Lane]) {
        let (side, width) = (self.shape.side(self.side), edged_side(self.shape, self.side));
        let ConvShape { inputs, kernel, stride, .. } = self.shape;
        let rows = inputs * kernel;
        for (half, row) in (2 * lane..rows.min(2 * lane + 2)).enumerate() {
            let (channel, down) = (row / kernel, row % kernel);
            columns::rows(first, gathered, (side, side), |image, y, x, line| {
                let start = ((image * inputs + channel) * width + y * stride + down) * width + x * stride;
                let windows = self.values[start..].windows(ROW).step_by(stride);
                for (lane, window) in line.iter_mut().zip(windows) {
                    lane.0[half * ROW..][..ROW].copy_from_slice(window);
                }
            });
        }
        if 2 * lane + 2 > rows {
            gathered.iter_mut().for_each(|lane| lane.0[ROW..].fill(0.0));
        }
    }
}

/// Side of a plane with the zeros around it.
fn edged_side(shape: ConvShape, side: usize) -> usize {
    side + 2 * shape.padding
}

/// Lanes of the numbers that an output looks at, and of the packed matrix's inputs.
pub(super) fn lanes(shape: ConvShape) -> usize {
    (shape.inputs * shape.kernel).div_ceil(2)
}

/// Puts zeros around planes: `fill(plane, row, line)` writes a line of `side` numbers.
pub(super) fn edged(
    shape: ConvShape,
    images: usize,
    side: usize,
    mut fill: impl FnMut(usize, usize, &mut [f32]),
) -> Vec<f32> {
    let width = edged_side(shape, side);
    let mut values = vec![0.0; images * shape.inputs * width * width + ROW];
    for plane in 0..images * shape.inputs {
        for y in 0..side {
            let start = (plane * width + y + shape.padding) * width + shape.padding;
            fill(plane, y, &mut values[start..start + side]);
        }
    }
    values
}

/// Lanes of the packed weights.
pub(super) fn packed(shape: ConvShape) -> usize {
    lanes(shape) * WIDTH * shape.outputs.div_ceil(WIDTH)
}

/// Packs weights for these planes; every member of the team comes here.
///
/// # Safety
/// Nobody outside the team may have `packed`.
pub(super) unsafe fn pack(member: &Member<'_>, shape: ConvShape, source: Source<'_>, packed: Shared<'_>) {
    let panel = lanes(shape) * WIDTH;
    member.each(shape.outputs.div_ceil(WIDTH), |output| {
        // SAFETY: this member alone has this panel until the phase is over.
        let panel = unsafe { packed.part(output * panel, panel) };
        for (index, input, place) in places(shape) {
            panel[index] = source.lane(input, place, output);
        }
    });
}

/// Where in a panel each weight of an output stands, its channel, and its place in the kernel.
pub(super) fn places(shape: ConvShape) -> impl Iterator<Item = (usize, usize, usize)> {
    let kernel = shape.kernel;
    (0..shape.inputs * kernel).flat_map(move |row| {
        (0..kernel).map(move |right| (row * ROW + right, row / kernel, row % kernel * kernel + right))
    })
}
