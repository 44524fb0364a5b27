//! The network: a body and a head.

use burn::{
    module::Module,
    tensor::{Device, Tensor},
};

use super::{
    Input, NnError,
    body::Body,
    file,
    head::Head,
    identity::{self, Identities},
    initial::{Part, randomise},
    tensors,
};
use crate::domain::{ModelSpec, Scope};

/// Batch-norm epsilon of bodies with random weights; imported weights bring their own.
const EPSILON: f64 = 1e-5;

/// The network: body and head.
///
/// A clone shares the batch norms' running statistics with its origin (Burn keeps them behind a shared pointer): to
/// keep a network while its origin trains on, take [`Network::to_bytes`] or `Module::valid`, not a clone.
#[derive(Module, Debug)]
pub struct Network {
    pub(crate) body: Body,
    pub(crate) head: Head,
    pub(super) epsilon: f64,
}

impl Network {
    /// A network with random weights, drawn from `seed` alone.
    pub fn random(spec: &ModelSpec, seed: u64, device: &Device) -> Self {
        let body = randomise(Body::new(spec, EPSILON, device), seed, Part::Body).expect("drawn for this body");
        Self { body, head: random_head(spec, seed, device), epsilon: EPSILON }
    }

    /// A random head on the canonical body weights (bytes as in [`super::BodyWeights`]); the spec's variant and
    /// normalisation must be theirs: see [`super::body_spec`].
    pub fn pretrained(spec: &ModelSpec, body: &[u8], seed: u64, device: &Device) -> Result<Self, NnError> {
        let (weights, tensors) = file::read_body(body)?;
        weights.check_fits(spec)?;
        let epsilon = weights.epsilon;
        let body = tensors::replace(Body::new(spec, epsilon, device), tensors, "")?;
        Ok(Self { body, head: random_head(spec, seed, device), epsilon })
    }

    /// Reads a model file written by [`Network::to_bytes`].
    pub fn from_bytes(bytes: &[u8], device: &Device) -> Result<(Self, ModelSpec), NnError> {
        let model = file::read_model(bytes)?;
        let (spec, epsilon) = (model.spec, model.epsilon);
        let body = tensors::replace(Body::new(&spec, epsilon, device), model.body, file::BODY)?;
        let head = tensors::replace(Head::new(&spec, 0, device), model.head, file::HEAD)?;
        Ok((Self { body, head, epsilon }, spec))
    }

    /// The model file: safetensors with the spec in its metadata. Deterministic.
    pub fn to_bytes(&self, spec: &ModelSpec) -> Vec<u8> {
        file::write_model(spec, self.epsilon, tensors::collect(&self.body), tensors::collect(&self.head))
    }

    /// Body features, `[batch, 2048]` (vgg16: 512; simple-cnn: all up to the dense layer).
    pub fn features(&self, input: &Input) -> Tensor<2> {
        self.body.forward(input)
    }

    /// Head: `[batch, features]` to logits `[batch, classes]`.
    pub fn classify(&self, features: Tensor<2>) -> Tensor<2> {
        self.head.forward(features)
    }

    /// Logits `[batch, classes]`.
    pub fn forward(&self, input: &Input) -> Tensor<2> {
        self.classify(self.features(input))
    }

    /// All parameters, for reporting.
    pub fn parameter_count(&self) -> usize {
        self.num_params()
    }

    /// The network made ready for a step: what trains is on the autodiff device, what is frozen is not. See the
    /// module's page for which input and features each needs.
    pub fn for_step(self, scope: Scope) -> Self {
        let body = if trains_body(scope) { self.body.train() } else { self.body.valid() };
        Self { body, head: self.head.train(), epsilon: self.epsilon }
    }

    /// By which an optimizer knows its parameters.
    pub fn identities(&self) -> Identities {
        identity::read(self)
    }

    /// As another network that an optimizer learnt with, whose identities these are.
    pub fn identified(self, identities: &Identities) -> Self {
        identity::assign(self, identities)
    }

    /// Starts the dropout's draws again from `seed`; they depend on nothing else. A network read from a file starts
    /// from 0.
    pub fn seed_dropout(&self, seed: u64) {
        self.head.seed_dropout(seed);
    }
}

fn random_head(spec: &ModelSpec, seed: u64, device: &Device) -> Head {
    randomise(Head::new(spec, seed, device), seed, Part::Head).expect("drawn for this head")
}

/// Which parameters a step trains; used by the trainer.
pub fn trains_body(scope: Scope) -> bool {
    scope == Scope::All
}
