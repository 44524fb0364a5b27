//! Thorax trains and serves chest-radiograph classifiers. The modules are in reading order; each may use those above it.

pub mod domain;
pub mod format;
pub mod metrics;

pub mod imaging;
pub mod nn;
pub mod store;

pub mod dataset;
pub mod evaluation;
pub mod inference;
pub mod training;

pub mod worker;

pub mod service;

pub mod http;

pub mod app;
pub mod cli;
pub mod config;
pub mod telemetry;

#[cfg(test)]
#[path = "../tests/it/fixtures.rs"]
mod fixtures;
