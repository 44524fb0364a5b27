//! One pass of images through a plan.

use super::{Kind, Place, Plan, Ready};
use crate::kernel::{
    columns::Columns,
    conv::Images,
    pack::Weights,
    pool::pooled,
    product::{self, Finish},
    shared::Shared,
    simd::{Lane, Vector, Work},
    stem::Planes,
    team::Member,
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
            product::product(member, columns, self.plan.stem.weights(), self.scratch, &finish);
            for step in &self.plan.steps {
                self.step(member, step);
            }
            let result = self.plan.result;
            let (images, pixels) = (self.read(result), result.side * result.side);
            member.each(result.lanes, |lane| {
                let means = means.part(lane * images.images, images.images);
                member.run(Mean { plane: images.plane(lane), pixels, means });
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
                Kind::MaxPool => member.each(step.output.lanes * self.images, |item| {
                    let pixels = pixels / self.images;
                    let (lane, image) = (item / self.images, item % self.images);
                    let plane = &input.plane(lane)[image * input.side.pow(2)..][..input.side.pow(2)];
                    let pooled = output.part(item * pixels, pixels);
                    member.run(MaxPool { plane, side: input.side, pooled });
                }),
                Kind::Convolve { convolution, residual, relu } => {
                    let residual = residual.map(|slot| self.slots[slot.0].read(0, step.output.size() * self.images));
                    let bias = Some(convolution.bias.as_slice());
                    let finish = Finish { bias, residual, relu: *relu, output, stride: pixels };
                    match convolution.winograd(self.images, step) {
                        Some(winograd) => winograd.run(member, input, self.scratch, &finish),
                        None => {
                            let columns = convolution.columns(input);
                            let weights = Weights {
                                lanes: convolution.direct.as_deref().expect("packed, as it is not transformed"),
                                inputs: columns.lanes(),
                                outputs: step.output.lanes,
                            };
                            product::product(member, columns, weights, self.scratch, &finish);
                        }
                    }
                }
            }
        }
    }
}

/// The mean of each image of one lane.
struct Mean<'a> {
    plane: &'a [Lane],
    pixels: usize,
    means: &'a mut [Lane],
}

impl Work for Mean<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let share = V::splat(1.0 / self.pixels as f32);
        for (mean, image) in self.means.iter_mut().zip(self.plane.chunks_exact(self.pixels)) {
            let mut sum = V::zero();
            for lane in image {
                sum = sum.add(V::load(lane));
            }
            share.mul_add(sum, V::zero()).store(mean);
        }
    }
}

/// The maxima of one lane of one image. What is outside counts as zero, below which nothing is after a ReLU.
struct MaxPool<'a> {
    plane: &'a [Lane],
    side: usize,
    pooled: &'a mut [Lane],
}

impl Work for MaxPool<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        let side = pooled(self.side);
        for (index, pooled) in self.pooled.iter_mut().enumerate() {
            let (y, x) = (index / side * 2, index % side * 2);
            let mut maximum = V::zero();
            for y in y.max(1) - 1..(y + 2).min(self.side) {
                for lane in &self.plane[y * self.side..][x.max(1) - 1..(x + 2).min(self.side)] {
                    maximum = maximum.max(V::load(lane));
                }
            }
            maximum.store(pooled);
        }
    }
}
