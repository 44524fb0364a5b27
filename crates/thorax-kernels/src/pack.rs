//! Weights as the products read them.

use super::{
    conv::ConvShape,
    shared::Shared,
    simd::{Lane, Level, WIDTH},
    team::Member,
};

/// A matrix `[inputs, outputs]`, packed: for each lane of outputs, for each input, the sixteen weights.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    pub(super) lanes: &'a [Lane],
    /// Inputs in lanes; what is missing to a whole lane are weights of zero.
    pub(super) inputs: usize,
    /// Outputs in lanes.
    pub(super) outputs: usize,
    /// Lanes of one lane of outputs.
    pub(super) panel: usize,
}

impl<'a> Weights<'a> {
    /// Weights that were packed for that level: with as many lanes of inputs as its products take at a time, or a multiple.
    pub(super) fn new(level: Level, lanes: &'a [Lane], inputs: usize, outputs: usize) -> Self {
        let inputs = inputs.next_multiple_of(level.depth());
        Self { lanes, inputs, outputs, panel: level.panel(inputs) }
    }

    /// Weights as they are, in single precision.
    pub(super) fn plain(lanes: &'a [Lane], inputs: usize, outputs: usize) -> Self {
        Self { lanes, inputs, outputs, panel: inputs * WIDTH }
    }

    /// Lanes of all of them.
    pub(super) fn packed(&self) -> usize {
        self.panel * self.outputs
    }

    /// The weights of `count` lanes of outputs from `first` on.
    #[inline(always)]
    pub(super) fn panels(&self, first: usize, count: usize) -> &'a [Lane] {
        let panel = self.panel;
        &self.lanes[first * panel..(first + count) * panel]
    }
}

/// Which way a convolution's weights are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// From its input to its output.
    Forward,
    /// From the output's gradient to the input's: inputs and outputs change places, and the kernel is turned by half a turn.
    Backward,
}

/// Weights `[outputs, inputs, kernel, kernel]` as PyTorch orders them, seen in one direction.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    weights: &'a [f32],
    shape: ConvShape,
    direction: Direction,
}

impl<'a> Source<'a> {
    /// # Panics
    /// If there are not as many weights as the shape has.
    pub(super) fn new(shape: ConvShape, weights: &'a [f32], direction: Direction) -> Self {
        assert_eq!(weights.len(), shape.weights(), "weights of {shape:?}");
        Self { weights, shape, direction }
    }

    /// Channels that a product with these weights takes and gives.
    pub(super) fn channels(&self) -> (usize, usize) {
        match self.direction {
            Direction::Forward => (self.shape.inputs, self.shape.outputs),
            Direction::Backward => (self.shape.outputs, self.shape.inputs),
        }
    }

    /// The convolution that a product with these weights is.
    ///
    /// # Panics
    /// If that is none: backward with a stride.
    pub(super) fn convolution(&self) -> ConvShape {
        let (inputs, outputs) = self.channels();
        let ConvShape { kernel, stride, padding, .. } = self.shape;
        match self.direction {
            Direction::Forward => self.shape,
            Direction::Backward => {
                assert_eq!(stride, 1, "a stride leaves gaps in the gradient");
                ConvShape { inputs, outputs, kernel, stride, padding: kernel - 1 - padding }
            }
        }
    }

    /// What [`Source::pack`] packed for that level, as a matrix.
    pub(super) fn matrix<'b>(&self, level: Level, lanes: &'b [Lane]) -> Weights<'b> {
        let (inputs, outputs) = self.channels();
        Weights::new(level, lanes, self.area() * inputs.div_ceil(WIDTH), outputs.div_ceil(WIDTH))
    }

    fn area(&self) -> usize {
        self.shape.kernel * self.shape.kernel
    }

    /// The sixteen weights from `input` at that place of the kernel to a lane of outputs.
    #[inline(always)]
    pub(super) fn lane(&self, input: usize, place: usize, output_lane: usize) -> Lane {
        let (_, outputs) = self.channels();
        let area = self.area();
        let row = self.shape.inputs * area;
        let first = output_lane * WIDTH;
        let (start, step) = match self.direction {
            Direction::Forward => (first * row + input * area + place, row),
            Direction::Backward => (input * row + first * area + (area - 1 - place), area),
        };
        let mut lane = Lane::default();
        for (index, weight) in lane.0.iter_mut().enumerate().take(outputs - first) {
            *weight = self.weights[start + index * step];
        }
        lane
    }

    /// Lanes of the packed matrix of kernel places and inputs by outputs.
    pub(super) fn packed(&self, level: Level) -> usize {
        self.matrix(level, &[]).packed()
    }

    /// Packs that matrix into `packed`, zeros where it does not write, one lane of outputs an item; every member of the team comes here.
    ///
    /// # Safety
    /// Nobody outside the team may have `packed`.
    pub(super) unsafe fn pack(&self, member: &Member<'_>, packed: Shared<'_>) {
        let (inputs, _) = self.channels();
        let padded = inputs.next_multiple_of(WIDTH);
        let matrix = self.matrix(member.level(), &[]);
        member.each(matrix.outputs, |output| {
            // SAFETY: this member alone has this panel until the phase is over.
            let panel = unsafe { packed.part(output * matrix.panel, matrix.panel) };
            member.level().pack(panel, |panel| {
                // In this order, for all places of one input lie side by side.
                for input in 0..inputs {
                    for place in 0..self.area() {
                        panel[place * padded + input] = self.lane(input, place, output);
                    }
                }
            });
        });
    }
}
