//! What a confusion matrix says about a model, with its uncertainty: every score names its n and its interval.

mod interval;
mod report;

pub use interval::{Interval, wilson};
pub use report::{ClassReport, Estimate, Report};
