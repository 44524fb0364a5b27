//! How much work a plan is, in a unit in which stages of different sizes compare.

use super::{Scope, Stage, Step, TrainingPlan};

/// A training pass in forward passes: the backward pass computes two products where the forward pass computes one.
const FORWARD_AND_BACKWARD: f64 = 3.0;

/// How many images a run passes over.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ImageCounts {
    /// In the training split.
    pub train: f64,
    /// In the split that chooses the epochs.
    pub selection: f64,
    /// In all splits.
    pub all: f64,
}

/// What the epochs of a step ask of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyMode {
    /// Nothing: it went over all images once, before the first epoch.
    Cached,
    /// It goes over the images of each epoch, because they change.
    Frozen,
    /// It trains.
    Trained,
}

impl BodyMode {
    /// What the plan's step asks for.
    pub fn of(plan: &TrainingPlan, step: &Step) -> Self {
        match step.scope {
            Scope::All => Self::Trained,
            Scope::Head if plan.augments_images() => Self::Frozen,
            Scope::Head => Self::Cached,
        }
    }

    /// Frozen passes over a training image in an epoch.
    pub fn passes_per_training_image(self) -> f64 {
        match self {
            Self::Cached => 0.0,
            Self::Frozen => 1.0,
            Self::Trained => FORWARD_AND_BACKWARD,
        }
    }

    /// The same over an image of the selection split.
    pub fn passes_per_selection_image(self) -> f64 {
        if self == Self::Cached { 0.0 } else { 1.0 }
    }

    /// Frozen passes of an epoch.
    pub fn passes_per_epoch(self, ImageCounts { train, selection, .. }: ImageCounts) -> f64 {
        self.passes_per_training_image() * train + self.passes_per_selection_image() * selection
    }
}

impl TrainingPlan {
    /// Its work in forward passes over one pixel, if no step ends early. Epochs on features that are kept count nothing: beside the one
    /// pass of the body they take no time worth estimating.
    pub fn cost(&self, images: ImageCounts) -> f64 {
        let step = |step: &Step| match BodyMode::of(self, step) {
            BodyMode::Cached => images.train + images.selection,
            body => {
                let tried = f64::from(step.range_test.map_or(0, |test| test.batches * self.batch_size));
                f64::from(step.epochs) * body.passes_per_epoch(images) + body.passes_per_training_image() * tried
            }
        };
        // At its end a stage is evaluated on every split.
        let stage = |stage: &Stage| pixels(stage.image_size) * (stage.steps.iter().map(step).sum::<f64>() + images.all);
        self.stages.iter().map(stage).sum()
    }
}

/// Of a square image.
pub fn pixels(side: u32) -> f64 {
    f64::from(side) * f64::from(side)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_passes_by_images_by_pixels_over_all_stages() {
        let mut plan = super::super::recipe("simple-cnn").unwrap().plan;
        let step = |scope, epochs| Step::new(scope, 1e-3, epochs);
        plan.stages = vec![
            Stage { image_size: 32, steps: vec![step(Scope::Head, 9), step(Scope::All, 2)] },
            Stage { image_size: 64, steps: vec![step(Scope::All, 1)] },
        ];
        let images = ImageCounts { train: 100.0, selection: 10.0, all: 130.0 };
        let first = 32.0 * 32.0 * (110.0 + 2.0 * 310.0 + 130.0);
        assert_eq!(plan.cost(images), first + 64.0 * 64.0 * (310.0 + 130.0));
    }
}
