//! Serving: a classifier, and the engine that owns it on a thread of its own.

mod admission;
mod classifier;
mod engine;
mod owner;

pub use admission::Admitted;
pub use classifier::Classifier;
pub use engine::{Classification, DeviceMemory, Engine, EngineConfig, EngineError, Timing};
