//! All integration tests in one binary: it is linked once, and tests of different modules run in parallel.
//!
//! Tests that depend on process-wide state (environment, current directory, thread pools, the allocator) start the program
//! as a process of its own; see [`process`].

#![allow(clippy::unwrap_used, reason = "a panic fails the test, which is what it should do")]

mod bench;
mod data_folder;
mod datasets;
mod docs;
mod durable;
mod fixtures;
mod help;
mod http_access;
mod http_arrays;
mod http_auth;
mod http_bodies;
mod http_compare;
mod http_conflicts;
mod http_datasets;
mod http_dicom;
mod http_evaluations;
mod http_events;
mod http_explain;
mod http_exports;
mod http_files;
mod http_gate;
mod http_generate;
mod http_idempotency;
mod http_live;
mod http_metrics;
mod http_names;
mod http_not_finite;
mod http_plans;
mod http_prediction_jobs;
mod http_predictions;
mod http_queries;
mod http_quotas;
mod http_report;
mod http_synthetic;
mod http_training;
mod http_v2;
mod openapi;
mod operating;
mod process;
mod properties;
mod queries;
mod real;
mod runs;
mod server;
mod slow_clients;
mod support;
mod train;
mod transport;
mod upgrade;
mod weights;
