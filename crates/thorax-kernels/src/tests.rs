//! Every kernel at every level, with several team sizes, against plain loops in double precision.

use super::{
    BLOCK, ChannelAffine, ChannelBlock, ConvLayer, ConvShape, Graph, GridMean, Images, Op, Precision, Slot, Team, conv,
    fixtures::{levels, random_values},
    matmul::Epilogue,
    pack::{Direction, Source, bias_blocks},
    shared::Shared,
    simd::Level,
    winograd::{self, OnTheFly},
    zeros,
};

/// Generator of numbers between -1 and 1, different in each call.
struct Random(u64);

impl Random {
    fn floats(&mut self, count: usize) -> Vec<f32> {
        self.0 += 1;
        random_values(self.0, count).into_iter().map(|number| number as f32).collect()
    }
}

/// Images in PyTorch's order, `[images, channels, side, side]`.
#[derive(Clone)]
struct Plain {
    values: Vec<f32>,
    images: usize,
    channels: usize,
    side: usize,
}

impl Plain {
    fn new(random: &mut Random, images: usize, channels: usize, side: usize) -> Self {
        Self { values: random.floats(images * channels * side * side), images, channels, side }
    }

    fn at(&self, image: usize, channel: usize, y: usize, x: usize) -> usize {
        ((image * self.channels + channel) * self.side + y) * self.side + x
    }

    fn places(&self) -> impl Iterator<Item = (usize, usize, usize, usize)> + use<> {
        let Self { images, channels, side, .. } = *self;
        (0..images * channels * side * side)
            .map(move |i| (i / (channels * side * side), i / (side * side) % channels, i / side % side, i % side))
    }

    fn blocks(&self) -> Vec<ChannelBlock> {
        let pixels = self.images * self.side * self.side;
        let mut blocks = vec![ChannelBlock::default(); self.channels.div_ceil(BLOCK) * pixels];
        for (image, channel, y, x) in self.places() {
            let pixel = (image * self.side + y) * self.side + x;
            blocks[channel / BLOCK * pixels + pixel].0[channel % BLOCK] = self.values[self.at(image, channel, y, x)];
        }
        blocks
    }

    fn from_blocks(blocks: &[ChannelBlock], images: usize, channels: usize, side: usize) -> Self {
        let pixels = images * side * side;
        assert_eq!(blocks.len(), channels.div_ceil(BLOCK) * pixels);
        let mut plain = Self { values: vec![0.0; images * channels * side * side], images, channels, side };
        for (image, channel, y, x) in plain.places() {
            let pixel = (image * side + y) * side + x;
            let index = plain.at(image, channel, y, x);
            plain.values[index] = blocks[channel / BLOCK * pixels + pixel].0[channel % BLOCK];
        }
        plain
    }
}

/// Calls `meet(input, weight, output)` for each product of the convolution.
fn for_each_product(shape: ConvShape, input: &Plain, mut meet: impl FnMut(usize, usize, usize)) {
    let side = shape.side(input.side);
    let output = Plain { values: Vec::new(), images: input.images, channels: shape.outputs, side };
    for image in 0..input.images {
        for o in 0..shape.outputs {
            for y in 0..side {
                for x in 0..side {
                    for i in 0..shape.inputs {
                        for (down, right) in (0..shape.kernel.pow(2)).map(|p| (p / shape.kernel, p % shape.kernel)) {
                            let (iy, ix) = (y * shape.stride + down, x * shape.stride + right);
                            let (Some(iy), Some(ix)) = (iy.checked_sub(shape.padding), ix.checked_sub(shape.padding))
                            else {
                                continue;
                            };
                            if iy < input.side && ix < input.side {
                                let weight = ((o * shape.inputs + i) * shape.kernel + down) * shape.kernel + right;
                                meet(input.at(image, i, iy, ix), weight, output.at(image, o, y, x));
                            }
                        }
                    }
                }
            }
        }
    }
}

fn reference_forward(shape: ConvShape, input: &Plain, weights: &[f32], bias: &[f32]) -> Vec<f64> {
    let side = shape.side(input.side);
    let mut sums: Vec<f64> = (0..input.images * shape.outputs * side * side)
        .map(|i| f64::from(bias[i / (side * side) % shape.outputs]))
        .collect();
    for_each_product(shape, input, |i, w, o| sums[o] += f64::from(input.values[i]) * f64::from(weights[w]));
    sums
}

fn reference_gradients(shape: ConvShape, input: &Plain, weights: &[f32], gradient: &Plain) -> (Vec<f64>, Vec<f64>) {
    let (mut inputs, mut sums) = (vec![0.0; input.values.len()], vec![0.0; weights.len()]);
    for_each_product(shape, input, |i, w, o| {
        let gradient = f64::from(gradient.values[o]);
        inputs[i] += gradient * f64::from(weights[w]);
        sums[w] += gradient * f64::from(input.values[i]);
    });
    (inputs, sums)
}

/// Largest deviation, relative to the largest expected value.
fn error(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
    let difference = found.iter().zip(expected).fold(0.0_f64, |most, (a, b)| most.max((f64::from(*a) - b).abs()));
    assert!(found.iter().all(|value| value.is_finite()));
    difference / largest
}

/// Maximum error of a level; `isa` is the maximum for products in single precision.
fn bound(level: Level, isa: f64) -> f64 {
    match level.precision {
        Precision::F32 => isa,
        // Each operand has about 16 significant bits.
        Precision::Bf16x3 => isa.max(1e-5),
        // Eight significant bits.
        Precision::Bf16 => 1e-2,
    }
}

/// Teams of all supported levels.
fn teams() -> Vec<Team> {
    levels().flat_map(|level| [1, 2, 3].map(|threads| Team::with_level(threads, level))).collect()
}

const SHAPES: [ConvShape; 7] = [
    ConvShape { inputs: 32, outputs: 48, kernel: 1, stride: 1, padding: 0 },
    ConvShape { inputs: 48, outputs: 16, kernel: 1, stride: 2, padding: 0 },
    ConvShape { inputs: 32, outputs: 32, kernel: 3, stride: 1, padding: 1 },
    ConvShape { inputs: 16, outputs: 48, kernel: 3, stride: 1, padding: 1 },
    ConvShape { inputs: 32, outputs: 32, kernel: 3, stride: 2, padding: 1 },
    ConvShape { inputs: 5, outputs: 18, kernel: 3, stride: 1, padding: 1 },
    ConvShape { inputs: 20, outputs: 3, kernel: 5, stride: 2, padding: 2 },
];

#[test]
fn convolutions_and_their_gradients_match_plain_loops() {
    let mut random = Random(1);
    for shape in SHAPES {
        for (images, side) in [(1, 5), (2, 8), (3, 7)] {
            let input = Plain::new(&mut random, images, shape.inputs, side);
            let (weights, bias) = (random.floats(shape.weights()), random.floats(shape.outputs));
            let gradient = Plain::new(&mut random, images, shape.outputs, shape.side(side));
            let expected = reference_forward(shape, &input, &weights, &bias);
            let (mut inputs, sums) = reference_gradients(shape, &input, &weights, &gradient);
            let (blocks, gradients) = (input.blocks(), gradient.blocks());
            // The input doubles as the gradient of a shortcut.
            inputs.iter_mut().zip(&input.values).for_each(|(sum, other)| *sum += f64::from(*other));
            let input = Images { blocks: &blocks, images, side };
            let gradient = Images { blocks: &gradients, images, side: gradient.side };
            for team in teams() {
                let [output, above] = [false, true].map(|relu| {
                    let output = conv::forward(&team, shape, input, &weights, Some(&bias), relu);
                    Plain::from_blocks(&output, images, shape.outputs, gradient.side).values
                });
                assert!(above.iter().zip(&output).all(|(above, sum)| *above == sum.max(0.0)), "{shape:?}");
                let back = conv::input_gradient(&team, shape, side, gradient, &weights, Some(&blocks));
                let back = Plain::from_blocks(&back, images, shape.inputs, side).values;
                let found = conv::weight_gradient(&team, shape, input, gradient);
                let errors = [error(&output, &expected), error(&back, &inputs), error(&found, &sums)];
                let place = format!("{shape:?}, {images} of {side}, {:?}, {} threads", team.level(), team.threads());
                assert!(errors.iter().all(|error| *error < bound(team.level(), 2e-5)), "{place}: {errors:?}");
            }
        }
    }
}

#[test]
fn convolutions_of_few_winograd_tiles_match_plain_loops() {
    let mut random = Random(5);
    // More inputs than one iteration processes; the last block is partial.
    let wide = ConvShape { inputs: 84, outputs: 20, kernel: 3, stride: 1, padding: 1 };
    for shape in
        SHAPES.into_iter().chain([wide]).filter(|shape| levels().any(|level| winograd::is_applicable(level, *shape)))
    {
        for (images, side) in [(1, 3), (1, 7), (2, 7), (3, 8), (1, 14)] {
            let input = Plain::new(&mut random, images, shape.inputs, side);
            let (weights, bias) = (random.floats(shape.weights()), random.floats(shape.outputs));
            let expected = reference_forward(shape, &input, &weights, &bias);
            for team in teams().into_iter().filter(|team| winograd::is_applicable(team.level(), shape)) {
                let output = winograd_on_the_fly(&team, shape, &input, &weights, &bias);
                let error = error(&output, &expected);
                assert!(error < 2e-5, "{shape:?}, {images} of {side}, {:?}: {error:e}", team.level());
            }
        }
    }
}

fn winograd_on_the_fly(team: &Team, shape: ConvShape, input: &Plain, weights: &[f32], bias: &[f32]) -> Vec<f32> {
    let Plain { images, side, .. } = *input;
    let source = Source::new(shape, weights, Direction::Forward);
    let mut taps = zeros(source.packed(team.level()));
    let shared = Shared::new(&mut taps);
    // SAFETY: this function owns the buffer.
    team.run(|worker| unsafe { source.pack(worker, shared) });
    let convolution = OnTheFly { taps: source.matrix(team.level(), &taps), inputs: shape.inputs.div_ceil(BLOCK) };
    let (blocks, bias, pixels) = (input.blocks(), bias_blocks(shape, bias), images * side * side);
    let (mut scratch, mut output) =
        (zeros(convolution.scratch(team, images, side)), zeros(shape.outputs.div_ceil(BLOCK) * pixels));
    let (shared, written) = (Shared::new(&mut scratch), Shared::new(&mut output));
    team.run(|worker| {
        let epilogue = Epilogue { bias: Some(&bias), ..Epilogue::plain(written, pixels) };
        // SAFETY: this function owns the buffers.
        unsafe { convolution.run(worker, Images { blocks: &blocks, images, side }, shared, &epilogue) };
    });
    Plain::from_blocks(&output, images, shape.outputs, side).values
}

#[test]
fn the_first_convolution_matches_plain_loops() {
    let resnet = ConvShape { inputs: 3, outputs: 32, kernel: 7, stride: 2, padding: 3 };
    let vgg = ConvShape { inputs: 3, outputs: 32, kernel: 3, stride: 1, padding: 1 };
    let mut random = Random(2);
    for (shape, images, side) in [(resnet, 1, 9), (resnet, 3, 12), (vgg, 1, 9), (vgg, 3, 12)] {
        let input = Plain::new(&mut random, images, shape.inputs, side);
        let (weights, bias) = (random.floats(shape.weights()), random.floats(shape.outputs));
        let gradient = Plain::new(&mut random, images, shape.outputs, shape.side(side));
        let expected = reference_forward(shape, &input, &weights, &bias);
        let (_, sums) = reference_gradients(shape, &input, &weights, &gradient);
        let gradients = gradient.blocks();
        for team in teams() {
            let [output, above] = [false, true].map(|relu| {
                let (input, bias) = (&input.values, Some(bias.as_slice()));
                let output = conv::stem_forward(&team, shape, input, (images, side), &weights, bias, relu);
                Plain::from_blocks(&output, images, shape.outputs, gradient.side).values
            });
            assert!(above.iter().zip(&output).all(|(above, sum)| *above == sum.max(0.0)), "{shape:?}");
            let gradient = Images { blocks: &gradients, images, side: gradient.side };
            let found = conv::stem_weight_gradient(&team, shape, &input.values, side, gradient);
            let errors = [error(&output, &expected), error(&found, &sums)];
            assert!(
                errors.iter().all(|error| *error < bound(team.level(), 5e-6)),
                "{shape:?}, {images} of {side}, {:?}: {errors:?}",
                team.level()
            );
        }
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let mut random = Random(3);
    for shape in SHAPES {
        let input = Plain::new(&mut random, 3, shape.inputs, 12);
        let weights = random.floats(shape.weights());
        let gradient = Plain::new(&mut random, 3, shape.outputs, shape.side(12));
        let (blocks, gradients) = (input.blocks(), gradient.blocks());
        let input = Images { blocks: &blocks, images: 3, side: 12 };
        let gradient = Images { blocks: &gradients, images: 3, side: gradient.side };
        let results = [1, 2, 5].map(|threads| {
            let team = Team::new(threads);
            (
                conv::forward(&team, shape, input, &weights, None, false),
                conv::input_gradient(&team, shape, 12, gradient, &weights, None),
                conv::weight_gradient(&team, shape, input, gradient),
            )
        });
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{shape:?}");
    }
}

#[test]
fn the_first_convolution_of_a_graph_pads_shifted_channels_with_zeros() {
    let mut random = Random(6);
    let channels = ChannelAffine { scale: vec![0.02, 0.018, 0.017], shift: vec![-2.1, 1.5, -0.3] };
    let resnet = ConvShape { inputs: 3, outputs: 20, kernel: 7, stride: 2, padding: 3 };
    let chain = ConvShape { inputs: 3, outputs: 16, kernel: 3, stride: 1, padding: 1 };
    for (shape, side) in [(resnet, 3), (resnet, 9), (resnet, 16), (chain, 1), (chain, 7)] {
        let (weights, bias) = (random.floats(shape.weights()), random.floats(shape.outputs));
        let first = ConvLayer { shape, weights: weights.clone(), bias: bias.clone() };
        let grey: Vec<Vec<u8>> =
            (0..3).map(|image| (0..side * side).map(|i| (i * 37 + image * 91) as u8).collect()).collect();
        for team in teams() {
            let means = GridMean { input: Slot(0), grid: shape.side(side) };
            let graph = Graph::new(&team, side, &first, &channels, &[], means);
            // Fewer images after more, in the same buffers.
            for images in [3, 1, 2] {
                let input = Plain { images, side, channels: 3, values: shifted(&grey[..images], &channels) };
                let expected = reference_forward(shape, &input, &weights, &bias);
                let expected: Vec<f64> = expected.iter().map(|sum| sum.max(0.0)).collect();
                let images: Vec<&[u8]> = grey[..images].iter().map(Vec::as_slice).collect();
                let pixels = shape.side(side).pow(2) * shape.outputs;
                let features: Vec<f32> =
                    graph.features(&team, &images).iter().flat_map(|image| image[..pixels].to_vec()).collect();
                let error = error(&features, &expected);
                assert!(
                    error < bound(team.level(), 2e-6),
                    "{shape:?}, {} of {side}, {:?}: {error:e}",
                    images.len(),
                    team.level()
                );
            }
        }
    }
}

/// Channels of each image after the affine map.
fn shifted(images: &[Vec<u8>], channels: &ChannelAffine) -> Vec<f32> {
    let factors = || channels.scale.iter().zip(&channels.shift);
    let of = |image: &Vec<u8>| {
        factors()
            .flat_map(|(scale, shift)| image.iter().map(move |&grey| f32::from(grey) * scale + shift))
            .collect::<Vec<_>>()
    };
    images.iter().flat_map(of).collect()
}

#[test]
fn a_relu_of_a_graph_propagates_nan() {
    let shape = ConvShape { inputs: 16, outputs: 16, kernel: 1, stride: 1, padding: 0 };
    let mut random = Random(4);
    let first = ConvLayer {
        shape: ConvShape { inputs: 1, outputs: 16, kernel: 3, stride: 1, padding: 1 },
        weights: random.floats(16 * 9),
        bias: random.floats(16),
    };
    for broken in [f32::NAN, 0.5] {
        let mut weights = random.floats(shape.weights());
        weights[3] = broken;
        let layer = ConvLayer { shape, weights, bias: random.floats(16) };
        let ops = [Op::Conv { layer, input: Slot(0), output: Slot(1), residual: None, relu: true }];
        let channels = ChannelAffine { scale: vec![0.01], shift: vec![0.0] };
        for team in teams() {
            let graph = Graph::new(&team, 8, &first, &channels, &ops, GridMean { input: Slot(1), grid: 1 });
            let features = graph.features(&team, &[&[100; 64]]);
            assert_eq!(features[0][0].is_nan(), broken.is_nan(), "{:?}", team.level());
            assert!(features[0][1..].iter().all(|feature| feature.is_finite()), "other outputs stay finite");
        }
    }
}
