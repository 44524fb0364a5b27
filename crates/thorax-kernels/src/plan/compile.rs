//! Makes layers ready: folds the channels, packs the weights, checks that the steps fit each other.

use super::{Channels, Kind, Layer, Place, Ready, Slot, Step};
use crate::{
    columns::Columns,
    conv::{ConvShape, Images},
    pack::{Direction, Source, Weights},
    pool::pooled,
    product,
    shared::Shared,
    simd::{Lane, Level, WIDTH},
    stem::{self, Edge, Planes},
    team::Team,
    thin::thinned,
    train::bias_lanes,
    winograd::{self, Few, Winograd},
    zeros,
};

/// The first layer.
#[derive(Debug)]
pub(super) struct Stem {
    pub(super) shape: ConvShape,
    /// Sides of the images in pixels.
    side: usize,
    edges: Vec<Edge>,
    packed: Vec<Lane>,
    pub(super) bias: Vec<Lane>,
}

/// A later one.
#[derive(Debug)]
pub(super) struct Convolution {
    shape: ConvShape,
    pub(super) bias: Vec<Lane>,
    /// Packed as they are, where that is the best way for some number of images.
    direct: Option<Vec<Lane>>,
    /// Transformed, where that is.
    points: Option<Vec<Lane>>,
}

/// How a convolution is done.
pub(super) enum Way<'a> {
    /// As a product of gathered columns, or of the pixels themselves.
    Direct(Weights<'a>),
    /// With weights that were transformed beforehand.
    Winograd(Winograd<'a>),
    /// With weights that are transformed anew.
    Few(Few<'a>),
}

impl Stem {
    /// All channels are made of one grey level, so the kernel needs that alone; what the channels are shifted by comes to the bias.
    pub(super) fn new(team: &Team, side: usize, layer: &Layer, channels: &Channels) -> Self {
        let Layer { shape, weights, bias } = layer;
        let area = shape.kernel * shape.kernel;
        let folded = ConvShape { inputs: 1, ..*shape };
        let sum = |output: usize, factors: &[f32], place: usize| -> f64 {
            let weight = |channel: usize| f64::from(weights[(output * shape.inputs + channel) * area + place]);
            (0..shape.inputs).map(|channel| weight(channel) * f64::from(factors[channel])).sum()
        };
        let places = |output: usize| (0..area).map(move |place| (output, place));
        let grey: Vec<f32> =
            (0..shape.outputs).flat_map(places).map(|(output, at)| sum(output, &channels.scale, at) as f32).collect();
        let shifts = |output: usize, seen: &dyn Fn(usize) -> bool| -> f64 {
            (0..area).filter(|&place| seen(place)).map(|place| sum(output, &channels.shift, place)).sum()
        };
        let edges = stem::edges(folded, side);
        let mut packed = zeros(stem::packed(folded, &edges, team.level()));
        let shared = Shared::new(&mut packed);
        let source = Source::new(folded, &grey, Direction::Forward);
        let unseen = |output, edge: &Edge| -shifts(output, &|place| !edge.sees(folded, place)) as f32;
        // SAFETY: the buffer is this function's.
        team.run(|member| unsafe { stem::pack(member, folded, &edges, unseen, source, shared) });
        let bias: Vec<f32> =
            bias.iter().enumerate().map(|(i, &bias)| (f64::from(bias) + shifts(i, &|_| true)) as f32).collect();
        Self { shape: folded, side, edges, packed, bias: bias_lanes(folded, &bias) }
    }

    /// Writes grey levels to where zeros lie around each image: as much of `values` as they take.
    pub(super) fn planes<'a>(&'a self, images: &[&[u8]], values: &'a mut Vec<f32>) -> Planes<'a> {
        let (side, length) = (self.side, stem::edged_length(self.shape, images.len(), self.side));
        assert!(images.iter().all(|image| image.len() == side * side), "images of side {side}");
        if values.len() < length {
            *values = vec![0.0; length];
        }
        let values = &mut values[..length];
        stem::edged(self.shape, images.len(), side, values, |image, row, line| {
            for (value, grey) in line.iter_mut().zip(&images[image][row * side..]) {
                *value = f32::from(*grey);
            }
        });
        Planes::new(self.shape, images.len(), side, values, &self.edges)
    }

    pub(super) fn weights(&self, level: Level) -> Weights<'_> {
        stem::matrix(self.shape, &self.edges, level, &self.packed)
    }
}

/// Follows what lies in the slots while steps are made ready.
pub(super) struct Compiler<'a> {
    pub(super) team: &'a Team,
    pub(super) places: Vec<Place>,
    pub(super) slots: Vec<usize>,
}

impl Compiler<'_> {
    pub(super) fn step(&mut self, step: &Step) -> Ready {
        let (work, input, output, lanes, side) = match step {
            Step::Convolve { layer, input, output, residual, relu } => {
                let from = self.find(*input);
                assert_eq!(from.lanes, layer.shape.inputs.div_ceil(WIDTH), "{:?} reads slot {input:?}", layer.shape);
                let side = layer.shape.side(from.side);
                let lanes = layer.shape.outputs.div_ceil(WIDTH);
                if let Some(residual) = residual {
                    let residual = self.find(*residual);
                    assert_eq!((residual.lanes, residual.side), (lanes, side), "a residual of the output's size");
                    assert_ne!(residual.slot, *output, "nothing is written where it is read");
                }
                let convolution = Convolution::new(self.team, layer, side);
                (Kind::Convolve { convolution, residual: *residual, relu: *relu }, from, *output, lanes, side)
            }
            Step::MaxPool { window, input, output } => {
                let from = self.find(*input);
                (Kind::MaxPool { window: *window }, from, *output, from.lanes, pooled(from.side, *window))
            }
            Step::Thin { input, output } => {
                let from = self.find(*input);
                (Kind::Thin, from, *output, from.lanes, thinned(from.side))
            }
        };
        assert_ne!(input.slot, output, "nothing is written where it is read");
        let output = Place { slot: output, lanes, side };
        self.write(output);
        Ready { work, input, output }
    }

    /// What lies in a slot by now.
    pub(super) fn find(&self, slot: Slot) -> Place {
        let written = self.places.iter().rev().find(|place| place.slot == slot);
        *written.expect("what is read was written before")
    }

    fn write(&mut self, place: Place) {
        self.places.push(place);
        let slots = self.slots.len().max(place.slot.0 + 1);
        self.slots.resize(slots, 0);
        let size = &mut self.slots[place.slot.0];
        *size = (*size).max(place.size());
    }
}

impl Convolution {
    pub(super) fn new(team: &Team, layer: &Layer, side: usize) -> Self {
        let source = Source::new(layer.shape, &layer.weights, Direction::Forward);
        let transformed = winograd::suits(team.level(), layer.shape);
        let points = transformed.then(|| {
            let mut points = zeros(winograd::packed(&source));
            let shared = Shared::new(&mut points);
            // SAFETY: the buffer is this function's.
            team.run(|member| unsafe { winograd::pack(member, source, shared) });
            points
        });
        let direct = (!transformed || winograd::are_few(1, side)).then(|| {
            let mut packed = zeros(source.packed(team.level()));
            let shared = Shared::new(&mut packed);
            // SAFETY: the buffer is this function's.
            team.run(|member| unsafe { source.pack(member, shared) });
            packed
        });
        Self { shape: layer.shape, bias: bias_lanes(layer.shape, &layer.bias), direct, points }
    }

    /// The best way for that many images.
    pub(super) fn way(&self, level: Level, images: usize, step: &Ready) -> Way<'_> {
        let (inputs, outputs, side) = (step.input.lanes, step.output.lanes, step.output.side);
        match (&self.points, &self.direct) {
            (Some(points), None) => Way::Winograd(Winograd { points, inputs, outputs }),
            (Some(points), _) if !winograd::are_few(images, side) => {
                Way::Winograd(Winograd { points, inputs, outputs })
            }
            (points, Some(lanes)) => {
                let ConvShape { kernel, .. } = self.shape;
                let weights = Weights::new(level, lanes, kernel * kernel * inputs, outputs);
                let few = points.is_some() && winograd::pays(level, images, side);
                if few { Way::Few(Few { taps: weights, inputs }) } else { Way::Direct(weights) }
            }
            (None, None) => unreachable!("a layer's weights are packed in some way"),
        }
    }

    pub(super) fn columns<'a>(&self, input: Images<'a>) -> Columns<'a> {
        Columns::new(self.shape, input)
    }

    pub(super) fn scratch(&self, team: &Team, input: Images<'_>, step: &Ready) -> usize {
        match self.way(team.level(), input.images, step) {
            Way::Winograd(winograd) => winograd.scratch(team, input.images, input.side),
            Way::Few(few) => few.scratch(team, input.images, input.side),
            Way::Direct(weights) => product::scratch(team, self.columns(input), weights.outputs),
        }
    }
}
