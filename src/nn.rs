//! Networks, weights and devices.
//!
//! A [`Network`] is a body that turns images into features and a head that turns features into logits. Burn has no
//! train flag to pass around: a batch norm uses and updates batch statistics, and a dropout drops, exactly when
//! the tensor that comes in is on an autodiff device. Hence the three states that training and serving need:
//! - serving: the network as [`Network::from_bytes`] or `burn::module::Module::valid` gives it, plain input;
//! - step `head`: [`Network::for_step`] leaves the body plain, so that [`Network::features`] of plain input neither
//!   uses nor touches its statistics; the features are lifted with `Tensor::autodiff` for the head;
//! - step `all`: [`Network::for_step`] puts both on the autodiff device; so must the input be.

mod adam;
mod average;
mod blocked;
mod body;
mod chain;
mod compiled;
mod depth;
mod device;
mod dropout;
mod file;
mod graph;
mod head;
mod identity;
mod import;
mod initial;
mod input;
mod network;
mod pauses;
mod probe;
mod resnet;
mod tensors;
#[cfg(test)]
mod tests;
mod vgg;

pub use adam::adam;
pub use compiled::Compiled;
pub use depth::LayerRates;
pub use device::{DeviceChoice, devices};
pub use file::{body_spec, parameter_count};
pub use identity::Identities;
pub use import::{BodyWeights, import_weights};
pub use input::Input;
pub use network::{Network, trains_body};
pub use pauses::Pauses;
pub use probe::still_computes;
pub use thorax_kernels::{
    Precision,
    preemption::{is_low_priority_active as is_training, lower_thread_priority, preempted_time},
};

/// Gives back the memory that training on the CPU keeps from step to step.
pub fn release_memory() {
    thorax_kernels::memory::release();
}

/// What can go wrong with weights, models and devices.
#[derive(Debug, thiserror::Error)]
pub enum NnError {
    /// Unknown container or names.
    #[error("not a weight file we read: {0}")]
    UnknownFormat(String),
    /// A tensor is missing, surplus or of the wrong shape.
    #[error("tensor {name}: {problem}")]
    Tensor {
        /// Its name in the file.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// Reading failed.
    #[error("cannot read the weights: {0}")]
    Io(#[from] std::io::Error),
    /// The device is not to be had.
    #[error("device {0}")]
    Device(String),
}

impl NnError {
    fn tensor(name: &str, problem: impl Into<String>) -> Self {
        Self::Tensor { name: name.into(), problem: problem.into() }
    }
}
