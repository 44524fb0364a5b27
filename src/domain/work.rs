//! How much work a plan is, in a unit in which stages of different sizes compare.

use super::{Scope, Stage, Step, TrainingPlan};

/// A training pass in forward passes: the backward pass computes two products where the forward pass computes one.
pub const FORWARD_AND_BACKWARD: f64 = 3.0;

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

impl TrainingPlan {
    /// Its work in forward passes over one pixel. Epochs of a head step count nothing: beside the one pass of the body they
    /// take no time worth estimating.
    pub fn work(&self, images: ImageCounts) -> f64 {
        let ImageCounts { train, selection, all } = images;
        let step = |step: &Step| match step.scope {
            Scope::Head => train + selection,
            Scope::All => f64::from(step.epochs) * (FORWARD_AND_BACKWARD * train + selection),
        };
        // At its end a stage is evaluated on every split.
        let stage = |stage: &Stage| pixels(stage.image_size) * (stage.steps.iter().map(step).sum::<f64>() + all);
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
        let step = |scope, epochs| Step { scope, learning_rate: 1e-3, epochs };
        plan.stages = vec![
            Stage { image_size: 32, steps: vec![step(Scope::Head, 9), step(Scope::All, 2)] },
            Stage { image_size: 64, steps: vec![step(Scope::All, 1)] },
        ];
        let images = ImageCounts { train: 100.0, selection: 10.0, all: 130.0 };
        let first = 32.0 * 32.0 * (110.0 + 2.0 * 310.0 + 130.0);
        assert_eq!(plan.work(images), first + 64.0 * 64.0 * (310.0 + 130.0));
    }
}
