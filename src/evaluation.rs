//! Evaluation: scores with confidence intervals, paired comparison of models, live statistics and drift, and the data audit.
//!
//! Every score states its n and its 95 % confidence interval. Nothing here reads the database or runs a network.

mod audit;
mod clusters;
mod comparison;
mod differences;
mod groups;
mod interval;
mod live;
mod paired;
mod report;
mod scores;
mod table;

pub use audit::{
    Accuracy, Association, AssociationRow, AuditImage, AuditInput, DatasetReport, DuplicateFindings, DuplicateGroup,
    DuplicateSet, GroupImage, LabelProblem, LabelProblems, Listing, PatientFinding, REPORT_VERSION, Shortcut,
    SplitCount,
};
pub use comparison::{ComparedEpoch, ComparedModel, ComparedRun, Comparison, ComparisonInput, ModelEvaluation};
pub use differences::PlanDifference;
pub use groups::{Gap, Group, GroupAttributes, Grouping};
pub use interval::{Interval, wilson};
pub use live::{Agreement, Drift, DriftGroup, LiveConfidence, LiveLatency, LiveTraffic, Verdict};
pub use paired::PairedTest;
pub use report::{ClassReport, Estimate, Report};
pub use scores::scores;
