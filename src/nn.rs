//! Networks, weights and devices.
//!
//! A [`Network`] is a body, which computes features of images, and a head, which computes logits of features. Burn modules have no training
//! flag. Instead, batch normalisation uses and updates batch statistics, and dropout is active, if and only if the input tensor is on an
//! autodiff device. Training and inference therefore need three states:
//! - inference: the network as returned by [`Network::from_bytes`] or `burn::module::Module::valid`, input without autodiff;
//! - step of scope `head`: [`Network::for_step`] leaves the body without autodiff, so that [`Network::features`] of input without autodiff
//!   neither uses batch statistics nor updates the running ones; `Tensor::autodiff` moves the features to the autodiff device for the head;
//! - step of scope `all`: [`Network::for_step`] moves body and head to the autodiff device, where the input must be as well.

mod adam;
mod blocked;
mod body;
mod chain;
mod compiled;
mod device;
mod dropout;
mod file;
mod graph;
mod head;
mod identity;
mod import;
mod init;
mod input;
mod layer_rates;
mod lerp;
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
pub use device::{DeviceChoice, devices, drivers, failed_allocation};
pub use file::{body_spec, excessive_weight, is_synthetic, marked_synthetic, parameter_count};
pub use identity::Identities;
pub use import::{BodyWeights, import_weights};
pub use input::Input;
pub use layer_rates::LayerRates;
pub use network::{Network, trains_body};
pub use pauses::Pauses;
pub use probe::{check_device, check_inference, check_training};
pub use thorax_kernels::{
    Precision,
    preemption::{is_low_priority_active as is_training, lower_thread_priority, preempted_time},
};

/// The threads of the CPU kernels. In tests, buffers with unspecified contents are filled with NaN.
fn team() -> &'static thorax_kernels::Team {
    if cfg!(test) {
        thorax_kernels::memory::poison_buffers();
    }
    thorax_kernels::team()
}

/// Releases the memory that training on the CPU caches between steps.
pub fn release_memory() {
    thorax_kernels::memory::release();
}

/// Error of weights, models and devices.
#[derive(Debug, thiserror::Error)]
pub enum NnError {
    /// Unknown file format, or invalid metadata.
    #[error("unsupported weight file: {0}")]
    UnknownFormat(String),
    /// A tensor is missing, unexpected or of the wrong shape.
    #[error("tensor {name}: {problem}")]
    Tensor {
        /// Name of the tensor in the file.
        name: String,
        /// Description of the problem.
        problem: String,
    },
    /// The tensors are those of another network.
    #[error("the tensors are not those of ResNet-50: {0}")]
    OtherNetwork(String),
    /// I/O error.
    #[error("cannot read the weights: {0}")]
    Io(#[from] std::io::Error),
    /// A weight, or a result that the network computes, is not a finite number.
    #[error("the model is not usable: {0}")]
    NotFinite(String),
    /// The device is unavailable or failed.
    #[error("device {0}")]
    Device(String),
}

impl NnError {
    fn tensor(name: &str, problem: impl Into<String>) -> Self {
        Self::Tensor { name: name.into(), problem: problem.into() }
    }
}
