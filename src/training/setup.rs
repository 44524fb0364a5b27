//! Setup of a run: validates the job and creates the initial network.

use burn::module::Module;

use super::{TrainingError, TrainingJob};
use crate::{
    domain::{BlockVariant, InitialWeights, ModelSpec, Normalisation, Split},
    nn::{self, Network},
};

/// Refuses invalid plans and data sets that cannot be trained on. Messages say what to do.
pub(super) fn validate(job: &TrainingJob) -> Result<(), TrainingError> {
    let refuse = |why: String| Err(TrainingError::Data(why));
    if let Some(problem) = job.plan.validate().first() {
        return refuse(format!("plan {}: {}", problem.pointer, problem.detail));
    }
    if let Some(sample) = job.samples.iter().find(|sample| sample.class >= job.classes.len()) {
        return refuse(format!(
            "image {} has class index {}, but there are {} classes",
            sample.key,
            sample.class,
            job.classes.len()
        ));
    }
    for (class, name) in job.classes.names().iter().enumerate() {
        if !job.samples.iter().any(|sample| sample.split == Split::Train && sample.class == class) {
            return refuse(format!("class {name} has no image in the train split: label some, or remove the class"));
        }
    }
    let selection = job.plan.selection.split;
    if !job.samples.iter().any(|sample| sample.split == selection) {
        return refuse(format!(
            "the {selection} split, which selects the best epoch, has no images: assign some to it, or set selection.split to \
             a split with images"
        ));
    }
    Ok(())
}

/// The network that the first stage starts from, in inference mode, and its specification.
pub(super) fn initial_network(job: &TrainingJob) -> Result<(Network, ModelSpec), TrainingError> {
    let network = match job.plan.initial_weights {
        InitialWeights::Random => {
            let spec = spec(job, BlockVariant::V1, unit_range());
            (Network::random(&spec, job.seed, &job.device), spec)
        }
        InitialWeights::ImageNet => {
            let missing = || TrainingError::Data("the plan starts from ImageNet weights, but none are imported".into());
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

/// Scales grey levels to 0 to 1, for which random weights are initialised.
fn unit_range() -> Normalisation {
    Normalisation { scale: 1.0 / 255.0, mean: [0.0; 3], std: [1.0; 3] }
}
