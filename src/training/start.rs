//! Before the first batch: what cannot be trained is refused, and the network is made.

use burn::module::Module;

use super::{TrainingError, TrainingJob};
use crate::{
    domain::{BlockVariant, InitialWeights, ModelSpec, Normalisation, Split},
    nn::{self, Network},
};

/// Refuses plans and data that cannot be trained on, with a message that names the fix.
pub(super) fn check(job: &TrainingJob) -> Result<(), TrainingError> {
    let refuse = |why: String| Err(TrainingError::Data(why));
    if let Some(problem) = job.plan.validate().first() {
        return refuse(format!("plan {}: {}", problem.pointer, problem.detail));
    }
    if let Some(sample) = job.samples.iter().find(|sample| sample.class >= job.classes.len()) {
        return refuse(format!("image {} is of class {} of {}", sample.key, sample.class, job.classes.len()));
    }
    for (class, name) in job.classes.names().iter().enumerate() {
        if !job.samples.iter().any(|sample| sample.split == Split::Train && sample.class == class) {
            return refuse(format!("class {name} has no image in the train split: label some or leave the class out"));
        }
    }
    let selection = job.plan.selection.split;
    if !job.samples.iter().any(|sample| sample.split == selection) {
        return refuse(format!(
            "the {selection} split, which is to choose the best epoch, has no images: assign some to it or set \
             selection.split to a split that has"
        ));
    }
    Ok(())
}

/// The network the first stage starts from, on the device without autodiff, and what it is.
pub(super) fn network(job: &TrainingJob) -> Result<(Network, ModelSpec), TrainingError> {
    let network = match job.plan.initial_weights {
        InitialWeights::Random => {
            let spec = spec(job, BlockVariant::V1, unit_range());
            (Network::random(&spec, job.seed, &job.device), spec)
        }
        InitialWeights::ImageNet => {
            let missing = || TrainingError::Data("the plan starts from ImageNet weights and there are none".into());
            let body = job.body.as_deref().ok_or_else(missing)?;
            let (variant, normalisation) = nn::body_spec(body)?;
            let spec = spec(job, variant, normalisation);
            (Network::pretrained(&spec, body, job.seed, &job.device)?, spec)
        }
    };
    Ok((network.0.valid(), network.1))
}

fn spec(job: &TrainingJob, block_variant: BlockVariant, normalisation: Normalisation) -> ModelSpec {
    ModelSpec {
        architecture: job.plan.architecture,
        block_variant,
        classes: job.classes.clone(),
        image_size: job.plan.stages[0].image_size,
        normalisation,
        dropout: job.plan.dropout,
    }
}

/// Grey levels as 0 to 1: what random weights are drawn for.
fn unit_range() -> Normalisation {
    Normalisation { scale: 1.0 / 255.0, mean: [0.0; 3], std: [1.0; 3] }
}
