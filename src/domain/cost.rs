//! Compute cost of a plan, in a unit that makes stages of different image sizes comparable.

use super::{Scope, Stage, Step, TrainingPlan};

/// Cost of a training pass in forward passes: the backward pass computes two matrix products for each one of the forward pass.
const FORWARD_AND_BACKWARD: f64 = 3.0;

/// Numbers of images that a run processes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ImageCounts {
    /// Images of the training split.
    pub train: f64,
    /// Images of the selection split.
    pub selection: f64,
    /// Images of all splits.
    pub all: f64,
}

/// Use of the network body in the epochs of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyMode {
    /// Its features are computed once before the first epoch and cached.
    Cached,
    /// It is frozen, but runs forward in each epoch, because augmentation changes the images.
    Frozen,
    /// It is trained: forward and backward passes.
    Trained,
}

impl BodyMode {
    /// The mode of a step of the plan.
    pub fn of(plan: &TrainingPlan, step: &Step) -> Self {
        match step.scope {
            Scope::All => Self::Trained,
            Scope::Head if plan.augments_images() => Self::Frozen,
            Scope::Head => Self::Cached,
        }
    }

    /// Cost of one training image in an epoch, in forward passes.
    pub fn passes_per_training_image(self) -> f64 {
        match self {
            Self::Cached => 0.0,
            Self::Frozen => 1.0,
            Self::Trained => FORWARD_AND_BACKWARD,
        }
    }

    /// Cost of one image of the selection split in an epoch, in forward passes.
    pub fn passes_per_selection_image(self) -> f64 {
        if self == Self::Cached { 0.0 } else { 1.0 }
    }

    /// Cost of an epoch, in forward passes.
    pub fn passes_per_epoch(self, ImageCounts { train, selection, .. }: ImageCounts) -> f64 {
        self.passes_per_training_image() * train + self.passes_per_selection_image() * selection
    }
}

impl TrainingPlan {
    /// Compute cost in forward passes per pixel, if no step stops early. Epochs on cached features count as free: compared with the one pass
    /// of the body that computes the features their cost is negligible.
    pub fn cost(&self, images: ImageCounts) -> f64 {
        let step = |step: &Step| match BodyMode::of(self, step) {
            BodyMode::Cached => images.train + images.selection,
            body => {
                let range_test_images = f64::from(step.range_test.map_or(0, |test| test.batches * self.batch_size));
                f64::from(step.epochs) * body.passes_per_epoch(images)
                    + body.passes_per_training_image() * range_test_images
            }
        };
        // At its end a stage is evaluated on all splits.
        let stage = |stage: &Stage| pixels(stage.image_size) * (stage.steps.iter().map(step).sum::<f64>() + images.all);
        self.stages.iter().map(stage).sum()
    }
}

/// Number of pixels of a square image.
pub fn pixels(side: u32) -> f64 {
    f64::from(side) * f64::from(side)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_is_passes_times_images_times_pixels_over_all_stages() {
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
