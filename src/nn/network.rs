//! Networks: a body and a head.

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
    init::{RandomStream, randomise},
    tensors,
};
use crate::domain::{ModelSpec, Scope};

/// Batch-normalisation epsilon of bodies with random weights. Imported weights have their own.
const EPSILON: f64 = 1e-5;

/// A network: body and head.
///
/// A clone shares the running statistics of batch normalisation with the original, because Burn stores them behind a shared pointer. To keep
/// a snapshot while training continues, use [`Network::to_bytes`] or `Module::valid`, not a clone.
#[derive(Module, Debug)]
pub struct Network {
    pub(crate) body: Body,
    pub(crate) head: Head,
    pub(super) epsilon: f64,
}

impl Network {
    /// A network with random weights, which depend only on `seed`.
    pub fn random(spec: &ModelSpec, seed: u64, device: &Device) -> Self {
        let body = randomise(Body::new(spec, EPSILON, device), seed, RandomStream::Body)
            .expect("the weights are initialised for this body");
        Self { body, head: random_head(spec, seed, device), epsilon: EPSILON }
    }

    /// A network with the weights of a canonical body file ([`super::BodyWeights::bytes`]) and a random head. The block variant and the
    /// normalisation of `spec` must be those of the file ([`super::body_spec`]).
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

    /// Serialises the network to a model file: safetensors with `spec` in its metadata. Deterministic.
    pub fn to_bytes(&self, spec: &ModelSpec) -> Vec<u8> {
        file::write_model(spec, self.epsilon, tensors::collect(&self.body), tensors::collect(&self.head))
    }

    /// Features `[batch, features]` of the body: 2048 for ResNet-50, 512 for VGG-16, 3136 for the simple CNN.
    pub fn features(&self, input: &Input) -> Tensor<2> {
        self.body.forward(input)
    }

    /// Logits `[batch, classes]` of features `[batch, features]`.
    pub fn classify(&self, features: Tensor<2>) -> Tensor<2> {
        self.head.forward(features)
    }

    /// Logits `[batch, classes]`.
    pub fn forward(&self, input: &Input) -> Tensor<2> {
        self.classify(self.features(input))
    }

    /// Number of parameters.
    pub fn parameter_count(&self) -> usize {
        self.num_params()
    }

    /// Prepares the network for a training step: trained parts are moved to the autodiff device, frozen parts off it. The documentation of
    /// the [module](super) says which input each part needs.
    pub fn for_step(self, scope: Scope) -> Self {
        let body = if trains_body(scope) { self.body.train() } else { self.body.valid() };
        Self { body, head: self.head.train(), epsilon: self.epsilon }
    }

    /// Identities by which an optimizer record refers to the parameters.
    pub fn identities(&self) -> Identities {
        identity::read(self)
    }

    /// Assigns parameter identities, so that the record of an optimizer that trained another instance applies to this one.
    pub fn identified(self, identities: &Identities) -> Self {
        identity::assign(self, identities)
    }

    /// Reseeds dropout. A network read from a file has seed 0.
    pub fn seed_dropout(&self, seed: u64) {
        self.head.seed_dropout(seed);
    }
}

fn random_head(spec: &ModelSpec, seed: u64, device: &Device) -> Head {
    randomise(Head::new(spec, seed, device), seed, RandomStream::Head)
        .expect("the weights are initialised for this head")
}

/// True if a step of this scope trains the body.
pub fn trains_body(scope: Scope) -> bool {
    scope == Scope::All
}
