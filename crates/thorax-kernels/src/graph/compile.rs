//! Compilation of a graph: folds the input channels, packs the weights, and checks the shapes.

use super::{ChannelAffine, CompiledOp, ConvLayer, Op, OpKind, Slot, SlotShape};
use crate::{
    im2col::Im2col,
    layout::{ConvShape, Images},
    matmul,
    pack::{Direction, Source, Weights, bias_blocks},
    pool::pooled_side,
    shared::Shared,
    simd::{BLOCK, ChannelBlock, Level},
    stem::{self, Border, PaddedPlanes},
    subsample::subsampled_side,
    team::Team,
    winograd::{self, OnTheFly, Winograd},
    zeros,
};

/// The first convolution.
#[derive(Debug)]
pub(super) struct Stem {
    pub(super) shape: ConvShape,
    /// Side of the images in pixels.
    side: usize,
    borders: Vec<Border>,
    packed: Vec<ChannelBlock>,
    pub(super) bias: Vec<ChannelBlock>,
}

/// A later convolution.
#[derive(Debug)]
pub(super) struct Convolution {
    shape: ConvShape,
    pub(super) bias: Vec<ChannelBlock>,
    /// Packed weights, if the direct method is the best for some number of images.
    direct: Option<Vec<ChannelBlock>>,
    /// Winograd-transformed weights, if Winograd is the best for some number of images.
    points: Option<Vec<ChannelBlock>>,
}

/// Algorithm of a convolution.
pub(super) enum ConvMethod<'a> {
    /// Matrix product of im2col columns, or of the pixels themselves.
    Direct(Weights<'a>),
    /// Winograd with weights transformed at compile time.
    Winograd(Winograd<'a>),
    /// Winograd with weights transformed during the pass.
    OnTheFly(OnTheFly<'a>),
}

impl Stem {
    /// All channels are affine maps of one grey level. So the kernel is folded to one input channel, and the shifts
    /// go into the bias.
    pub(super) fn new(team: &Team, side: usize, layer: &ConvLayer, channels: &ChannelAffine) -> Self {
        let ConvLayer { shape, weights, bias } = layer;
        let area = shape.kernel * shape.kernel;
        let folded = ConvShape { inputs: 1, ..*shape };
        let sum = |output: usize, factors: &[f32], tap: usize| -> f64 {
            let weight = |channel: usize| f64::from(weights[(output * shape.inputs + channel) * area + tap]);
            (0..shape.inputs).map(|channel| weight(channel) * f64::from(factors[channel])).sum()
        };
        let taps = |output: usize| (0..area).map(move |tap| (output, tap));
        let grey: Vec<f32> =
            (0..shape.outputs).flat_map(taps).map(|(output, at)| sum(output, &channels.scale, at) as f32).collect();
        let shifts = |output: usize, seen: &dyn Fn(usize) -> bool| -> f64 {
            (0..area).filter(|&tap| seen(tap)).map(|tap| sum(output, &channels.shift, tap)).sum()
        };
        let borders = stem::borders(folded, side);
        let mut packed = zeros(stem::packed(folded, &borders, team.level()));
        let shared = Shared::new(&mut packed);
        let source = Source::new(folded, &grey, Direction::Forward);
        let unseen = |output, border: &Border| -shifts(output, &|tap| !border.covers(folded, tap)) as f32;
        // SAFETY: this function owns the buffer.
        team.run(|worker| unsafe { stem::pack(worker, folded, &borders, unseen, source, shared) });
        let bias: Vec<f32> =
            bias.iter().enumerate().map(|(i, &bias)| (f64::from(bias) + shifts(i, &|_| true)) as f32).collect();
        Self { shape: folded, side, borders, packed, bias: bias_blocks(folded, &bias) }
    }

    /// Writes grey levels into zero-padded planes, in the first part of `values`.
    pub(super) fn planes<'a>(&'a self, images: &[&[u8]], values: &'a mut Vec<f32>) -> PaddedPlanes<'a> {
        let (side, length) = (self.side, stem::padded_len(self.shape, images.len(), self.side));
        assert!(images.iter().all(|image| image.len() == side * side), "each image must have {side}x{side} pixels");
        if values.len() < length {
            *values = vec![0.0; length];
        }
        let values = &mut values[..length];
        stem::pad(self.shape, images.len(), side, values, |image, row, line| {
            for (value, grey) in line.iter_mut().zip(&images[image][row * side..]) {
                *value = f32::from(*grey);
            }
        });
        PaddedPlanes::new(self.shape, images.len(), side, values, &self.borders)
    }

    pub(super) fn weights(&self, level: Level) -> Weights<'_> {
        stem::matrix(self.shape, &self.borders, level, &self.packed)
    }
}

/// Tracks the activation in each slot during compilation.
pub(super) struct Compiler<'a> {
    pub(super) team: &'a Team,
    pub(super) written: Vec<SlotShape>,
    pub(super) slots: Vec<usize>,
}

impl Compiler<'_> {
    pub(super) fn op(&mut self, op: &Op) -> CompiledOp {
        let (work, input, output, blocks, side) = match op {
            Op::Conv { layer, input, output, residual, relu } => {
                let from = self.find(*input);
                assert_eq!(
                    from.blocks,
                    layer.shape.inputs.div_ceil(BLOCK),
                    "the input channels of {:?} must match {input:?}",
                    layer.shape
                );
                let side = layer.shape.side(from.side);
                let blocks = layer.shape.outputs.div_ceil(BLOCK);
                if let Some(residual) = residual {
                    let residual = self.find(*residual);
                    assert_eq!(
                        (residual.blocks, residual.side),
                        (blocks, side),
                        "the residual must have the shape of the output"
                    );
                    assert_ne!(residual.slot, *output, "an op must not write a slot that it reads");
                }
                let convolution = Convolution::new(self.team, layer, side);
                (OpKind::Conv { convolution, residual: *residual, relu: *relu }, from, *output, blocks, side)
            }
            Op::MaxPool { window, input, output } => {
                let from = self.find(*input);
                (OpKind::MaxPool { window: *window }, from, *output, from.blocks, pooled_side(from.side, *window))
            }
            Op::Subsample { input, output } => {
                let from = self.find(*input);
                (OpKind::Subsample, from, *output, from.blocks, subsampled_side(from.side))
            }
        };
        assert_ne!(input.slot, output, "an op must not write a slot that it reads");
        let output = SlotShape { slot: output, blocks, side };
        self.write(output);
        CompiledOp { work, input, output }
    }

    /// Activation that the slot currently holds.
    pub(super) fn find(&self, slot: Slot) -> SlotShape {
        let written = self.written.iter().rev().find(|shape| shape.slot == slot);
        *written.expect("an op must not read a slot before it is written")
    }

    fn write(&mut self, shape: SlotShape) {
        self.written.push(shape);
        let slots = self.slots.len().max(shape.slot.0 + 1);
        self.slots.resize(slots, 0);
        let size = &mut self.slots[shape.slot.0];
        *size = (*size).max(shape.size());
    }
}

impl Convolution {
    pub(super) fn new(team: &Team, layer: &ConvLayer, side: usize) -> Self {
        let source = Source::new(layer.shape, &layer.weights, Direction::Forward);
        let transformed = winograd::is_applicable(team.level(), layer.shape);
        let points = transformed.then(|| {
            let mut points = zeros(winograd::packed(&source));
            let shared = Shared::new(&mut points);
            // SAFETY: this function owns the buffer.
            team.run(|worker| unsafe { winograd::pack(worker, source, shared) });
            points
        });
        let direct = (!transformed || winograd::has_few_tiles(1, side)).then(|| {
            let mut packed = zeros(source.packed(team.level()));
            let shared = Shared::new(&mut packed);
            // SAFETY: this function owns the buffer.
            team.run(|worker| unsafe { source.pack(worker, shared) });
            packed
        });
        Self { shape: layer.shape, bias: bias_blocks(layer.shape, &layer.bias), direct, points }
    }

    /// Fastest method for that number of images.
    pub(super) fn method(&self, level: Level, images: usize, op: &CompiledOp) -> ConvMethod<'_> {
        let (inputs, outputs, side) = (op.input.blocks, op.output.blocks, op.output.side);
        match (&self.points, &self.direct) {
            (Some(points), None) => ConvMethod::Winograd(Winograd { points, inputs, outputs }),
            (Some(points), _) if !winograd::has_few_tiles(images, side) => {
                ConvMethod::Winograd(Winograd { points, inputs, outputs })
            }
            (points, Some(blocks)) => {
                let ConvShape { kernel, .. } = self.shape;
                let weights = Weights::new(level, blocks, kernel * kernel * inputs, outputs);
                let on_the_fly = points.is_some() && winograd::saves_work(level, images, side);
                if on_the_fly {
                    ConvMethod::OnTheFly(OnTheFly { taps: weights, inputs })
                } else {
                    ConvMethod::Direct(weights)
                }
            }
            (None, None) => unreachable!("a convolution has at least one packing of its weights"),
        }
    }

    pub(super) fn columns<'a>(&self, input: Images<'a>) -> Im2col<'a> {
        Im2col::new(self.shape, input)
    }

    pub(super) fn scratch(&self, team: &Team, input: Images<'_>, op: &CompiledOp) -> usize {
        match self.method(team.level(), input.images, op) {
            ConvMethod::Winograd(winograd) => winograd.scratch(team, input.images, input.side),
            ConvMethod::OnTheFly(winograd) => winograd.scratch(team, input.images, input.side),
            ConvMethod::Direct(weights) => matmul::scratch(team, self.columns(input), weights.outputs),
        }
    }
}
