//! Differences between training plans, field by field.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::domain::TrainingPlan;

/// A plan field that differs between runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlanDifference {
    /// JSON pointer (RFC 6901) into the plan.
    pub pointer: String,
    /// Value in each run, in order; null if the plan has no such field.
    pub values: Vec<Value>,
}

/// Scalar fields in which `plans` differ, ordered by pointer segment.
pub(super) fn differences<'a>(plans: impl Iterator<Item = &'a TrainingPlan>) -> Vec<PlanDifference> {
    let plans: Vec<Value> =
        plans.map(|plan| serde_json::to_value(plan).expect("a plan has text keys and plain numbers")).collect();
    let mut leaves = BTreeSet::new();
    plans.iter().for_each(|plan| collect(plan, &mut Vec::new(), &mut leaves));
    leaves.into_iter().filter_map(|leaf| difference(&plans, &leaf)).collect()
}

/// Segment of a JSON pointer; array indices sort numerically.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Segment {
    Field(String),
    Index(usize),
}

fn collect(value: &Value, at: &mut Vec<Segment>, leaves: &mut BTreeSet<Vec<Segment>>) {
    let mut below = |segment: Segment, value: &Value| {
        at.push(segment);
        collect(value, at, leaves);
        at.pop();
    };
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            fields.iter().for_each(|(name, value)| below(Segment::Field(name.clone()), value));
        }
        Value::Array(items) if !items.is_empty() => {
            items.iter().enumerate().for_each(|(index, value)| below(Segment::Index(index), value));
        }
        _ => drop(leaves.insert(at.clone())),
    }
}

fn difference(plans: &[Value], leaf: &[Segment]) -> Option<PlanDifference> {
    let pointer: String = leaf.iter().map(|segment| format!("/{}", segment.escaped())).collect();
    let values: Vec<Value> = plans.iter().map(|plan| plan.pointer(&pointer).cloned().unwrap_or_default()).collect();
    values.iter().any(|value| *value != values[0]).then_some(PlanDifference { pointer, values })
}

impl Segment {
    fn escaped(&self) -> String {
        match self {
            Self::Field(name) => name.replace('~', "~0").replace('/', "~1"),
            Self::Index(index) => index.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::recipe;

    #[test]
    fn equal_plans_have_no_differences() {
        let plan = recipe("covid-resnet").unwrap().plan;
        assert_eq!(differences([&plan, &plan].into_iter()), []);
    }

    #[test]
    fn a_changed_field_is_listed_with_its_value_in_each_run() {
        let first = recipe("covid-resnet").unwrap().plan;
        let mut second = first.clone();
        second.batch_size = 16;
        second.stages[1].steps[0].epochs = 4;
        let mut third = first.clone();
        third.stages.truncate(1);
        let found = differences([&first, &second, &third].into_iter());
        let of = |pointer: &str| found.iter().find(|one| one.pointer == pointer).map(|one| json!(one.values));
        assert_eq!(of("/batch_size"), Some(json!([32, 16, 32])));
        assert_eq!(of("/stages/1/steps/0/epochs"), Some(json!([3, 4, null])));
        assert_eq!(of("/stages/2/image_size"), Some(json!([229, 229, null])));
        assert_eq!(of("/dropout"), None);
        assert_eq!(of("/stages"), None, "scalars are listed, not their containers");
        assert!(found.iter().all(|one| !one.pointer.starts_with("/stages/0")));
    }

    #[test]
    fn array_indices_sort_numerically() {
        let mut first = recipe("simple-cnn").unwrap().plan;
        first.stages = vec![first.stages[0].clone(); 11];
        let mut second = first.clone();
        second.stages.iter_mut().for_each(|stage| stage.image_size = 64);
        let pointers: Vec<_> = differences([&first, &second].into_iter()).into_iter().map(|one| one.pointer).collect();
        let expected: Vec<_> = (0..11).map(|index| format!("/stages/{index}/image_size")).collect();
        assert_eq!(pointers, expected);
    }
}
