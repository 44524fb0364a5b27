//! A run as it is submitted: read field by field, completed from its recipe, and checked against the data, so that one
//! answer names everything that is wrong.

use utoipa::ToSchema;

use crate::{
    domain::{
        self, Architecture, DatasetId, InitialWeights, LeakageFinding, LeakageKind, PlanOverrides, RunEvent, Scope,
        Split, Stage, Step, TrainingPlan,
    },
    http::{
        ApiError, FieldError,
        fields::{Fields, JsonObject, all_right},
        report::leakage,
    },
    store::{self, Caches, Dataset, Db, Distribution, Run, StoreError},
};

const DEFAULT_RECIPE: &str = "covid-resnet";

/// A run to be queued.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "describes the request; the fields are read one by one")]
pub struct NewTrainingRun {
    /// What to train on.
    dataset_id: DatasetId,
    /// A plan by name; `covid-resnet` when absent.
    #[schema(default = "covid-resnet")]
    recipe: Option<String>,
    /// Replaces fields of the recipe.
    plan: Option<PlanOverrides>,
    /// Free, 1 to 200 characters.
    name: Option<String>,
    /// Of shuffling, initialisation and dropout; 0 when absent.
    #[schema(default = 0)]
    seed: Option<u32>,
    /// Leakage between the data set's splits that is known and accepted: the names that GET /v1/datasets/{id}/report finds. Without
    /// them a run on such data is refused with 409 and the findings.
    #[schema(value_type = Option<Vec<LeakageKind>>)]
    acknowledge: Option<Vec<String>>,
}

/// A run to queue, and what was acknowledged of its data.
#[derive(Debug)]
pub struct Checked {
    /// The run.
    pub run: Run,
    acknowledged: Vec<LeakageFinding>,
}

/// What could be read; wrong fields are in the list of errors.
struct Draft {
    dataset_id: Option<DatasetId>,
    recipe: String,
    plan: TrainingPlan,
    name: Option<String>,
    seed: u32,
    acknowledge: Vec<LeakageKind>,
}

/// The run to queue, or one 422 with all that is wrong; or 409 where its data leak and the submission does not say so.
pub async fn check(db: &Db, caches: &Caches, body: JsonObject) -> Result<Checked, ApiError> {
    let mut errors = Vec::new();
    let draft = Draft::read(body, &mut errors);
    draft.check_plan(&mut errors);
    draft.check_weights(db, &mut errors).await?;
    let data = draft.check_data(db, &mut errors).await?;
    let acknowledge = draft.acknowledge.clone();
    let run = data.map(|(dataset, fingerprint)| (draft.into_run(dataset.id, fingerprint), dataset));
    let (run, dataset) = all_right(run, errors)?;
    let found = leakage(db, caches, &dataset).await?;
    let (acknowledged, others): (Vec<_>, Vec<_>) = found.into_iter().partition(|one| acknowledge.contains(&one.name));
    if others.is_empty() { Ok(Checked { run, acknowledged }) } else { Err(ApiError::Leakage(others)) }
}

impl Checked {
    /// Queues the run; its events say what was acknowledged.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn queue(&self, db: &Db) -> Result<(), StoreError> {
        let warning = |LeakageFinding { name, detail, .. }: &LeakageFinding| RunEvent::Warning {
            message: format!("{detail} ({name}, acknowledged when the run was submitted)"),
        };
        let warnings: Vec<_> = self.acknowledged.iter().map(warning).collect();
        store::runs::create_with_events(db, &self.run, &warnings).await
    }
}

impl Draft {
    fn read(body: JsonObject, errors: &mut Vec<FieldError>) -> Self {
        let mut fields = Fields::new("", body, errors);
        let dataset_id = fields.required("dataset_id");
        let recipe = fields.optional("recipe").unwrap_or_else(|| DEFAULT_RECIPE.to_owned());
        let name = fields.optional_text("name", 200);
        let seed = fields.optional("seed").unwrap_or(0);
        let acknowledge = read_acknowledged(&mut fields);
        let overrides = fields.object("plan").map(read_overrides).unwrap_or_default();
        let known: Vec<String> = domain::recipes().into_iter().map(|recipe| recipe.name).collect();
        let detail = format!("there is no such recipe; there are {}", known.join(", "));
        fields.check(known.contains(&recipe), "recipe", &detail);
        fields.finish();
        let base = domain::recipe(&recipe).or_else(|| domain::recipe(DEFAULT_RECIPE));
        let base = base.expect("the default recipe is a recipe");
        Self { dataset_id, recipe, plan: base.plan.with(overrides), name, seed, acknowledge }
    }

    /// What is wrong with the plan beyond what could not be read.
    fn check_plan(&self, errors: &mut Vec<FieldError>) {
        let unread: Vec<String> = errors.iter().map(|error| error.pointer.clone()).collect();
        for problem in self.plan.validate() {
            let pointer = format!("/plan{}", problem.pointer);
            let within =
                |place: &String| pointer.strip_prefix(place).is_some_and(|r| r.is_empty() || r.starts_with('/'));
            if !unread.iter().any(within) {
                errors.push(FieldError { pointer, detail: problem.detail });
            }
        }
    }

    async fn check_weights(&self, db: &Db, errors: &mut Vec<FieldError>) -> Result<(), ApiError> {
        let wanted = self.plan.initial_weights == InitialWeights::ImageNet
            && self.plan.architecture == Architecture::ResNet50
            && domain::recipe(&self.recipe).is_some();
        if wanted && store::weights::list(db).await?.is_empty() {
            let detail = "no ImageNet weights are imported: `thorax weights import FILE` or POST /v1/admin/weights, or \
                          start from random";
            errors.push(FieldError { pointer: "/plan/initial_weights".into(), detail: detail.into() });
        }
        Ok(())
    }

    /// The data's fingerprint, when there is such a data set.
    async fn check_data(&self, db: &Db, errors: &mut Vec<FieldError>) -> Result<Option<(Dataset, String)>, ApiError> {
        let Some(id) = self.dataset_id else { return Ok(None) };
        let Some(dataset) = store::datasets::get(db, id).await? else {
            errors.push(FieldError { pointer: "/dataset_id".into(), detail: "there is no such data set".into() });
            return Ok(None);
        };
        let distribution = store::datasets::distribution(db, id).await?;
        errors.extend(unfit_data(&distribution, &dataset, self.plan.selection.split));
        let fingerprint = store::datasets::fingerprint(db, id).await?;
        Ok(Some((dataset, fingerprint)))
    }

    fn into_run(self, dataset_id: DatasetId, dataset_fingerprint: String) -> Run {
        Run {
            name: self.name,
            recipe: Some(self.recipe),
            ..Run::queued(dataset_id, dataset_fingerprint, self.plan, self.seed)
        }
    }
}

/// What the data lacks for a plan that chooses epochs on `selection`.
fn unfit_data(distribution: &Distribution, dataset: &Dataset, selection: Split) -> Vec<FieldError> {
    let count = |split: Split, class: &String| {
        distribution.images.get(split.as_str()).and_then(|classes| classes.get(class)).copied().unwrap_or(0)
    };
    let classes = dataset.classes.names();
    let bare: Vec<&str> = classes.iter().filter(|class| count(Split::Train, class) == 0).map(String::as_str).collect();
    let none_to_choose_on = classes.iter().all(|class| count(selection, class) == 0);
    // the worker carves a validation part from the training images when there is none
    let carvable = selection == Split::Validation && classes.iter().any(|class| count(Split::Train, class) > 1);
    let mut errors = Vec::new();
    if !bare.is_empty() {
        let detail = format!("the data set has no training images of {}", bare.join(", "));
        errors.push(FieldError { pointer: "/dataset_id".into(), detail });
    }
    if none_to_choose_on && !carvable {
        let id = dataset.id;
        let detail = format!(
            "the data set has no {selection} images to choose epochs on: POST /v1/datasets/{id}/split sets some aside"
        );
        errors.push(FieldError { pointer: "/plan/selection/split".into(), detail });
    }
    errors
}

fn read_acknowledged(fields: &mut Fields) -> Vec<LeakageKind> {
    let names: Vec<String> = fields.optional("acknowledge").unwrap_or_default();
    let mut known = Vec::new();
    for (place, name) in names.iter().enumerate() {
        match name.parse::<LeakageKind>() {
            Ok(leakage) => known.push(leakage),
            Err(detail) => fields.check(false, &format!("acknowledge/{place}"), &detail),
        }
    }
    known
}

fn read_overrides(mut fields: Fields) -> PlanOverrides {
    let overrides = PlanOverrides {
        architecture: fields.optional("architecture"),
        initial_weights: fields.optional("initial_weights"),
        batch_size: fields.optional("batch_size"),
        optimizer: fields.optional("optimizer"),
        dropout: fields.optional("dropout"),
        selection: fields.optional("selection"),
        checkpoint_minutes: fields.optional("checkpoint_minutes"),
        class_weights: fields.optional("class_weights"),
        sampling: fields.optional("sampling"),
        label_smoothing: fields.optional("label_smoothing"),
        mixup: fields.optional("mixup"),
        augmentation: fields.optional("augmentation"),
        weight_averaging: fields.optional("weight_averaging"),
        early_stopping: fields.optional("early_stopping"),
        stages: fields.objects("stages", read_stage),
    };
    fields.finish();
    overrides
}

/// An unreadable field is in the list of errors by now; what stands here in its place is never trained.
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
