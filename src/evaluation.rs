//! What a confusion matrix says about a model, with its uncertainty: every score names its n and its interval. And what the
//! models of several runs say about each other.

mod comparison;
mod differences;
mod interval;
mod paired;
mod report;
mod table;

pub use comparison::{ComparedEpoch, ComparedModel, ComparedRun, Comparison, Contender, Judged};
pub use differences::PlanDifference;
pub use interval::{Interval, wilson};
pub use paired::PairedTest;
pub use report::{ClassReport, Estimate, Report};
