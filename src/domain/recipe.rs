//! Recipes: named training plans.

use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Architecture, Augmentation, ClassWeights, InitialWeights, Optimizer, RangeTest, Sampling, Schedule, Scope,
    Selection, SelectionMetric, Split, Stage, Step, TrainingPlan, plan::default_checkpoint_minutes,
};

/// Recipe: a named training plan.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Recipe {
    /// Name of the recipe, as used in the `recipe` field of requests.
    pub name: String,
    /// Description of the plan and its origin.
    pub description: String,
    /// Training plan of the recipe.
    pub plan: TrainingPlan,
}

/// All recipes.
pub fn recipes() -> Vec<Recipe> {
    vec![covid_resnet(), thorax(), covid_resnet_original(), simple_cnn(), resnet50_scratch(), vgg16_scratch()]
}

/// The recipe called `name`.
pub fn recipe(name: &str) -> Option<Recipe> {
    recipes().into_iter().find(|recipe| recipe.name == name)
}

/// Contains only changes that `benches/ablation.py` showed to improve the first stage at no cost; `benches/README.md` has the figures. The
/// later stages keep the base rates of covid-resnet, which are below the limit anyway.
fn thorax() -> Recipe {
    let base = covid_resnet().plan;
    let cosine = Schedule::Cosine { final_fraction: 0.0 };
    let cosine_step = |step: &Step| Step {
        schedule: cosine,
        learning_rate: if step.scope == Scope::All { step.learning_rate.min(3e-4) } else { step.learning_rate },
        ..step.clone()
    };
    let stage = |stage: &Stage| Stage { steps: stage.steps.iter().map(cosine_step).collect(), ..*stage };
    Recipe {
        name: "thorax".into(),
        description:
            "covid-resnet with changes that were measured to help at the same training time: cosine annealing of \
                      the learning rate in each step, and at most 3e-4 for the whole network. Over four seeds of the \
                      first stage at 96 px it scored higher than covid-resnet on the validation patients of 1,351 \
                      radiographs; the later stages were not compared."
                .into(),
        plan: TrainingPlan { stages: base.stages.iter().map(stage).collect(), ..base },
    }
}

fn covid_resnet() -> Recipe {
    use Scope::{All, Head};
    Recipe {
        name: "covid-resnet".into(),
        description: "ResNet-50 from ImageNet weights in three stages of 128, 224 and 229 px, first the head, then \
                      the whole network: 21 epochs, Adam, batch 32, no augmentation (COVID-ResNet, Farooq & Hafeez 2020, \
                      as re-implemented by Maglianella)."
            .into(),
        plan: TrainingPlan {
            architecture: Architecture::ResNet50,
            initial_weights: InitialWeights::ImageNet,
            batch_size: 32,
            optimizer: Optimizer::Adam,
            dropout: 0.5,
            selection: Selection { split: Split::Validation, metric: SelectionMetric::Accuracy },
            checkpoint_minutes: default_checkpoint_minutes(),
            class_weights: ClassWeights::None,
            sampling: Sampling::Shuffle,
            label_smoothing: 0.0,
            mixup: 0.0,
            augmentation: Augmentation::default(),
            weight_averaging: None,
            early_stopping: None,
            stages: vec![
                stage(128, &[(Head, 1e-3, 3), (All, 1e-3, 5)]),
                stage(224, &[(Head, 1e-4, 3), (All, 1e-4, 5)]),
                stage(229, &[(All, 1e-5, 5)]),
            ],
        },
    }
}

/// The paper gives the techniques and the numbers of epochs, but not every hyperparameter. The missing ones are fastai's defaults
/// (lighting, one-cycle policy) or taken from the re-implementation (learning rates).
fn covid_resnet_original() -> Recipe {
    let base = covid_resnet().plan;
    Recipe {
        name: "covid-resnet-original".into(),
        description: "The stages of covid-resnet as trained by the authors of COVID-ResNet (Farooq & Hafeez 2020, \
                      arXiv:2003.14395): vertical flips, rotations by up to 15 degrees, random brightness and contrast, \
                      the one-cycle policy in each step, layer-wise learning-rate decay, learning rates of the whole \
                      network from a range test, 25 epochs in the last stage and 41 in total. Head steps run the frozen \
                      body in every epoch, because augmentation changes the images."
            .into(),
        plan: TrainingPlan {
            augmentation: Augmentation {
                vertical_flip: true,
                rotation_degrees: 15.0,
                brightness: 0.1,
                contrast: 0.2,
                ..Augmentation::default()
            },
            stages: base.stages.iter().map(original_stage).collect(),
            ..base
        },
    }
}

/// A stage with the schedule and learning rates of the paper. The last stage, which has no head step, has 25 epochs.
fn original_stage(stage: &Stage) -> Stage {
    let one_cycle = Schedule::OneCycle { warm_up_fraction: 0.3, start_divisor: 25.0, final_divisor: 1e4 };
    let last = stage.steps.len() == 1;
    let step = |step: &Step| Step {
        schedule: one_cycle,
        // Five layer groups are below the head, so that the stem trains at 0.4^5, a hundredth of the rate of the head.
        layer_decay: if step.scope == Scope::All { 0.4 } else { 1.0 },
        epochs: if last { 25 } else { step.epochs },
        range_test: (step.scope == Scope::All).then(RangeTest::default),
        ..step.clone()
    };
    Stage { steps: stage.steps.iter().map(step).collect(), ..*stage }
}

fn simple_cnn() -> Recipe {
    Recipe {
        name: "simple-cnn".into(),
        description: "Three convolutions of 3x3 (32, 32, 64), max-pooling, dropout and a dense layer of 128 at \
                      229 px, from random weights with a learning rate of 1e-4. The report does not give the number of \
                      epochs; 21 is that of the main model."
            .into(),
        plan: from_scratch(Architecture::SimpleCnn, 1e-4),
    }
}

fn resnet50_scratch() -> Recipe {
    Recipe {
        name: "resnet50-scratch".into(),
        description:
            "The main model's ResNet-50 at 229 px, from random weights with a learning rate of 1e-5: a baseline \
                      without ImageNet weights and progressive resizing. The report does not give the number of epochs; \
                      21 is that of the main model."
                .into(),
        plan: from_scratch(Architecture::ResNet50, 1e-5),
    }
}

fn vgg16_scratch() -> Recipe {
    Recipe {
        name: "vgg16-scratch".into(),
        description:
            "VGG-16 (13 convolutions of 3x3) with global average pooling and the main model's head at 229 px, \
                      from random weights with a learning rate of 1e-4. The report does not give the number of epochs; \
                      21 is that of the main model."
                .into(),
        plan: from_scratch(Architecture::Vgg16, 1e-4),
    }
}

/// A plan of one stage at the last image size of the report; everything else is as in the main model.
fn from_scratch(architecture: Architecture, learning_rate: f64) -> TrainingPlan {
    TrainingPlan {
        architecture,
        initial_weights: InitialWeights::Random,
        stages: vec![stage(229, &[(Scope::All, learning_rate, 21)])],
        ..covid_resnet().plan
    }
}

fn stage(image_size: u32, steps: &[(Scope, f64, u32)]) -> Stage {
    let step = |&(scope, learning_rate, epochs)| Step::new(scope, learning_rate, epochs);
    Stage { image_size, steps: steps.iter().map(step).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_is_a_valid_plan() {
        for recipe in recipes() {
            assert_eq!(recipe.plan.validate(), vec![], "{}", recipe.name);
        }
    }

    #[test]
    fn every_recipe_but_the_original_trains_for_21_epochs() {
        let others = recipes().into_iter().filter(|recipe| recipe.name != "covid-resnet-original");
        assert!(others.map(|recipe| recipe.plan.total_epochs()).all(|epochs| epochs == 21));
    }

    #[test]
    fn thorax_differs_from_covid_resnet_only_in_learning_rates() {
        let (ours, theirs) = (thorax().plan, covid_resnet().plan);
        let rates = |plan: &TrainingPlan| {
            plan.stages.iter().flat_map(|stage| &stage.steps).map(|step| step.learning_rate).collect::<Vec<_>>()
        };
        assert_eq!(rates(&ours), [1e-3, 3e-4, 1e-4, 1e-4, 1e-5]);
        let mut alike = ours;
        for (stage, theirs) in alike.stages.iter_mut().zip(&theirs.stages) {
            for (step, theirs) in stage.steps.iter_mut().zip(&theirs.steps) {
                (step.learning_rate, step.schedule) = (theirs.learning_rate, theirs.schedule);
            }
        }
        assert_eq!(alike, theirs);
    }

    #[test]
    fn only_resnet50_starts_from_imagenet_weights() {
        for recipe in recipes() {
            let plan = TrainingPlan { initial_weights: InitialWeights::ImageNet, ..recipe.plan };
            let refused = plan.validate().iter().any(|problem| problem.pointer == "/initial_weights");
            assert_eq!(refused, plan.architecture != Architecture::ResNet50, "{}", recipe.name);
        }
    }

    #[test]
    fn covid_resnet_original_has_the_techniques_and_41_epochs_of_the_paper() {
        let plan = covid_resnet_original().plan;
        assert_eq!((plan.total_epochs(), plan.stages[2].steps[0].epochs), (41, 25));
        assert_eq!(plan.stages.iter().map(|stage| stage.image_size).collect::<Vec<_>>(), [128, 224, 229]);
        assert!(plan.augmentation.vertical_flip && plan.augments_images());
        let steps = plan.stages.iter().flat_map(|stage| &stage.steps);
        assert!(steps.clone().all(|step| matches!(step.schedule, Schedule::OneCycle { .. })));
        assert!(steps.clone().all(|step| (step.layer_decay < 1.0) == (step.scope == Scope::All)));
        assert!(steps.clone().all(|step| step.range_test.is_some() == (step.scope == Scope::All)));
    }

    #[test]
    fn all_invalid_fields_of_a_plan_are_reported_at_once() {
        let mut plan = covid_resnet().plan;
        plan.batch_size = 0;
        plan.dropout = 1.0;
        plan.stages[0].image_size = 8;
        plan.stages[1].steps[0].learning_rate = f64::NAN;
        plan.stages[2].steps.clear();
        let pointers: Vec<_> = plan.validate().into_iter().map(|p| p.pointer).collect();
        let expected =
            ["/batch_size", "/dropout", "/stages/0/image_size", "/stages/1/steps/0/learning_rate", "/stages/2/steps"];
        assert_eq!(pointers, expected);
    }
}
