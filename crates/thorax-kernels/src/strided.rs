//! The gradient of a strided convolution's input.
//!
//! Taken as one convolution, most of what an input pixel looks at are zeros that the stride puts between the gradient's pixels. But all
//! pixels whose row and column leave the same rests by the stride look through the same places of the kernel at the gradient as it
//! lies. So it is as many small products as there are pairs of rests; of a 3x3 kernel with a stride of 2 they take a quarter of the work.

use super::{
    columns::{self, Columns},
    conv::{ConvShape, Images},
    memory::Buffer,
    pack::{Direction, Source, Weights},
    parts,
    product::{self, Finish},
    shared::Shared,
    simd::{Lane, WIDTH},
    team::Team,
};

/// The gradient of the input of that side, and `add` with it, from that of the output.
pub(super) fn input_gradient(
    team: &Team,
    shape: ConvShape,
    side: usize,
    gradient: Images<'_>,
    weights: &[f32],
    add: Option<&[Lane]>,
) -> Buffer {
    let source = Source::new(shape, weights, Direction::Backward);
    let pixels = gradient.images * side * side;
    let mut output = Buffer::new(shape.inputs.div_ceil(WIDTH) * pixels);
    for (down, right) in (0..shape.stride).flat_map(|down| (0..shape.stride).map(move |right| (down, right))) {
        let rest =
            Rest { images: gradient, down: Along::new(shape, side, down), right: Along::new(shape, side, right) };
        let sums = (rest.places() > 0 && rest.pixels() > 0).then(|| rest.sums(team, shape, source));
        let lanes = output.chunks_mut(pixels).enumerate().collect();
        parts::each(team, lanes, |(lane, plane): (usize, &mut [Lane])| {
            let sums = sums.as_deref().map(|sums| &sums[lane * rest.pixels()..][..rest.pixels()]);
            rest.put(shape.stride, side, sums, add.map(|add| &add[lane * pixels..][..pixels]), plane);
        });
    }
    output
}

/// One direction of the input pixels of one rest.
#[derive(Clone, Copy)]
struct Along {
    rest: usize,
    /// How many pixels.
    count: usize,
    /// The first place of the kernel, turned by half a turn, that they look through; the others follow by the stride.
    first: usize,
    places: usize,
    /// Where in the gradient the first pixel looks through the first place; each following place and pixel is one further.
    start: isize,
}

impl Along {
    fn new(shape: ConvShape, side: usize, rest: usize) -> Self {
        let ConvShape { kernel, stride, padding, .. } = shape;
        let at = |place: usize| (rest + place + padding + 1) as isize - kernel as isize;
        let step = stride as isize;
        let first = (0..kernel).find(|&place| at(place).rem_euclid(step) == 0).unwrap_or(kernel);
        Self {
            rest,
            count: side.saturating_sub(rest).div_ceil(stride),
            first,
            places: (kernel - first).div_ceil(stride),
            start: at(first).div_euclid(step),
        }
    }
}

/// The input pixels of one pair of rests.
#[derive(Clone, Copy)]
pub(super) struct Rest<'a> {
    images: Images<'a>,
    down: Along,
    right: Along,
}

impl Rest<'_> {
    fn places(&self) -> usize {
        self.down.places * self.right.places
    }

    pub(super) fn pixels(&self) -> usize {
        self.images.images * self.down.count * self.right.count
    }

    /// Lanes of numbers that each looks at.
    pub(super) fn lanes(&self) -> usize {
        self.places() * self.images.channel_lanes()
    }

    fn columns(&self) -> Columns<'_> {
        // Through one place, pixel by pixel: as the gradient lies.
        let plain = |along: Along| (along.places, along.start, along.count) == (1, 0, self.images.side);
        if plain(self.down) && plain(self.right) { Columns::Plain(self.images) } else { Columns::Rest(*self) }
    }

    /// The gradient of these pixels, side by side.
    fn sums(&self, team: &Team, shape: ConvShape, source: Source<'_>) -> Buffer {
        let (inputs, outputs) = source.channels();
        let (padded, outputs) = (inputs.next_multiple_of(WIDTH), outputs.div_ceil(WIDTH));
        let columns = self.columns();
        let matrix = Weights::new(team.level(), &[], self.lanes(), outputs);
        let mut packed = Buffer::zeros(matrix.packed());
        let panels = packed.chunks_mut(matrix.panel).enumerate().collect();
        parts::each(team, panels, |(output, panel): (usize, &mut [Lane])| {
            team.level().pack(panel, |panel| {
                for (index, places) in panel.chunks_mut(padded).enumerate().take(self.places()) {
                    let (down, right) = (index / self.right.places, index % self.right.places);
                    let (down, right) =
                        (self.down.first + down * shape.stride, self.right.first + right * shape.stride);
                    for (input, lane) in places.iter_mut().enumerate().take(inputs) {
                        *lane = source.lane(input, down * shape.kernel + right, output);
                    }
                }
            });
        });
        let weights = Weights { lanes: &packed, ..matrix };
        let mut scratch = Buffer::new(product::scratch(team, columns, outputs));
        let mut sums = Buffer::new(outputs * self.pixels());
        let (scratch, shared) = (Shared::new(&mut scratch), Shared::new(&mut sums));
        team.run(|member| {
            // SAFETY: the buffers are this function's.
            unsafe { product::product(member, columns, weights, scratch, &Finish::plain(shared, self.pixels())) }
        });
        sums
    }

    /// One lane of what the pixels from `first` on look at: lanes by place in the kernel, then by channel.
    pub(super) fn gather(&self, lane: usize, first: usize, gathered: &mut [Lane]) {
        let (place, channels) = (lane / self.images.channel_lanes(), lane % self.images.channel_lanes());
        let (down, right) = (place / self.right.places, place % self.right.places);
        let (plane, side) = (self.images.plane(channels), self.images.side);
        columns::rows(first, gathered, (self.down.count, self.right.count), |image, y, x, row| {
            let (y, x) = (self.down.start + (y + down) as isize, self.right.start + (x + right) as isize);
            let line =
                usize::try_from(y).ok().filter(|&y| y < side).map(|y| &plane[(image * side + y) * side..][..side]);
            copy_from(line.unwrap_or_default(), x, row);
        });
    }

    /// Puts one lane of sums where the stride left these pixels.
    fn put(&self, stride: usize, side: usize, sums: Option<&[Lane]>, add: Option<&[Lane]>, plane: &mut [Lane]) {
        let (rows, columns) = (self.down.count, self.right.count);
        for (image, y) in (0..self.images.images).flat_map(|image| (0..rows).map(move |y| (image, y))) {
            let start = (image * side + self.down.rest + y * stride) * side + self.right.rest;
            for x in 0..columns {
                let sum = sums.map_or(Lane::default(), |sums| sums[(image * rows + y) * columns + x]);
                let added = add.map(|add| add[start + x * stride]);
                plane[start + x * stride] =
                    added.map_or(sum, |added| Lane(std::array::from_fn(|i| sum.0[i] + added.0[i])));
            }
        }
    }
}

/// Copies what of a line lies from `start` on; beyond its ends are zeros.
fn copy_from(line: &[Lane], start: isize, row: &mut [Lane]) {
    let before = usize::try_from(-start).unwrap_or(0).min(row.len());
    let (zeros, row) = row.split_at_mut(before);
    zeros.fill(Lane::default());
    let line = line.get(usize::try_from(start).unwrap_or(0)..).unwrap_or_default();
    let (inside, beyond) = row.split_at_mut(line.len().min(row.len()));
    inside.copy_from_slice(&line[..inside.len()]);
    beyond.fill(Lane::default());
}
