//! Estimate of the memory that a plan needs.
//!
//! Training keeps the activations of the whole network for the backward pass, so that memory grows with the number of pixels of a batch. The
//! constants are peak resident memory measured on the CPU with `thorax bench` (`benches/README.md`): they predict 638 to 1,860 MiB for
//! ResNet-50 at 128 and 224 px with batches of 8 to 32 images to within 4 %. On a GPU, whose kernels keep more activations, the estimate is
//! a lower bound.

use super::{Architecture, BodyMode, TrainingPlan, cost::pixels};

const MIB: f64 = 1024.0 * 1024.0;

/// Memory of a pass over a batch.
struct PassMemory {
    /// Program, weights, gradients and optimizer, in MiB.
    fixed_mib: f64,
    /// Activations, in bytes per pixel of the batch.
    per_pixel: f64,
}

impl PassMemory {
    fn training(architecture: Architecture) -> Self {
        let (fixed_mib, per_pixel) = match architecture {
            Architecture::ResNet50 => (428.0, 1870.0),
            Architecture::Vgg16 => (338.0, 1780.0),
            Architecture::SimpleCnn => (60.0, 460.0),
        };
        Self { fixed_mib, per_pixel }
    }

    /// Inference keeps the activations of one layer at a time.
    fn inference(architecture: Architecture) -> Self {
        let (fixed_mib, per_pixel) = match architecture {
            Architecture::ResNet50 => (150.0, 230.0),
            Architecture::Vgg16 => (120.0, 130.0),
            Architecture::SimpleCnn => (60.0, 35.0),
        };
        Self { fixed_mib, per_pixel }
    }

    fn bytes(&self, pixels: f64) -> f64 {
        self.fixed_mib * MIB + self.per_pixel * pixels
    }
}

/// The stage of a plan that needs the most memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MemoryEstimate {
    /// Number of the stage, from 1.
    pub stage: u32,
    /// Side of its images in pixels.
    pub image_size: u32,
    /// Estimated peak memory in bytes.
    pub bytes: u64,
}

impl TrainingPlan {
    /// The stage that needs the most memory; none for a plan without stages.
    pub fn memory_estimate(&self) -> Option<MemoryEstimate> {
        let estimate = |(number, stage): (u32, &super::Stage)| {
            let trains_body = stage.steps.iter().any(|step| BodyMode::of(self, step) == BodyMode::Trained);
            let pass = if trains_body { PassMemory::training } else { PassMemory::inference }(self.architecture);
            let bytes = pass.bytes(f64::from(self.batch_size) * pixels(stage.image_size)) as u64;
            MemoryEstimate { stage: number, image_size: stage.image_size, bytes }
        };
        (1..).zip(&self.stages).map(estimate).max_by_key(|estimate| estimate.bytes)
    }

    /// Reason why the plan does not fit in `memory` bytes of a device; none if it fits.
    pub fn exceeds_memory(&self, memory: u64) -> Option<String> {
        let estimate = self.memory_estimate().filter(|need| need.bytes > memory)?;
        let fits = |batch: &u32| {
            let smaller = Self { batch_size: *batch, ..self.clone() };
            smaller.memory_estimate().is_some_and(|need| need.bytes <= memory)
        };
        // The need grows with the batch size.
        let largest = (1..self.batch_size).collect::<Vec<_>>().partition_point(fits);
        let advice = match largest {
            0 | 1 => "reduce image_size".to_owned(),
            batch => format!("reduce batch_size to at most {batch}, or image_size"),
        };
        Some(format!("{}, but the device has {:.1} GiB: {advice}", self.need(estimate), gib(memory)))
    }

    /// Error of a run whose device could not allocate a buffer of `bytes` bytes.
    pub fn allocation_failure(&self, bytes: u64) -> String {
        let need = self.memory_estimate().map(|estimate| format!(" By estimate {}.", self.need(estimate)));
        format!(
            "the device is out of memory: it could not allocate {:.2} GiB.{} Reduce batch_size or image_size, or end other programs \
             that use the device and resume the run from its last checkpoint",
            gib(bytes),
            need.unwrap_or_default()
        )
    }

    fn need(&self, MemoryEstimate { stage, image_size, bytes }: MemoryEstimate) -> String {
        format!("stage {stage} needs about {:.1} GiB for {} images of {image_size} px", gib(bytes), self.batch_size)
    }
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / MIB / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Scope, Stage, Step, recipe};

    fn plan(architecture: Architecture, scope: Scope, batch_size: u32, image_size: u32) -> TrainingPlan {
        let stages = vec![Stage { image_size, steps: vec![Step::new(scope, 1e-3, 1)] }];
        TrainingPlan { architecture, batch_size, stages, ..recipe("covid-resnet").unwrap().plan }
    }

    /// Peak memory in MiB, measured with `thorax bench` on two cores of a Xeon with AMX.
    #[test]
    fn estimates_agree_with_measured_peaks() {
        use Architecture::*;
        for (architecture, scope, batch, side, measured) in [
            (ResNet50, Scope::All, 8, 128, 638.0),
            (ResNet50, Scope::All, 32, 128, 1328.0),
            (ResNet50, Scope::All, 8, 224, 1144.0),
            (ResNet50, Scope::All, 16, 224, 1860.0),
            (Vgg16, Scope::All, 8, 128, 560.0),
            (Vgg16, Scope::All, 8, 224, 1019.0),
            (SimpleCnn, Scope::All, 8, 224, 236.0),
            (SimpleCnn, Scope::All, 32, 224, 764.0),
            (ResNet50, Scope::Head, 32, 224, 498.0),
            (ResNet50, Scope::Head, 8, 512, 701.0),
        ] {
            let plan = TrainingPlan { augmentation: Default::default(), ..plan(architecture, scope, batch, side) };
            let estimated = plan.memory_estimate().unwrap().bytes as f64 / MIB;
            assert!((estimated / measured - 1.0).abs() < 0.15, "{architecture} {side} px: {estimated}, not {measured}");
        }
    }

    #[test]
    fn a_plan_that_does_not_fit_is_refused_with_the_estimate_and_the_batch_size_that_fits() {
        let mut large = plan(Architecture::ResNet50, Scope::All, 512, 1024);
        let why = large.exceeds_memory(24 << 30).unwrap();
        assert!(
            why.starts_with("stage 1 needs about 935.4 GiB for 512 images of 1024 px, but the device has 24.0 GiB"),
            "{why}"
        );
        assert!(why.ends_with("reduce batch_size to at most 12, or image_size"), "{why}");
        large.batch_size = 12;
        assert_eq!(large.exceeds_memory(24 << 30), None);
        assert!(large.exceeds_memory(1 << 30).unwrap().ends_with("reduce image_size"));
    }

    #[test]
    fn a_failed_allocation_is_reported_with_the_estimate() {
        let why = plan(Architecture::ResNet50, Scope::All, 32, 224).allocation_failure(3 << 29);
        let expected = "the device is out of memory: it could not allocate 1.50 GiB. By estimate stage 1 needs about 3.2 GiB for 32 images \
                        of 224 px. Reduce batch_size";
        assert!(why.starts_with(expected), "{why}");
    }
}
