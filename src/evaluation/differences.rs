//! In what the plans of several runs differ.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::domain::TrainingPlan;

/// A field of the plan that is not the same in all runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlanDifference {
    /// JSON pointer (RFC 6901) into the plan.
    pub pointer: String,
    /// Its value in each run, in their order; null where a run's plan has no such field.
    pub values: Vec<Value>,
}

/// The fields in which `plans` differ, down to the single value, in the order of the pointers' parts.
pub(super) fn differences<'a>(plans: impl Iterator<Item = &'a TrainingPlan>) -> Vec<PlanDifference> {
    let plans: Vec<Value> =
        plans.map(|plan| serde_json::to_value(plan).expect("a plan has text keys and plain numbers")).collect();
    let mut leaves = BTreeSet::new();
    plans.iter().for_each(|plan| collect(plan, &mut Vec::new(), &mut leaves));
    leaves.into_iter().filter_map(|leaf| difference(&plans, &leaf)).collect()
}

/// A step down into a value; places sort by number, not by text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Field(String),
    Place(usize),
}

fn collect(value: &Value, at: &mut Vec<Part>, leaves: &mut BTreeSet<Vec<Part>>) {
    let mut below = |part: Part, value: &Value| {
        at.push(part);
        collect(value, at, leaves);
        at.pop();
    };
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            fields.iter().for_each(|(name, value)| below(Part::Field(name.clone()), value));
        }
        Value::Array(items) if !items.is_empty() => {
            items.iter().enumerate().for_each(|(place, value)| below(Part::Place(place), value));
        }
        _ => drop(leaves.insert(at.clone())),
    }
}

fn difference(plans: &[Value], leaf: &[Part]) -> Option<PlanDifference> {
    let pointer: String = leaf.iter().map(|part| format!("/{}", part.escaped())).collect();
    let values: Vec<Value> = plans.iter().map(|plan| plan.pointer(&pointer).cloned().unwrap_or_default()).collect();
    values.iter().any(|value| *value != values[0]).then_some(PlanDifference { pointer, values })
}

impl Part {
    fn escaped(&self) -> String {
        match self {
            Self::Field(name) => name.replace('~', "~0").replace('/', "~1"),
            Self::Place(place) => place.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::recipe;

    #[test]
    fn equal_plans_differ_in_nothing() {
        let plan = recipe("covid-resnet").unwrap().plan;
        assert_eq!(differences([&plan, &plan].into_iter()), []);
    }

    #[test]
    fn a_changed_field_is_named_by_its_pointer_with_each_runs_value() {
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
        assert_eq!(of("/stages"), None, "the single values are named, not what they stand in");
        assert!(found.iter().all(|one| !one.pointer.starts_with("/stages/0")));
    }

    #[test]
    fn the_tenth_stage_comes_after_the_second() {
        let mut first = recipe("simple-cnn").unwrap().plan;
        first.stages = vec![first.stages[0].clone(); 11];
        let mut second = first.clone();
        second.stages.iter_mut().for_each(|stage| stage.image_size = 64);
        let pointers: Vec<_> = differences([&first, &second].into_iter()).into_iter().map(|one| one.pointer).collect();
        let expected: Vec<_> = (0..11).map(|place| format!("/stages/{place}/image_size")).collect();
        assert_eq!(pointers, expected);
    }
}
