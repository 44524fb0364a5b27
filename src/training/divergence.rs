//! Detection of runs that diverged: losses far above that of guessing, and weights beyond any useful size.

use super::{TrainingError, position::EpochIndex};
use crate::{domain::EpochScores, nn};

/// Maximum training loss of an epoch, as a multiple of ln(classes), the loss of guessing. A loss of 100 ln(3) means that the true class gets a
/// probability of 10⁻⁴⁸ on average.
const MAX_TRAINING_LOSS: f64 = 100.0;

/// Maximum loss on the selection split, as a multiple of ln(classes). It is larger, because in the first epochs the running statistics of
/// batch normalisation lag behind the weights.
const MAX_SELECTION_LOSS: f64 = 10_000.0;

/// Maximum absolute value of a weight. Those of trained networks are below 100.
const MAX_WEIGHT: f32 = 1e6;

/// Refuses to continue after an epoch that diverged. `model` is the model file after the epoch.
///
/// # Errors
/// [`TrainingError::Diverged`].
pub(super) fn check(
    EpochIndex { stage, step, epoch }: EpochIndex,
    classes: usize,
    train: EpochScores,
    selection: EpochScores,
    model: &[u8],
) -> Result<(), TrainingError> {
    let reason = excessive_loss(classes, train, selection);
    let reason = match reason {
        None => nn::excessive_weight(model, MAX_WEIGHT)?,
        some => some,
    };
    match reason {
        None => Ok(()),
        Some(reason) => Err(TrainingError::Diverged { stage, step, epoch, reason }),
    }
}

fn excessive_loss(classes: usize, train: EpochScores, selection: EpochScores) -> Option<String> {
    let guessing = (classes as f64).ln();
    let splits = [("training", train.loss, MAX_TRAINING_LOSS), ("selection", selection.loss, MAX_SELECTION_LOSS)];
    // A loss that is not a number is excessive too.
    let (name, loss, multiple) =
        splits.into_iter().find(|(_, loss, multiple)| loss.is_nan() || *loss > multiple * guessing)?;
    Some(format!(
        "the {name} loss of {loss:.3e} is more than {multiple} times that of guessing (ln({classes}) = {guessing:.3})"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(loss: f64) -> EpochScores {
        EpochScores { loss, accuracy: 0.5, macro_f1: None }
    }

    #[test]
    fn losses_beyond_a_multiple_of_guessing_are_excessive() {
        let of = |train, selection| excessive_loss(3, scores(train), scores(selection));
        assert_eq!(of(109.0, 10_986.0), None);
        let train = of(3.1e26, 1.0).unwrap();
        assert_eq!(train, "the training loss of 3.100e26 is more than 100 times that of guessing (ln(3) = 1.099)");
        assert!(of(110.0, 1.0).is_some());
        assert!(of(1.0, 10_987.0).unwrap().starts_with("the selection loss of 1.099e4"));
        assert!(of(1.0, f64::NAN).is_some());
    }
}
