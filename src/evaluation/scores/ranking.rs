//! Areas under the ROC and the precision-recall curve.

/// Images in descending order of a probability.
pub(super) struct Ranking(Vec<Ranked>);

struct Ranked {
    image: u32,
    is_positive: bool,
    /// True if the next image has a lower probability.
    ends_tie: bool,
}

/// Areas under both curves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Areas {
    /// Area under the ROC curve: probability that a positive image is ranked above a negative one, where a tie counts half
    /// (Hanley & McNeil 1982, Radiology 143:29).
    pub(super) roc: f64,
    /// Average precision: sum over the thresholds of precision times the increase of recall.
    pub(super) precision_recall: f64,
}

impl Ranking {
    /// A ranking of (image, probability, true if the image is positive).
    pub(super) fn new(mut images: Vec<(u32, f32, bool)>) -> Self {
        images.sort_by(|a, b| b.1.total_cmp(&a.1));
        let next = images.iter().skip(1).map(|(_, probability, _)| Some(*probability)).chain([None]);
        let ranked = images.iter().zip(next).map(|(&(image, probability, is_positive), next)| Ranked {
            image,
            is_positive,
            ends_tie: next != Some(probability),
        });
        Self(ranked.collect())
    }

    /// Areas where each image counts as often as its weight says; `None` if there are no positive or no negative images.
    pub(super) fn areas(&self, weights: &[u32]) -> Option<Areas> {
        let (mut positives, mut negatives) = (0_u64, 0_u64); // before this tie
        let (mut tied_positives, mut tied_negatives) = (0_u64, 0_u64);
        let (mut ordered_pairs, mut precision_sum) = (0.0, 0.0);
        for ranked in &self.0 {
            let weight = u64::from(weights[ranked.image as usize]);
            tied_positives += if ranked.is_positive { weight } else { 0 };
            tied_negatives += if ranked.is_positive { 0 } else { weight };
            if ranked.ends_tie {
                ordered_pairs += tied_negatives as f64 * (positives as f64 + tied_positives as f64 / 2.0);
                positives += tied_positives;
                negatives += tied_negatives;
                if tied_positives > 0 {
                    precision_sum += tied_positives as f64 * positives as f64 / (positives + negatives) as f64;
                }
                (tied_positives, tied_negatives) = (0, 0);
            }
        }
        (positives > 0 && negatives > 0).then(|| Areas {
            roc: ordered_pairs / (positives as f64 * negatives as f64),
            precision_recall: precision_sum / positives as f64,
        })
    }
}
