//! One pass of images through a plan.

use std::ops::Range;

use super::{Kind, Place, Plan, Ready, compile::Way};
use crate::{
    columns::Columns,
    conv::Images,
    pool::{padding, pooled},
    product::{self, Finish},
    shared::Shared,
    simd::{Lane, Vector, Work},
    stem::Planes,
    team::Member,
    thin::thin_plane,
};

/// One call's buffers.
pub(super) struct Pass<'a> {
    pub(super) plan: &'a Plan,
    pub(super) images: usize,
    pub(super) slots: Vec<Shared<'a>>,
    pub(super) scratch: Shared<'a>,
}

impl Pass<'_> {
    /// # Safety
    /// Nobody outside the team may have any of the buffers.
    pub(super) unsafe fn run(&self, member: &Member<'_>, planes: Planes<'_>, means: Shared<'_>) {
        let columns = Columns::Stem(planes);
        let finish =
            Finish { bias: Some(&self.plan.stem.bias), relu: true, ..Finish::plain(self.slots[0], columns.pixels()) };
        // SAFETY: the caller vouches for the buffers; no step writes where it reads.
        unsafe {
            product::product(member, columns, self.plan.stem.weights(member.level()), self.scratch, &finish);
            for step in &self.plan.steps {
                self.step(member, step);
            }
            let (result, grid) = (self.plan.result, self.plan.grid);
            let images = self.read(result);
            member.each(result.lanes, |lane| {
                let count = images.images * grid * grid;
                let means = means.part(lane * count, count);
                member.run(Means { plane: images.plane(lane), side: result.side, grid, means });
            });
        }
    }

    /// # Safety
    /// Nobody may write that slot meanwhile.
    unsafe fn read(&self, place: Place) -> Images<'_> {
        // SAFETY: as the caller's.
        let lanes = unsafe { self.slots[place.slot.0].read(0, place.size() * self.images) };
        Images { lanes, images: self.images, side: place.side }
    }

    /// # Safety
    /// Nobody outside the team may have any of the buffers.
    unsafe fn step(&self, member: &Member<'_>, step: &Ready) {
        let output = self.slots[step.output.slot.0];
        let pixels = self.images * step.output.side.pow(2);
        // SAFETY: the caller vouches for the buffers; the compiler saw that the step does not write where it reads.
        unsafe {
            let input = self.read(step.input);
            match &step.work {
                Kind::MaxPool { window } => self.planes(member, step, |plane, pooled| {
                    member.run(MaxPool { plane, side: input.side, window: *window, pooled });
                }),
                Kind::Thin => self.planes(member, step, |plane, thinned| thin_plane(plane, input.side, thinned)),
                Kind::Convolve { convolution, residual, relu } => {
                    let residual = residual.map(|slot| self.slots[slot.0].read(0, step.output.size() * self.images));
                    let bias = Some(convolution.bias.as_slice());
                    let finish = Finish { bias, residual, relu: *relu, output, stride: pixels };
                    match convolution.way(member.level(), self.images, step) {
                        Way::Winograd(winograd) => winograd.run(member, input, self.scratch, &finish),
                        Way::Few(few) => few.run(member, input, self.scratch, &finish),
                        Way::Direct(weights) => {
                            let columns = convolution.columns(input);
                            product::product(member, columns, weights, self.scratch, &finish);
                        }
                    }
                }
            }
        }
    }

    /// One phase over each lane of each image: what `work` reads, and what it writes of the step's output.
    ///
    /// # Safety
    /// Nobody outside the team may have any of the buffers.
    unsafe fn planes(&self, member: &Member<'_>, step: &Ready, work: impl Fn(&[Lane], &mut [Lane])) {
        let (area, written) = (step.input.side.pow(2), step.output.side.pow(2));
        let output = self.slots[step.output.slot.0];
        member.each(step.output.lanes * self.images, |item| {
            // SAFETY: the caller vouches for the buffers; the compiler saw that the step does not write where it reads, and this member
            // alone has this item.
            unsafe {
                let plane = &self.read(step.input).lanes[item * area..][..area];
                work(plane, output.part(item * written, written));
            }
        });
    }
}

/// The means of each cell of each image of one lane.
struct Means<'a> {
    plane: &'a [Lane],
    side: usize,
    /// Cells on a side.
    grid: usize,
    means: &'a mut [Lane],
}

impl Work for Means<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let Self { plane, side, grid, means } = self;
        let cells = means.chunks_exact_mut(grid * grid).zip(plane.chunks_exact(side * side));
        for (means, image) in cells {
            for (cell, mean) in means.iter_mut().enumerate() {
                let (rows, columns) = (span(cell / grid, side, grid), span(cell % grid, side, grid));
                let share = V::splat(1.0 / (rows.len() * columns.len()) as f32);
                let mut sum = V::zero();
                for y in rows {
                    for lane in &image[y * side..][columns.clone()] {
                        sum = sum.add(V::load(lane));
                    }
                }
                share.mul_add(sum, V::zero()).store(mean);
            }
        }
    }
}

/// What the cell of a grid covers of a side.
#[inline(always)]
fn span(cell: usize, side: usize, grid: usize) -> Range<usize> {
    cell * side / grid..((cell + 1) * side).div_ceil(grid)
}

/// The maxima of one lane of one image. What is outside counts as zero, below which nothing is after a ReLU.
struct MaxPool<'a> {
    plane: &'a [Lane],
    side: usize,
    window: usize,
    pooled: &'a mut [Lane],
}

impl Work for MaxPool<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let (side, padding) = (pooled(self.side, self.window), padding(self.window));
        let near =
            |place: usize| (2 * place).max(padding) - padding..(2 * place + self.window - padding).min(self.side);
        for (index, pooled) in self.pooled.iter_mut().enumerate() {
            let mut maximum = V::zero();
            for y in near(index / side) {
                for lane in &self.plane[y * self.side..][near(index % side)] {
                    maximum = maximum.max(V::load(lane));
                }
            }
            maximum.store(pooled);
        }
    }
}
