//! The gradient of weights: for each input and output channel the sum over all pixels of their product.

mod split;

use std::ops::Range;

use super::{
    columns::Columns,
    conv::Images,
    product::share,
    shared::Shared,
    simd::{Lane, Vector, WIDTH, Work},
    team::{Member, Team},
};

/// Pixels that go through all channels together: one lane of inputs and a tile's lanes of gradients stay in the first-level cache.
const CHUNK: usize = 192;

/// Pixels that are gathered at once, in lanes.
const GATHERED: usize = (1 << 20) / size_of::<Lane>();

/// Lanes that lie `stride` apart; of each the pixels side by side.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) lanes: &'a [Lane],
    pub(super) stride: usize,
    /// How many lanes of channels.
    pub(super) count: usize,
}

impl<'a> Rows<'a> {
    fn row(&self, lane: usize, pixels: Range<usize>) -> &'a [Lane] {
        &self.lanes[lane * self.stride..][pixels]
    }
}

/// Lanes of scratch that [`weight_gradient`] needs for so many lanes of gradients.
pub(super) fn scratch(team: &Team, columns: Columns<'_>, outputs: usize) -> usize {
    if let Some(parts) = team.level().parts() {
        return split::scratch(columns, parts, outputs);
    }
    match columns {
        Columns::Plain(_) => 0,
        _ => columns.lanes() * chunk(&columns),
    }
}

fn chunk(columns: &Columns<'_>) -> usize {
    (GATHERED / columns.lanes()).max(CHUNK).min(columns.pixels())
}

/// Writes the gradient of a packed matrix `[columns, channels]` to `sums`; every member of the team comes here.
///
/// # Safety
/// Nobody outside the team may have the sums or the scratch.
pub(super) unsafe fn weight_gradient(
    member: &Member<'_>,
    columns: Columns<'_>,
    gradient: Images<'_>,
    scratch: Shared<'_>,
    sums: Shared<'_>,
) {
    if let Some(parts) = member.level().parts() {
        // SAFETY: as the caller's.
        return unsafe { split::weight_gradient(member, columns, parts, gradient, scratch, sums) };
    }
    let (total, outputs) = (gradient.pixels(), gradient.channel_lanes());
    if let Columns::Plain(images) = columns {
        let inputs = Rows { lanes: images.lanes, stride: total, count: images.channel_lanes() };
        let outputs = Rows { lanes: gradient.lanes, stride: total, count: outputs };
        // SAFETY: the caller vouches for the sums.
        return unsafe { add_products(member, inputs, outputs, total, sums, true) };
    }
    let (lanes, chunk) = (columns.lanes(), chunk(&columns));
    for first in (0..total).step_by(chunk) {
        let count = chunk.min(total - first);
        member.each(lanes, |lane| {
            // SAFETY: this member alone has this lane of the scratch until the phase is over.
            columns.gather(lane, first, unsafe { scratch.part(lane * count, count) });
        });
        // SAFETY: nobody writes the scratch in this phase; the caller vouches for the sums.
        unsafe {
            let inputs = Rows { lanes: scratch.read(0, lanes * count), stride: count, count: lanes };
            let outputs = Rows { lanes: &gradient.lanes[first..], stride: total, count: outputs };
            add_products(member, inputs, outputs, count, sums, first == 0);
        }
    }
}

/// Adds for each input and output channel the sum over `pixels` of their products to what is there, or `fresh` to nothing. The order of the
/// sums is that of the pixels, whatever the number of threads.
///
/// # Safety
/// Nobody outside the team may have the sums.
pub(super) unsafe fn add_products(
    member: &Member<'_>,
    inputs: Rows<'_>,
    outputs: Rows<'_>,
    pixels: usize,
    sums: Shared<'_>,
    fresh: bool,
) {
    let panels = outputs.count.div_ceil(member.level().gradient_tile().1);
    let (input_groups, output_groups) = groups(inputs.count, panels, member.threads());
    member.each(input_groups * output_groups, |item| {
        let (input, output) = (item / output_groups, item % output_groups);
        member.run(Products {
            inputs,
            outputs,
            pixels,
            sums,
            fresh,
            offset: 0,
            input_lanes: share(input, input_groups, inputs.count),
            panels: share(output, output_groups, panels),
        });
    });
}

/// Into how many groups inputs and outputs are cut.
fn groups(inputs: usize, outputs: usize, threads: usize) -> (usize, usize) {
    // The side with less of them is read again by each item, so the other one is cut.
    let wanted = 4 * threads;
    if inputs > outputs {
        let groups = inputs.min(wanted);
        (groups, outputs.min(wanted.div_ceil(groups)))
    } else {
        let groups = outputs.min(wanted);
        (inputs.min(wanted.div_ceil(groups)), groups)
    }
}

/// The products of some lanes of inputs with some panels of outputs.
pub(super) struct Products<'a> {
    pub(super) inputs: Rows<'a>,
    pub(super) outputs: Rows<'a>,
    pub(super) pixels: usize,
    /// The packed matrix of sums begins at `offset`.
    pub(super) sums: Shared<'a>,
    pub(super) offset: usize,
    /// Whether they begin at zero, whatever is there.
    pub(super) fresh: bool,
    pub(super) input_lanes: Range<usize>,
    pub(super) panels: Range<usize>,
}

impl Work for Products<'_> {
    #[inline(always)]
    fn run<V: Vector>(self) {
        for first in (0..self.pixels).step_by(CHUNK) {
            let pixels = first..(first + CHUNK).min(self.pixels);
            for panel in self.panels.clone() {
                let output = panel * V::GRADIENT_TILE.1;
                for input in self.input_lanes.clone() {
                    if V::GRADIENT_TILE.1 >= 2 && output + 2 <= self.outputs.count {
                        self.lane::<V, 2>(input, output, pixels.clone());
                    } else {
                        self.lane::<V, 1>(input, output, pixels.clone());
                    }
                }
            }
        }
    }
}

impl Products<'_> {
    /// One lane of inputs with `N` lanes of outputs.
    #[inline(always)]
    fn lane<V: Vector, const N: usize>(&self, input: usize, output: usize, pixels: Range<usize>) {
        let fresh = self.fresh && pixels.start == 0;
        let values = self.inputs.row(input, pixels.clone());
        let mut gradients: [&[Lane]; N] = [&[]; N];
        for (n, gradients) in gradients.iter_mut().enumerate() {
            *gradients = self.outputs.row(output + n, pixels.clone());
        }
        for channel in (0..WIDTH).step_by(V::GRADIENT_TILE.0) {
            match V::GRADIENT_TILE.0 {
                8 => self.tile::<V, 8, N>(input, output, channel, values, gradients, fresh),
                4 => self.tile::<V, 4, N>(input, output, channel, values, gradients, fresh),
                _ => unreachable!("no vector has other tiles"),
            }
        }
    }

    #[inline(always)]
    fn tile<V: Vector, const M: usize, const N: usize>(
        &self,
        input: usize,
        output: usize,
        channel: usize,
        values: &[Lane],
        gradients: [&[Lane]; N],
        fresh: bool,
    ) {
        let place = |n: usize| self.offset + ((output + n) * self.inputs.count + input) * WIDTH + channel;
        let mut sums = [[V::zero(); N]; M];
        if !fresh {
            for n in 0..N {
                // SAFETY: this item alone has these inputs and outputs until the phase is over.
                let place = unsafe { self.sums.part(place(n), M) };
                for m in 0..M {
                    sums[m][n] = V::load(&place[m]);
                }
            }
        }
        for (pixel, value) in values.iter().enumerate() {
            let value: &[f32; M] = value.0[channel..].first_chunk().expect("a tile of channels");
            let mut gradient = [V::zero(); N];
            for n in 0..N {
                gradient[n] = V::load(&gradients[n][pixel]);
            }
            for m in 0..M {
                let value = V::splat(value[m]);
                for n in 0..N {
                    sums[m][n] = value.mul_add(gradient[n], sums[m][n]);
                }
            }
        }
        for n in 0..N {
            // SAFETY: as above.
            let place = unsafe { self.sums.part(place(n), M) };
            for m in 0..M {
                sums[m][n].store(&mut place[m]);
            }
        }
    }
}
