//! Submission of training runs: completes a plan from its recipe, checks it against the data, and queues the run. One error names
//! everything that is wrong.

use std::collections::HashMap;

use super::{Error, FieldError, Fields, Stores, report::leakage};
use crate::{
    domain::{
        self, Architecture, DatasetId, InitialWeights, LeakageFinding, LeakageKind, PlanOverrides, RunEvent, Scope,
        Split, Stage, Step, TrainingPlan,
    },
    store::{self, Dataset, Db, Distribution, Radiograph, Run},
    worker,
};

/// The recipe of a request that names none.
pub const DEFAULT_RECIPE: &str = "covid-resnet";

/// A training run to submit.
#[derive(Debug)]
pub struct RunRequest {
    /// Data set to train on; `None` only where `unreadable` says why.
    pub dataset_id: Option<DatasetId>,
    /// Name of the recipe.
    pub recipe: String,
    /// Fields that replace the recipe's.
    pub overrides: PlanOverrides,
    /// Stages of the plan to train, by their numbers from 1 in ascending order; all of them when absent.
    pub stages: Option<Vec<usize>>,
    /// Free name.
    pub name: Option<String>,
    /// Random seed for shuffling, initialisation, augmentation and dropout.
    pub seed: u32,
    /// Leakage findings that the client knows and accepts.
    pub acknowledge: Vec<LeakageKind>,
    /// Fields that the front end could not read; reported together with what validation finds.
    pub unreadable: Vec<FieldError>,
}

impl RunRequest {
    /// A run of the default recipe with seed 0.
    pub fn new(dataset_id: Option<DatasetId>) -> Self {
        Self {
            dataset_id,
            recipe: DEFAULT_RECIPE.into(),
            overrides: PlanOverrides::default(),
            stages: None,
            name: None,
            seed: 0,
            acknowledge: Vec::new(),
            unreadable: Vec::new(),
        }
    }
}

/// Validates a request and queues its run. The events of the run record the leakage that was acknowledged, and the classes
/// whose scores will be undefined.
///
/// `device_memory` is the memory of the device that trains, in bytes, if known.
///
/// # Errors
/// [`Error::Invalid`] with every wrong field; [`Error::Leakage`] where the splits leak and the request does not acknowledge it.
pub async fn submit(stores: &Stores, device_memory: Option<u64>, request: RunRequest) -> Result<Run, Error> {
    let ValidatedRun { run, acknowledged, warnings } = validate(stores, device_memory, request).await?;
    let warning = |LeakageFinding { name, detail, .. }: &LeakageFinding| RunEvent::Warning {
        message: format!("{detail} ({name}, acknowledged when the run was submitted)"),
    };
    let undefined = warnings.into_iter().map(|message| RunEvent::Warning { message });
    let warnings: Vec<_> = acknowledged.iter().map(warning).chain(undefined).collect();
    store::runs::create_with_events(&stores.db, &run, &warnings).await?;
    Ok(run)
}

/// A run to queue, the leakage that its submission acknowledged, and warnings about its splits.
struct ValidatedRun {
    run: Run,
    acknowledged: Vec<LeakageFinding>,
    warnings: Vec<String>,
}

async fn validate(stores: &Stores, device_memory: Option<u64>, mut request: RunRequest) -> Result<ValidatedRun, Error> {
    let mut errors = std::mem::take(&mut request.unreadable);
    let known_recipe = check_recipe(&request.recipe, &mut errors);
    let base = domain::recipe(&request.recipe).or_else(|| domain::recipe(DEFAULT_RECIPE));
    let base = base.expect("the default recipe is a recipe");
    let mut plan = base.plan.with(std::mem::take(&mut request.overrides));
    check_plan(&plan, &mut errors);
    if let Some(stages) = &request.stages {
        select_stages(&mut plan, stages, &mut errors);
    }
    if errors.is_empty()
        && let Some(detail) = device_memory.and_then(|memory| plan.exceeds_memory(memory))
    {
        errors.push(FieldError::new("/plan/batch_size", detail));
    }
    if known_recipe {
        check_weights(&stores.db, &plan, &mut errors).await?;
    }
    let data = check_data(&stores.db, &request, &plan, &mut errors).await?;
    let Some((dataset, fingerprint, warnings)) = data.filter(|_| errors.is_empty()) else {
        return Err(Error::Invalid(errors));
    };
    let found = leakage(stores, &dataset).await?;
    let (acknowledged, unacknowledged): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|finding| request.acknowledge.contains(&finding.name));
    if !unacknowledged.is_empty() {
        return Err(Error::Leakage(unacknowledged));
    }
    let run = Run {
        name: request.name,
        recipe: Some(request.recipe),
        synthetic: dataset.synthetic,
        ..Run::queued(dataset.id, fingerprint, plan, request.seed)
    };
    Ok(ValidatedRun { run, acknowledged, warnings })
}

fn check_recipe(recipe: &str, errors: &mut Vec<FieldError>) -> bool {
    let known: Vec<String> = domain::recipes().into_iter().map(|recipe| recipe.name).collect();
    let is_known = known.iter().any(|name| name == recipe);
    if !is_known {
        errors.push(FieldError::new("/recipe", format!("there is no such recipe; there are {}", known.join(", "))));
    }
    is_known
}

/// Adds what is wrong with the plan, except below fields that could not be read.
fn check_plan(plan: &TrainingPlan, errors: &mut Vec<FieldError>) {
    let unread: Vec<String> = errors.iter().map(|error| error.pointer.clone()).collect();
    for problem in plan.validate() {
        let pointer = format!("/plan{}", problem.pointer);
        let within =
            |parent: &String| pointer.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if !unread.iter().any(within) {
            errors.push(FieldError::new(pointer, problem.detail));
        }
    }
}

/// Reduces the plan to the stages of these numbers, counted from 1.
fn select_stages(plan: &mut TrainingPlan, numbers: &[usize], errors: &mut Vec<FieldError>) {
    let count = plan.stages.len();
    let listed = numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    let before = errors.len();
    let mut refuse = |detail: String| errors.push(FieldError::new("/stages", detail));
    if numbers.is_empty() {
        refuse("must name at least one stage of the plan (got an empty list)".into());
    }
    for &number in numbers.iter().filter(|number| !(1..=count).contains(*number)) {
        refuse(format!("must be numbers from 1 to {count}, the stages of the plan (got {number})"));
    }
    for pair in numbers.windows(2) {
        match pair[0].cmp(&pair[1]) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => {
                refuse(format!("must name each stage once (got {} twice in {listed})", pair[0]))
            }
            std::cmp::Ordering::Greater => {
                refuse(format!("must be in ascending order (got {} before {} in {listed})", pair[0], pair[1]));
            }
        }
    }
    if errors.len() == before {
        plan.stages = numbers.iter().map(|number| plan.stages[number - 1].clone()).collect();
    }
}

async fn check_weights(db: &Db, plan: &TrainingPlan, errors: &mut Vec<FieldError>) -> Result<(), Error> {
    let needs_weights = plan.initial_weights == InitialWeights::ImageNet && plan.architecture == Architecture::ResNet50;
    if needs_weights && store::weights::list(db).await?.is_empty() {
        let detail = "no ImageNet weights are imported: `thorax weights import FILE` or POST /v1/admin/weights, or \
                      start from random";
        let command = "no ImageNet weights are imported: import them with `thorax weights import FILE`, or start from random weights \
                       (\"initial_weights\": \"random\" in a --plan FILE)";
        errors.push(FieldError::new("/plan/initial_weights", detail).on_the_command_line(command));
    }
    Ok(())
}

/// The data set and its fingerprint, if it exists, and warnings about its splits.
async fn check_data(
    db: &Db,
    request: &RunRequest,
    plan: &TrainingPlan,
    errors: &mut Vec<FieldError>,
) -> Result<Option<(Dataset, String, Vec<String>)>, Error> {
    let Some(id) = request.dataset_id else { return Ok(None) };
    let Some(dataset) = store::datasets::get(db, id).await? else {
        errors.push(FieldError::new("/dataset_id", "there is no such data set"));
        return Ok(None);
    };
    let (unfit, warnings) = check_splits(db, &dataset, plan, request.seed).await?;
    errors.extend(unfit);
    let fingerprint = store::datasets::fingerprint(db, id).await?;
    Ok(Some((dataset, fingerprint, warnings)))
}

/// Deficits of the data set's splits for a run: errors, and warnings about classes whose scores will be undefined.
async fn check_splits(
    db: &Db,
    dataset: &Dataset,
    plan: &TrainingPlan,
    seed: u32,
) -> Result<(Vec<FieldError>, Vec<String>), Error> {
    let distribution = store::datasets::distribution(db, dataset.id).await?;
    let stored = SplitCounts::of_distribution(&distribution, dataset);
    let selection = plan.selection.split;
    if selection != Split::Validation || stored.total(Split::Validation) > 0 {
        return Ok((unfit_splits(&stored, dataset, selection), undefined_scores(&stored, dataset)));
    }
    // The worker splits validation images off the training images, by patient, which is not always possible.
    let radiographs = store::radiographs::labelled(db, dataset.id).await?;
    let (split_plan, classes) = (plan.clone(), dataset.clone());
    let trained = tokio::task::spawn_blocking(move || {
        let radiographs = worker::with_validation(radiographs, &split_plan, seed.into());
        SplitCounts::of_radiographs(&radiographs, &classes)
    })
    .await?;
    let errors = if trained.total(selection) == 0 && stored.total(Split::Train) > 1 {
        let patients: u64 =
            distribution.patients.get(Split::Train.as_str()).map_or(0, |classes| classes.values().sum());
        vec![no_validation(stored.total(Split::Train), patients, dataset)]
    } else {
        unfit_splits(&trained, dataset, selection)
    };
    Ok((errors, undefined_scores(&trained, dataset)))
}

/// Error of a plan for which no validation images can be split off.
fn no_validation(images: u64, patients: u64, dataset: &Dataset) -> FieldError {
    let Dataset { id, name, .. } = dataset;
    let detail = format!(
        "the data set has no validation images to choose epochs on, and none can be split off its {images} training images, because \
         the images of a patient stay together ({patients} patient ids in train): import the images with the right patient ids or \
         without ids, or assign images to validation. The warnings of"
    );
    let request = format!("{detail} POST /v1/datasets/{id}/split name the patients");
    let command = format!("{detail} `thorax dataset split \"{name}\" --validation-fraction 0.1` name the patients");
    FieldError::new("/plan/selection/split", request).on_the_command_line(command)
}

/// Numbers of labelled images by split and class.
struct SplitCounts(HashMap<(Split, String), u64>);

impl SplitCounts {
    fn of_distribution(distribution: &Distribution, dataset: &Dataset) -> Self {
        let mut counts = HashMap::new();
        for split in Split::ALL {
            let Some(classes) = distribution.images.get(split.as_str()) else { continue };
            let known = classes.iter().filter(|(class, _)| dataset.classes.index_of(class).is_some());
            counts.extend(known.map(|(class, count)| ((split, class.clone()), *count)));
        }
        Self(counts)
    }

    fn of_radiographs(radiographs: &[Radiograph], dataset: &Dataset) -> Self {
        let mut counts = HashMap::new();
        for radiograph in radiographs {
            let Some((split, class)) = radiograph.split.zip(radiograph.label.clone()) else { continue };
            if dataset.classes.index_of(&class).is_some() {
                *counts.entry((split, class)).or_default() += 1;
            }
        }
        Self(counts)
    }

    fn total(&self, split: Split) -> u64 {
        self.0.iter().filter(|((of, _), _)| *of == split).map(|(_, count)| count).sum()
    }

    /// The classes of the data set without images in a split.
    fn missing<'a>(&self, split: Split, dataset: &'a Dataset) -> Vec<&'a str> {
        let classes = dataset.classes.names().iter().map(String::as_str);
        classes.filter(|class| !self.0.contains_key(&(split, (*class).to_owned()))).collect()
    }
}

/// Deficits of the splits for a plan that selects epochs on the split `selection`.
fn unfit_splits(counts: &SplitCounts, dataset: &Dataset, selection: Split) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let missing = counts.missing(Split::Train, dataset);
    if !missing.is_empty() {
        let detail = format!("the data set has no training images of {}", missing.join(", "));
        let command = match counts.total(Split::Train) {
            0 => format!("{detail}: assign its images to splits with {}", split_command(dataset, selection)),
            _ => detail.clone(),
        };
        errors.push(FieldError::new("/dataset_id", detail).on_the_command_line(command));
    }
    if counts.total(selection) == 0 {
        let detail = format!("the data set has no {selection} images to choose epochs on");
        let request = format!("{detail}: POST /v1/datasets/{}/split sets some aside", dataset.id);
        let command = format!("{detail}: set some aside with {}", split_command(dataset, selection));
        errors.push(FieldError::new("/plan/selection/split", request).on_the_command_line(command));
    }
    errors
}

/// The command that splits a data set so that epochs can be chosen on the split `selection`.
fn split_command(Dataset { name, .. }: &Dataset, selection: Split) -> String {
    let fraction = if selection == Split::Validation { " --validation-fraction 0.1" } else { "" };
    format!("`thorax dataset split \"{name}\"{fraction}`")
}

/// A warning for each split that lacks images of some, but not of all classes.
fn undefined_scores(counts: &SplitCounts, dataset: &Dataset) -> Vec<String> {
    let splits = [Split::Validation, Split::Test].into_iter().filter(|split| counts.total(*split) > 0);
    let warning = |split: Split| {
        let missing = counts.missing(split, dataset);
        (!missing.is_empty()).then(|| {
            let classes = missing.join(", ");
            format!(
                "the {split} split has no images of {classes}: recall and F1 there are undefined (support 0) and left out of the \
                 macro average"
            )
        })
    };
    splits.filter_map(warning).collect()
}

/// Reads the fields of a plan that replace those of a recipe; unreadable and unknown ones go to the errors of `fields`.
pub fn read_plan_overrides(mut fields: Fields) -> PlanOverrides {
    let overrides = PlanOverrides::read(&mut fields, |fields| fields.objects("stages", read_stage));
    fields.finish();
    overrides
}

/// An unreadable field is in the list of errors by now; the default in its place is never trained.
fn read_stage(fields: &mut Fields) -> Stage {
    Stage {
        image_size: fields.required("image_size").unwrap_or_default(),
        steps: fields.objects("steps", read_step).unwrap_or_default(),
    }
}

fn read_step(fields: &mut Fields) -> Step {
    let step = Step::new(
        fields.required("scope").unwrap_or(Scope::All),
        fields.required("learning_rate").unwrap_or_default(),
        fields.required("epochs").unwrap_or_default(),
    );
    Step {
        schedule: fields.optional("schedule").unwrap_or_default(),
        layer_decay: fields.optional("layer_decay").unwrap_or(step.layer_decay),
        early_stopping: fields.optional("early_stopping"),
        range_test: fields.optional("range_test"),
        ..step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn select(numbers: &[usize]) -> Result<Vec<u32>, Vec<String>> {
        let mut plan = domain::recipe(DEFAULT_RECIPE).unwrap().plan;
        let count = plan.stages.len();
        assert_eq!(count, 3);
        let mut errors = Vec::new();
        select_stages(&mut plan, numbers, &mut errors);
        assert!(errors.iter().all(|error| error.pointer == "/stages"));
        let sizes = || plan.stages.iter().map(|stage| stage.image_size).collect();
        if errors.is_empty() { Ok(sizes()) } else { Err(errors.into_iter().map(|error| error.detail).collect()) }
    }

    #[test]
    fn selects_stages_by_their_numbers() {
        let all = select(&[1, 2, 3]).unwrap();
        assert_eq!(select(&[2]).unwrap(), all[1..2]);
        assert_eq!(select(&[1, 3]).unwrap(), [all[0], all[2]]);
    }

    #[test]
    fn refuses_stages_that_are_empty_unknown_repeated_or_not_ascending() {
        let cases: [(&[usize], &str); 5] = [
            (&[], "got an empty list"),
            (&[0], "got 0"),
            (&[2, 4], "got 4"),
            (&[1, 1], "got 1 twice"),
            (&[3, 1], "got 3 before 1"),
        ];
        for (numbers, expected) in cases {
            let errors = select(numbers).unwrap_err();
            assert!(errors.len() == 1 && errors[0].contains(expected), "{numbers:?}: {errors:?}");
        }
    }
}
