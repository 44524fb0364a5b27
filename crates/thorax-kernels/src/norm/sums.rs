//! Sums over a lane's pixels: in single precision over blocks, in double precision from block to block.

use super::Line;
use crate::simd::{Lane, Vector, WIDTH, Work};

/// Pixels of a block. They are read twice and stay in the first-level cache.
const BLOCK: usize = 256;

/// How many pixels, their mean, and their squared distances from it, by channel.
///
/// A block's are taken from the block's own mean and joined as in Chan, Golub & LeVeque 1979: so a channel whose mean is large beside
/// its spread keeps the digits that a sum of squares would lose.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moments {
    count: f64,
    pub(super) mean: [f64; WIDTH],
    distance: [f64; WIDTH],
}

impl Moments {
    /// Those of all pieces.
    pub(super) fn join(pieces: &[Self]) -> Self {
        pieces.iter().fold(Self::default(), |mut all, piece| {
            all.add(piece.count, piece.mean, piece.distance);
            all
        })
    }

    pub(super) fn variance(&self) -> [f64; WIDTH] {
        self.distance.map(|distance| distance / self.count)
    }

    fn add(&mut self, count: f64, mean: [f64; WIDTH], distance: [f64; WIDTH]) {
        let all = self.count + count;
        for channel in 0..WIDTH {
            let apart = mean[channel] - self.mean[channel];
            self.mean[channel] += apart * (count / all);
            self.distance[channel] += distance[channel] + apart * apart * (self.count * count / all);
        }
        self.count = all;
    }
}

/// Adds a piece's pixels to its moments.
pub(super) struct Measure<'a> {
    pub(super) input: &'a [Lane],
    pub(super) moments: &'a mut Moments,
}

impl Work for Measure<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        for block in self.input.chunks(BLOCK) {
            let count = block.len() as f64;
            let mean = wide(total::<V>(block, V::zero(), |sum, distance| sum.add(distance))).map(|sum| sum / count);
            let near = narrow::<V>(mean);
            let distance = wide(total::<V>(block, near, |sum, distance| distance.mul_add(distance, sum)));
            self.moments.add(count, mean, distance);
        }
    }
}

/// The sum of a gradient, and that of its products with the input's distances from its mean, by channel.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct GradientSums {
    pub(super) gradient: [f64; WIDTH],
    pub(super) product: [f64; WIDTH],
}

impl GradientSums {
    /// Those of all pieces.
    pub(super) fn join(pieces: &[Self]) -> Self {
        pieces.iter().fold(Self::default(), |mut all, piece| {
            all.add(piece.gradient, piece.product);
            all
        })
    }

    fn add(&mut self, gradient: [f64; WIDTH], product: [f64; WIDTH]) {
        for channel in 0..WIDTH {
            self.gradient[channel] += gradient[channel];
            self.product[channel] += product[channel];
        }
    }
}

/// Adds up the gradient that a ReLU lets through: where the normalised input is above `floor`.
pub(super) struct SumWhereAbove<'a> {
    pub(super) input: &'a [Lane],
    pub(super) gradient: &'a [Lane],
    pub(super) line: &'a Line,
    pub(super) floor: f32,
    pub(super) sums: &'a mut GradientSums,
}

impl Work for SumWhereAbove<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let mean = V::load(&self.line.mean);
        for (inputs, gradients) in self.input.chunks(BLOCK).zip(self.gradient.chunks(BLOCK)) {
            let (mut sum, mut product) = (V::zero(), V::zero());
            for (input, gradient) in inputs.iter().zip(gradients) {
                let distance = V::load(input).sub(mean);
                let gradient = self.line.let_through(distance, self.floor, V::load(gradient));
                sum = sum.add(gradient);
                product = distance.mul_add(gradient, product);
            }
            self.sums.add(wide(sum), wide(product));
        }
    }
}

/// Lets the gradient through where `output` is above zero, in place, and adds it up.
pub(super) struct MaskAndSum<'a> {
    pub(super) input: &'a [Lane],
    pub(super) output: &'a [Lane],
    pub(super) gradient: &'a mut [Lane],
    pub(super) line: &'a Line,
    pub(super) sums: &'a mut GradientSums,
}

impl Work for MaskAndSum<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let mean = V::load(&self.line.mean);
        let blocks = self.input.chunks(BLOCK).zip(self.output.chunks(BLOCK)).zip(self.gradient.chunks_mut(BLOCK));
        for ((inputs, outputs), gradients) in blocks {
            let (mut sum, mut product) = (V::zero(), V::zero());
            for ((input, output), place) in inputs.iter().zip(outputs).zip(gradients) {
                let gradient = V::load(output).pick(V::zero(), V::load(place), V::zero());
                gradient.store(place);
                sum = sum.add(gradient);
                product = V::load(input).sub(mean).mul_add(gradient, product);
            }
            self.sums.add(wide(sum), wide(product));
        }
    }
}

/// `add` of the distances from `near`, in four sums that do not wait for each other.
#[inline(always)]
fn total<V: Vector>(block: &[Lane], near: V, add: impl Fn(V, V) -> V) -> V {
    let mut sums = [V::zero(); 4];
    let (fours, rest) = block.as_chunks::<4>();
    for four in fours {
        for (sum, lane) in sums.iter_mut().zip(four) {
            *sum = add(*sum, V::load(lane).sub(near));
        }
    }
    for (sum, lane) in sums.iter_mut().zip(rest) {
        *sum = add(*sum, V::load(lane).sub(near));
    }
    sums[0].add(sums[1]).add(sums[2].add(sums[3]))
}

#[inline(always)]
fn wide<V: Vector>(vector: V) -> [f64; WIDTH] {
    let mut lane = Lane::default();
    vector.store(&mut lane);
    lane.0.map(f64::from)
}

#[inline(always)]
fn narrow<V: Vector>(numbers: [f64; WIDTH]) -> V {
    V::load(&Lane(numbers.map(|number| number as f32)))
}
