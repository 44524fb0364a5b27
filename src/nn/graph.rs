//! Compilation of a network body to a graph of the kernels. Each batch norm is folded into the preceding convolution.

use burn::nn::conv::Conv2d;
use thorax_kernels::{ConvLayer, ConvShape, Graph, GridMean, Op, Slot};

use super::{
    body::Body,
    chain::Chain,
    input::channels,
    resnet::{ResNet50, STAGES},
    team,
    tensors::{self, HostTensor, NamedTensors},
};
use crate::domain::{BlockVariant, ModelSpec};

/// Compiles the body for images of the spec's size; `epsilon` is that of the batch norms.
pub(super) fn compile(body: &Body, epsilon: f64, spec: &ModelSpec) -> Graph {
    match body {
        Body::ResNet50(body) => resnet(body, epsilon, spec),
        Body::Vgg16(body) => chain(&body.chain(), spec),
        Body::SimpleCnn(body) => chain(&body.chain(), spec),
    }
}

/// Alternates between two slots: each op reads what the previous one wrote.
fn chain(chain: &Chain<'_>, spec: &ModelSpec) -> Graph {
    let mut ops = Vec::new();
    let turn = |op: usize| (Slot(op % 2), Slot((op + 1) % 2));
    for group in &chain.groups {
        for conv in group {
            let (input, output) = turn(ops.len());
            ops.push(Op::Conv { layer: with_bias(conv), input, output, residual: None, relu: true });
        }
        let (input, output) = turn(ops.len());
        ops.push(Op::MaxPool { window: 2, input, output });
    }
    let (input, _) = turn(ops.len());
    let (first, channels) = (with_bias(chain.first), channels(&spec.normalisation));
    Graph::new(team(), spec.image_size as usize, &first, &channels, &ops, GridMean { input, grid: chain.grid })
}

/// A convolution with its own bias.
fn with_bias(conv: &Conv2d) -> ConvLayer {
    let mut tensors = tensors::collect(conv);
    let mut take = |name| tensors.remove(name).expect("a convolution with weights and bias");
    let (weight, bias) = (take("weight"), take("bias"));
    let [outputs, inputs, kernel] = [0, 1, 2].map(|axis| weight.shape[axis]);
    let shape = ConvShape { inputs, outputs, kernel, stride: 1, padding: kernel / 2 };
    ConvLayer { shape, weights: weight.values, bias: bias.values }
}

fn resnet(body: &ResNet50, epsilon: f64, spec: &ModelSpec) -> Graph {
    let mut builder =
        Builder { tensors: tensors::collect(body), epsilon, variant: spec.block_variant, ops: Vec::new() };
    let first = builder.layer("conv1", "bn1", 2);
    builder.ops.push(Op::MaxPool { window: 3, input: FIRST, output: BLOCKS[0] });
    let mut turn = 0;
    for (stage, &(blocks, _, stride)) in STAGES.iter().enumerate() {
        for block in 0..blocks {
            let stride = if block == 0 { stride } else { 1 };
            builder.block(&format!("layer{}.{block}", stage + 1), stride, BLOCKS[turn], BLOCKS[1 - turn]);
            turn = 1 - turn;
        }
    }
    let channels = channels(&spec.normalisation);
    let result = GridMean { input: BLOCKS[turn], grid: 1 };
    Graph::new(team(), spec.image_size as usize, &first, &channels, &builder.ops, result)
}

/// Output of the first convolution, and of the first convolution of each block.
const FIRST: Slot = Slot(0);
/// Input and output of the blocks, alternating.
const BLOCKS: [Slot; 2] = [Slot(1), Slot(2)];
/// Output of the second convolution of a block, and before it the subsampled input of a block that halves the size.
const SECOND: Slot = Slot(3);
/// Output of the convolution on the shortcut.
const SHORTCUT: Slot = Slot(4);

struct Builder {
    tensors: NamedTensors,
    epsilon: f64,
    variant: BlockVariant,
    ops: Vec<Op>,
}

impl Builder {
    fn block(&mut self, name: &str, stride: usize, input: Slot, output: Slot) {
        let named = |part: &str| format!("{name}.{part}");
        let shortcut = self.tensors.contains_key(&named("downsample.0.weight"));
        // The convolution on the shortcut is 1x1 with the stride, and so is the first convolution of a V1 block: both
        // read the same pixels.
        let subsampled = if stride > 1 { SECOND } else { input };
        if stride > 1 {
            self.ops.push(Op::Subsample { input, output: subsampled });
        }
        if shortcut {
            let layer = self.layer(&named("downsample.0"), &named("downsample.1"), 1);
            self.ops.push(Op::Conv { layer, input: subsampled, output: SHORTCUT, residual: None, relu: false });
        }
        let (first, second) = match self.variant {
            BlockVariant::V1 => (subsampled, 1),
            BlockVariant::V1_5 => (input, stride),
        };
        let residual = Some(if shortcut { SHORTCUT } else { input });
        let parts = [(1, 1, first, FIRST, None), (2, second, FIRST, SECOND, None), (3, 1, SECOND, output, residual)];
        for (index, stride, input, output, residual) in parts {
            let layer = self.layer(&named(&format!("conv{index}")), &named(&format!("bn{index}")), stride);
            self.ops.push(Op::Conv { layer, input, output, residual, relu: true });
        }
    }

    /// A convolution with the batch norm after it: `norm(conv(x))` is itself a convolution.
    fn layer(&self, conv: &str, norm: &str, stride: usize) -> ConvLayer {
        let tensor = |name: String| -> &HostTensor { &self.tensors[&name] };
        let weight = tensor(format!("{conv}.weight"));
        let [outputs, inputs, kernel] = [0, 1, 2].map(|axis| weight.shape[axis]);
        let numbers = |name: &str| tensor(format!("{norm}.{name}")).values.iter().map(|&value| f64::from(value));
        let factors: Vec<f64> = numbers("weight")
            .zip(numbers("running_var"))
            .map(|(weight, variance)| weight / (variance + self.epsilon).sqrt())
            .collect();
        let row = weight.values.len() / outputs;
        let scaled = |(index, value): (usize, &f32)| (f64::from(*value) * factors[index / row]) as f32;
        let biases = tensor(format!("{conv}.bias")).values.iter().map(|&value| f64::from(value));
        let shifts = biases.zip(numbers("running_mean")).zip(numbers("bias")).zip(&factors);
        ConvLayer {
            shape: ConvShape { inputs, outputs, kernel, stride, padding: kernel / 2 },
            weights: weight.values.iter().enumerate().map(scaled).collect(),
            bias: shifts.map(|(((bias, mean), shift), factor)| ((bias - mean) * factor + shift) as f32).collect(),
        }
    }
}
