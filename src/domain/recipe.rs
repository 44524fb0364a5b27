//! Named plans.

use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Architecture, InitialWeights, Optimizer, Scope, Selection, SelectionMetric, Split, Stage, Step, TrainingPlan,
    plan::checkpoint_minutes,
};

/// A plan with a name.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Recipe {
    /// What `recipe` takes in a request.
    pub name: String,
    /// What it is and where it comes from.
    pub description: String,
    /// The plan it stands for.
    pub plan: TrainingPlan,
}

/// All recipes.
pub fn recipes() -> Vec<Recipe> {
    vec![covid_resnet(), simple_cnn()]
}

/// The recipe of that name.
pub fn recipe(name: &str) -> Option<Recipe> {
    recipes().into_iter().find(|recipe| recipe.name == name)
}

fn covid_resnet() -> Recipe {
    use Scope::{All, Head};
    Recipe {
        name: "covid-resnet".into(),
        description: "ResNet-50 from ImageNet weights in three stages of 128, 224 and 229 px, head first, then the \
                      whole network: 21 epochs, Adam, batch 32, no augmentation (COVID-ResNet, Farooq & Hafeez 2020, \
                      as re-implemented by Maglianella)."
            .into(),
        plan: TrainingPlan {
            architecture: Architecture::ResNet50,
            initial_weights: InitialWeights::ImageNet,
            batch_size: 32,
            optimizer: Optimizer::Adam,
            dropout: 0.5,
            selection: Selection { split: Split::Validation, metric: SelectionMetric::Accuracy },
            checkpoint_minutes: checkpoint_minutes(),
            stages: vec![
                stage(128, &[(Head, 1e-3, 3), (All, 1e-3, 5)]),
                stage(224, &[(Head, 1e-4, 3), (All, 1e-4, 5)]),
                stage(229, &[(All, 1e-5, 5)]),
            ],
        },
    }
}

fn simple_cnn() -> Recipe {
    Recipe {
        name: "simple-cnn".into(),
        description: "Three convolutions of 3x3 (32, 32, 64), max-pooling, dropout and a dense layer of 128 at \
                      229 px, from random weights at 1e-4. The report leaves the number of epochs open; 21 here, as \
                      many as the main model's."
            .into(),
        plan: TrainingPlan {
            architecture: Architecture::SimpleCnn,
            initial_weights: InitialWeights::Random,
            stages: vec![stage(229, &[(Scope::All, 1e-4, 21)])],
            ..covid_resnet().plan
        },
    }
}

fn stage(image_size: u32, steps: &[(Scope, f64, u32)]) -> Stage {
    let step = |&(scope, learning_rate, epochs)| Step { scope, learning_rate, epochs };
    Stage { image_size, steps: steps.iter().map(step).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_is_a_valid_plan() {
        for recipe in recipes() {
            assert_eq!(recipe.plan.problems(), vec![], "{}", recipe.name);
        }
    }

    #[test]
    fn covid_resnet_trains_for_21_epochs() {
        assert_eq!(covid_resnet().plan.total_epochs(), 21);
    }

    #[test]
    fn a_bad_plan_names_each_wrong_field_at_once() {
        let mut plan = covid_resnet().plan;
        plan.batch_size = 0;
        plan.dropout = 1.0;
        plan.stages[0].image_size = 8;
        plan.stages[1].steps[0].learning_rate = f64::NAN;
        plan.stages[2].steps.clear();
        let pointers: Vec<_> = plan.problems().into_iter().map(|p| p.pointer).collect();
        let expected =
            ["/batch_size", "/dropout", "/stages/0/image_size", "/stages/1/steps/0/learning_rate", "/stages/2/steps"];
        assert_eq!(pointers, expected);
    }
}
