//! From a body to the kernels' plan: each batch norm goes into the convolution before it.

use burn::nn::conv::Conv2d;
use thorax_kernels::{ConvShape, Layer, Means, Plan, Slot, Step, team};

use super::{
    body::Body,
    chain::Chain,
    input::channels,
    resnet::{ResNet50, STAGES},
    tensors::{self, HostTensor, NamedTensors},
};
use crate::domain::{BlockVariant, ModelSpec};

/// The body as a plan for images of the spec's side; `epsilon` is the batch norms'.
pub(super) fn compile(body: &Body, epsilon: f64, spec: &ModelSpec) -> Plan {
    match body {
        Body::ResNet50(body) => resnet(body, epsilon, spec),
        Body::Vgg16(body) => chain(&body.chain(), spec),
        Body::SimpleCnn(body) => chain(&body.chain(), spec),
    }
}

/// Two slots by turns: what one step writes the next one reads.
fn chain(chain: &Chain<'_>, spec: &ModelSpec) -> Plan {
    let mut steps = Vec::new();
    let turn = |step: usize| (Slot(step % 2), Slot((step + 1) % 2));
    for group in &chain.groups {
        for conv in group {
            let (input, output) = turn(steps.len());
            steps.push(Step::Convolve { layer: with_bias(conv), input, output, residual: None, relu: true });
        }
        let (input, output) = turn(steps.len());
        steps.push(Step::MaxPool { window: 2, input, output });
    }
    let (of, _) = turn(steps.len());
    let (first, channels) = (with_bias(chain.first), channels(&spec.normalisation));
    Plan::new(team(), spec.image_size as usize, &first, &channels, &steps, Means { of, grid: chain.grid })
}

/// A convolution of a chain as it is.
fn with_bias(conv: &Conv2d) -> Layer {
    let mut tensors = tensors::collect(conv);
    let mut take = |name| tensors.remove(name).expect("a convolution with weights and bias");
    let (weight, bias) = (take("weight"), take("bias"));
    let [outputs, inputs, kernel] = [0, 1, 2].map(|axis| weight.shape[axis]);
    let shape = ConvShape { inputs, outputs, kernel, stride: 1, padding: kernel / 2 };
    Layer { shape, weights: weight.values, bias: bias.values }
}

fn resnet(body: &ResNet50, epsilon: f64, spec: &ModelSpec) -> Plan {
    let mut builder =
        Builder { tensors: tensors::collect(body), epsilon, variant: spec.block_variant, steps: Vec::new() };
    let first = builder.layer("conv1", "bn1", 2);
    builder.steps.push(Step::MaxPool { window: 3, input: FIRST, output: BLOCKS[0] });
    let mut turn = 0;
    for (stage, &(blocks, _, stride)) in STAGES.iter().enumerate() {
        for block in 0..blocks {
            let stride = if block == 0 { stride } else { 1 };
            builder.block(&format!("layer{}.{block}", stage + 1), stride, BLOCKS[turn], BLOCKS[1 - turn]);
            turn = 1 - turn;
        }
    }
    let channels = channels(&spec.normalisation);
    let result = Means { of: BLOCKS[turn], grid: 1 };
    Plan::new(team(), spec.image_size as usize, &first, &channels, &builder.steps, result)
}

/// What the first layer writes, and within a block its first layer.
const FIRST: Slot = Slot(0);
/// Input and output of a block, by turns.
const BLOCKS: [Slot; 2] = [Slot(1), Slot(2)];
/// What a block's second layer writes, and before it what stays of the input where the size changes.
const SECOND: Slot = Slot(3);
/// What goes around a block that changes the size.
const AROUND: Slot = Slot(4);

struct Builder {
    tensors: NamedTensors,
    epsilon: f64,
    variant: BlockVariant,
    steps: Vec<Step>,
}

impl Builder {
    fn block(&mut self, name: &str, stride: usize, input: Slot, output: Slot) {
        let named = |part: &str| format!("{name}.{part}");
        let around = self.tensors.contains_key(&named("downsample.0.weight"));
        // The convolution around the block has a kernel of 1 and the stride, as has in V1 the first one: both look at the same pixels.
        let thinned = if stride > 1 { SECOND } else { input };
        if stride > 1 {
            self.steps.push(Step::Thin { input, output: thinned });
        }
        if around {
            let layer = self.layer(&named("downsample.0"), &named("downsample.1"), 1);
            self.steps.push(Step::Convolve { layer, input: thinned, output: AROUND, residual: None, relu: false });
        }
        let (first, second) = match self.variant {
            BlockVariant::V1 => (thinned, 1),
            BlockVariant::V1_5 => (input, stride),
        };
        let residual = Some(if around { AROUND } else { input });
        let parts = [(1, 1, first, FIRST, None), (2, second, FIRST, SECOND, None), (3, 1, SECOND, output, residual)];
        for (index, stride, input, output, residual) in parts {
            let layer = self.layer(&named(&format!("conv{index}")), &named(&format!("bn{index}")), stride);
            self.steps.push(Step::Convolve { layer, input, output, residual, relu: true });
        }
    }

    /// A convolution with the batch norm after it: `norm(conv(x))` is a convolution too.
    fn layer(&self, conv: &str, norm: &str, stride: usize) -> Layer {
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
        Layer {
            shape: ConvShape { inputs, outputs, kernel, stride, padding: kernel / 2 },
            weights: weight.values.iter().enumerate().map(scaled).collect(),
            bias: shifts.map(|(((bias, mean), shift), factor)| ((bias - mean) * factor + shift) as f32).collect(),
        }
    }
}
