//! The application layer: one function a use case, shared by the front ends (HTTP and the command line). A front end parses its input,
//! calls one function of this module and renders the result. Nothing here knows HTTP or a terminal.
//!
//! Failures are typed ([`Error`]). Invalid input is reported whole: one [`FieldError`] for each wrong field, named by a JSON pointer.

mod comparison;
mod error;
mod fields;
mod report;
mod submission;
mod weights;

pub use comparison::{MAX_COMPARED_RUNS, compare};
pub use error::{Error, FieldError};
pub use fields::{Fields, JsonObject, into_result};
pub use report::report;
pub use submission::{DEFAULT_RECIPE, RunRequest, read_plan_overrides, submit};
pub use weights::import_weights;
