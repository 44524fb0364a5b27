//! What a confusion matrix says about a model, with its uncertainty: every score names its n and its interval. And what the
//! models of several runs say about each other; and what a data set says about any score on it.

mod comparison;
mod differences;
mod interval;
mod live;
mod paired;
mod report;
mod table;
mod truth;

pub use comparison::{ComparedEpoch, ComparedModel, ComparedRun, Comparison, Contender, Judged};
pub use differences::PlanDifference;
pub use interval::{Interval, wilson};
pub use live::{Agreement, Drift, DriftGroup, LiveConfidence, LiveLatency, LiveTraffic, Verdict};
pub use paired::PairedTest;
pub use report::{ClassReport, Estimate, Report};
pub use truth::{
    Accuracy, Association, AssociationRow, DatasetReport, Described, DuplicateFindings, Examined, Found, GroupImage,
    LabelProblem, LabelProblems, LooksAlike, PatientFinding, PictureGroup, REPORT_VERSION, Shortcut, SplitCount,
};
