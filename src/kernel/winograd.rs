//! 3x3 convolutions of stride 1 with a quarter of the multiplications: Winograd's F(4x4, 3x3) (Lavin & Gray 2015, arXiv:1509.09308).
//!
//! The image is cut into squares of 4x4 outputs. Each looks at 6x6 inputs; 36 fixed sums of those, times 36 fixed sums of the 3x3
//! weights, channel by channel, are 36 fixed sums of the outputs. So the work is 36 matrix products of squares by channels.

use super::{
    conv::{ConvShape, Images},
    product::{Finish, Packed, Pixels, Tile, multiply},
    shared::Shared,
    simd::{Lane, Level, Vector, WIDTH, Work},
    team::Member,
};

/// Side of the square of outputs.
const OUT: usize = 4;
/// Side of what it looks at.
const IN: usize = 6;
/// Matrix products.
const POINTS: usize = IN * IN;

/// Transformed inputs and outputs held at once, in lanes: what fits beside the weights in the cores' second-level caches.
const HELD: usize = (3 << 19) / size_of::<Lane>();

/// What makes the transformed weights of the three taps: the polynomials' values at 0, 1, -1, 2, -2 and infinity.
const WEIGHTS: [[f64; 3]; IN] = [
    [1.0 / 4.0, 0.0, 0.0],
    [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
    [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
    [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
    [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
    [0.0, 0.0, 1.0],
];

/// Transformed weights of one convolution.
#[derive(Clone, Debug)]
pub(super) struct Winograd {
    /// A matrix `[inputs, outputs]` for each of the 36 points.
    points: Vec<Packed>,
    inputs: usize,
    outputs: usize,
}

impl Winograd {
    /// Whether it can do that convolution.
    pub(super) fn suits(shape: ConvShape) -> bool {
        (shape.kernel, shape.stride, shape.padding) == (3, 1, 1) && shape.inputs.is_multiple_of(WIDTH)
    }

    /// `weights`: `[outputs, inputs, 3, 3]`.
    pub(super) fn new(shape: ConvShape, weights: &[f32]) -> Self {
        let ConvShape { inputs, outputs, .. } = shape;
        let point = |point: usize| {
            let (down, right) = (WEIGHTS[point / IN], WEIGHTS[point % IN]);
            Packed::new(inputs, outputs, |input, output| {
                let taps = &weights[(output * inputs + input) * 9..][..9];
                let sum: f64 = (0..9).map(|tap| down[tap / 3] * right[tap % 3] * f64::from(taps[tap])).sum();
                sum as f32
            })
        };
        Self {
            points: (0..POINTS).map(point).collect(),
            inputs: inputs.div_ceil(WIDTH),
            outputs: outputs.div_ceil(WIDTH),
        }
    }

    /// Lanes of scratch that a pass needs.
    pub(super) fn scratch(&self, images: usize, side: usize) -> usize {
        self.chunk(squares(images, side)) * POINTS * (self.inputs + self.outputs)
    }

    /// How many squares go through the three phases together.
    fn chunk(&self, total: usize) -> usize {
        let fits = HELD / (POINTS * (self.inputs + self.outputs));
        let chunks = total.div_ceil(fits.max(14));
        total.div_ceil(chunks)
    }

    /// One pass; every member of the team comes here.
    ///
    /// # Safety
    /// Nobody outside the team may have the output or the scratch.
    pub(super) unsafe fn run(
        &self,
        member: &Member<'_>,
        level: Level,
        input: Images<'_>,
        scratch: Shared<'_>,
        finish: &Finish<'_>,
    ) {
        let total = squares(input.images, input.side);
        let chunk = self.chunk(total);
        for first in (0..total).step_by(chunk) {
            let count = chunk.min(total - first);
            let pass = Pass { layer: self, input, first, count, scratch, finish };
            member.each(self.inputs, |lane| level.run(Enter { pass, lane }));
            let (_, width) = level.tile();
            let panels = self.outputs.div_ceil(width);
            member.each(POINTS * panels, |item| {
                level.run(Multiply { pass, point: item / panels, panel: item % panels });
            });
            member.each(self.outputs, |lane| level.run(Leave { pass, lane }));
        }
    }
}

/// Squares of outputs of all images; those at the right and lower edge may reach beyond.
fn squares(images: usize, side: usize) -> usize {
    images * side.div_ceil(OUT) * side.div_ceil(OUT)
}

/// Some squares on their way through the three phases.
#[derive(Clone, Copy)]
struct Pass<'a> {
    layer: &'a Winograd,
    input: Images<'a>,
    first: usize,
    count: usize,
    scratch: Shared<'a>,
    finish: &'a Finish<'a>,
}

impl Pass<'_> {
    /// Where point and lane of the transformed input begin: `[point, lane, square]`.
    #[inline(always)]
    fn entered(&self, point: usize, lane: usize) -> usize {
        (point * self.layer.inputs + lane) * self.count
    }

    /// Where the transformed output of a point begins: `[point, lane, square]`, after all of the input.
    #[inline(always)]
    fn multiplied(&self, point: usize) -> usize {
        POINTS * self.layer.inputs * self.count + point * self.layer.outputs * self.count
    }

    /// Image, and the first row and column of outputs, of a square of this pass.
    #[inline(always)]
    fn place(&self, square: usize) -> (usize, usize, usize) {
        let across = self.input.side.div_ceil(OUT);
        let square = self.first + square;
        (square / (across * across), square / across % across * OUT, square % across * OUT)
    }
}

/// First phase: the sums of the inputs, for one lane of channels.
struct Enter<'a> {
    pass: Pass<'a>,
    lane: usize,
}

impl Work for Enter<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { pass, lane } = self;
        let (side, pixels) = (pass.input.side, pass.input.pixels());
        let plane = &pass.input.lanes[lane * pixels..][..pixels];
        for square in 0..pass.count {
            let (image, top, left) = pass.place(square);
            let mut values = [[V::zero(); IN]; IN];
            for (y, row) in values.iter_mut().enumerate() {
                // One row above the outputs and one below; outside of the image are zeros.
                let y = (top + y).wrapping_sub(1);
                if y < side {
                    let line = &plane[(image * side + y) * side..][..side];
                    for (x, value) in row.iter_mut().enumerate() {
                        if let Some(lane) = line.get((left + x).wrapping_sub(1)) {
                            *value = V::load(lane);
                        }
                    }
                }
            }
            let values = both_ways(values, enter);
            for (point, value) in values.into_iter().flatten().enumerate() {
                // SAFETY: this member alone has this lane of the transformed input until the phase is over.
                let place = unsafe { pass.scratch.part(pass.entered(point, lane) + square, 1) };
                value.store(&mut place[0]);
            }
        }
    }
}

/// Second phase: the matrix product of one point, for one panel of outputs.
struct Multiply<'a> {
    pass: Pass<'a>,
    point: usize,
    panel: usize,
}

impl Work for Multiply<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { pass, point, panel } = self;
        let (count, start, length) =
            (pass.count, pass.entered(point, 0), pass.layer.inputs * pass.count);
        // SAFETY: in this phase nobody writes the transformed input, and this member alone has this panel of the product.
        let (entered, product) = unsafe {
            (
                &*pass.scratch.part(start, length),
                pass.scratch.part(pass.multiplied(point), pass.layer.outputs * count),
            )
        };
        let _ = product;
        let (rows, width) = V::TILE;
        let output = panel * width;
        let outputs = width.min(pass.layer.outputs - output);
        let tiles = count.div_ceil(rows);
        let finish = Finish { bias: None, residual: None, relu: false, output: pass.scratch, stride: count };
        for index in 0..tiles {
            let (first, end) = (index * count / tiles, (index + 1) * count / tiles);
            let pixels = Pixels { lanes: &entered[first..], stride: count };
            let tile = Tile { first: pass.multiplied(point) + first, rows: end - first, output, outputs };
            // SAFETY: as above.
            unsafe { multiply::<V>(pixels, &pass.layer.points[point], tile, &finish) };
        }
    }
}

/// Third phase: the outputs from their sums, for one lane of channels.
struct Leave<'a> {
    pass: Pass<'a>,
    lane: usize,
}

impl Work for Leave<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { pass, lane } = self;
        let (side, finish) = (pass.input.side, pass.finish);
        // SAFETY: in this phase nobody writes the scratch.
        let scratch = unsafe { pass.scratch.whole() };
        let bias = finish.bias.map_or(V::zero(), |bias| V::load(&bias[lane]));
        for square in 0..pass.count {
            let (image, top, left) = pass.place(square);
            let mut values = [[V::zero(); IN]; IN];
            for (point, value) in values.iter_mut().flatten().enumerate() {
                *value = V::load(&scratch[pass.multiplied(point) + lane * pass.count + square]);
            }
            let outputs = leave_both_ways(values);
            for (y, row) in outputs.into_iter().enumerate().take(side - top) {
                let start = lane * finish.stride + (image * side + top + y) * side + left;
                let length = OUT.min(side - left);
                // SAFETY: this member alone has this lane of the output; nobody outside the team has any.
                let line = unsafe { finish.output.part(start, length) };
                for (x, (lane, value)) in line.iter_mut().zip(row).enumerate() {
                    let mut value = value.add(bias);
                    if let Some(residual) = finish.residual {
                        value = value.add(V::load(&residual[start + x]));
                    }
                    if finish.relu {
                        value = value.max(V::zero());
                    }
                    value.store(lane);
                }
            }
        }
    }
}

/// A transform of rows, then of columns.
#[inline(always)]
fn both_ways<V: Vector>(values: [[V; IN]; IN], transform: fn([V; IN]) -> [V; IN]) -> [[V; IN]; IN] {
    transpose(transpose(values.map(transform)).map(transform))
}

#[inline(always)]
fn transpose<V: Vector, const N: usize, const M: usize>(values: [[V; N]; M]) -> [[V; M]; N] {
    let mut turned = [[V::zero(); M]; N];
    for (m, row) in values.into_iter().enumerate() {
        for (n, value) in row.into_iter().enumerate() {
            turned[n][m] = value;
        }
    }
    turned
}

/// Six inputs to their six sums.
#[inline(always)]
fn enter<V: Vector>([a, b, c, d, e, f]: [V; IN]) -> [V; IN] {
    let (two, four, five) = (V::splat(2.0), V::splat(4.0), V::splat(-5.0));
    let minus_four = V::splat(-4.0);
    let (even, odd) = (minus_four.mul_add(c, e), minus_four.mul_add(b, d)); // e - 4c, d - 4b
    let (near, far) = (e.sub(c), two.mul_add(d.sub(b), V::zero()));
    [
        four.mul_add(a, five.mul_add(c, e)),
        even.add(odd),
        even.sub(odd),
        near.add(far),
        near.sub(far),
        four.mul_add(b, five.mul_add(d, f)),
    ]
}

/// Six sums to four outputs.
#[inline(always)]
fn leave<V: Vector>([a, b, c, d, e, f]: [V; IN]) -> [V; OUT] {
    let (sum, difference) = (b.add(c), b.sub(c));
    let (far_sum, far_difference) = (d.add(e), d.sub(e));
    [
        a.add(sum).add(far_sum),
        V::splat(2.0).mul_add(far_difference, difference),
        V::splat(4.0).mul_add(far_sum, sum),
        V::splat(8.0).mul_add(far_difference, difference).add(f),
    ]
}

#[inline(always)]
fn leave_both_ways<V: Vector>(values: [[V; IN]; IN]) -> [[V; OUT]; OUT] {
    let across: [[V; OUT]; IN] = values.map(leave);
    transpose(transpose(across).map(leave))
}
