//! Serving: classifiers, and the engine that owns them on a thread of its own.

mod admission;
mod classifier;
mod engine;
#[cfg(test)]
mod fixtures;
mod loaded;
mod owner;

pub use admission::Admitted;
pub use classifier::Classifier;
pub use engine::{Classification, DeviceMemory, Engine, EngineConfig, EngineError, Timing};
