//! Inference: classifiers, and the engine, which owns them on a dedicated thread and batches requests for them.

mod admission;
mod classifier;
mod engine;
mod engine_thread;
#[cfg(test)]
mod fixtures;
mod model_pool;
mod test_images;

pub use admission::RequestPermit;
pub use classifier::Classifier;
pub use engine::{Classification, DeviceMemory, Engine, EngineConfig, EngineError, Timing};
