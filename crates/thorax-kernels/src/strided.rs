//! Input gradient of a strided convolution.
//!
//! Computed as one convolution, most operands would be the zeros that the stride inserts between the pixels of the
//! gradient. But all input pixels with the same residues (row and column modulo the stride) use the same taps on the
//! dense gradient. So this is one small product per pair of residues. For a 3x3 kernel with stride 2 they take a
//! quarter of the work.

use super::{
    im2col::Im2col,
    layout::{ConvShape, Images},
    matmul::{self, Epilogue},
    memory::Buffer,
    pack::{Direction, Source, Weights},
    parallel,
    residue::{Axis, Residue},
    shared::Shared,
    simd::{BLOCK, ChannelBlock},
    team::Team,
};

/// Gradient with respect to the input of that side, plus `add`, from the gradient of the output.
pub(super) fn input_gradient(
    team: &Team,
    shape: ConvShape,
    side: usize,
    gradient: Images<'_>,
    weights: &[f32],
    add: Option<&[ChannelBlock]>,
) -> Buffer {
    let source = Source::new(shape, weights, Direction::Backward);
    let pixels = gradient.images * side * side;
    let mut output = Buffer::new(shape.inputs.div_ceil(BLOCK) * pixels);
    for (down, right) in (0..shape.stride).flat_map(|down| (0..shape.stride).map(move |right| (down, right))) {
        let residue =
            Residue { images: gradient, down: Axis::new(shape, side, down), right: Axis::new(shape, side, right) };
        let sums = (residue.taps() > 0 && residue.pixels() > 0).then(|| residue.sums(team, shape, source));
        let blocks = output.chunks_mut(pixels).enumerate().collect();
        parallel::for_each(team, blocks, |(block, plane): (usize, &mut [ChannelBlock])| {
            let sums = sums.as_deref().map(|sums| &sums[block * residue.pixels()..][..residue.pixels()]);
            residue.put(shape.stride, side, sums, add.map(|add| &add[block * pixels..][..pixels]), plane);
        });
    }
    output
}

impl Residue<'_> {
    fn columns(&self) -> Im2col<'_> {
        // One tap, and pixel by pixel: the gradient itself.
        let plain = |along: Axis| (along.taps, along.start, along.count) == (1, 0, self.images.side);
        if plain(self.down) && plain(self.right) { Im2col::Identity(self.images) } else { Im2col::Residue(*self) }
    }

    /// Gradient of the pixels of this residue class, adjacent in memory.
    fn sums(&self, team: &Team, shape: ConvShape, source: Source<'_>) -> Buffer {
        let (inputs, outputs) = source.channels();
        let (padded, outputs) = (inputs.next_multiple_of(BLOCK), outputs.div_ceil(BLOCK));
        let columns = self.columns();
        let matrix = Weights::new(team.level(), &[], self.blocks(), outputs);
        let mut packed = Buffer::zeros(matrix.packed());
        let panels = packed.chunks_mut(matrix.panel).enumerate().collect();
        parallel::for_each(team, panels, |(output, panel): (usize, &mut [ChannelBlock])| {
            team.level().pack(panel, |panel| {
                for (index, taps) in panel.chunks_mut(padded).enumerate().take(self.taps()) {
                    let (down, right) = (index / self.right.taps, index % self.right.taps);
                    let (down, right) =
                        (self.down.first + down * shape.stride, self.right.first + right * shape.stride);
                    for (input, block) in taps.iter_mut().enumerate().take(inputs) {
                        *block = source.block(input, down * shape.kernel + right, output);
                    }
                }
            });
        });
        let weights = Weights { blocks: &packed, ..matrix };
        let mut scratch = Buffer::new(matmul::scratch(team, columns, outputs));
        let mut sums = Buffer::new(outputs * self.pixels());
        let (scratch, shared) = (Shared::new(&mut scratch), Shared::new(&mut sums));
        team.run(|worker| {
            // SAFETY: this function owns the buffers.
            unsafe { matmul::matmul(worker, columns, weights, scratch, &Epilogue::plain(shared, self.pixels())) }
        });
        sums
    }

    /// Writes one channel block of sums to the pixels of this residue class.
    fn put(
        &self,
        stride: usize,
        side: usize,
        sums: Option<&[ChannelBlock]>,
        add: Option<&[ChannelBlock]>,
        plane: &mut [ChannelBlock],
    ) {
        let (rows, columns) = (self.down.count, self.right.count);
        for (image, y) in (0..self.images.images).flat_map(|image| (0..rows).map(move |y| (image, y))) {
            let start = (image * side + self.down.offset + y * stride) * side + self.right.offset;
            for x in 0..columns {
                let sum = sums.map_or(ChannelBlock::default(), |sums| sums[(image * rows + y) * columns + x]);
                let added = add.map(|add| add[start + x * stride]);
                plane[start + x * stride] =
                    added.map_or(sum, |added| ChannelBlock(std::array::from_fn(|i| sum.0[i] + added.0[i])));
            }
        }
    }
}
