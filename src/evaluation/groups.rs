//! Scores of an evaluation by groups of its images, and the gap between the worst and the best group.
//!
//! Small groups are shown but never ranked: their scores are mostly noise. The interval of a gap is the percentile interval of a
//! patient-clustered bootstrap of the difference between those two groups. They were chosen as the extremes among all pairs of ranked groups,
//! so the interval has the level 1 - 0.05 / number of pairs (Bonferroni; Dunn 1961, Journal of the American Statistical Association 56:52).
//! Where all resamples agree, the interval is the hybrid score interval of the two shares of patients (Newcombe 1998, Statistics in
//! Medicine 17:873, method 10).

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;
use utoipa::ToSchema;

use super::{
    Interval,
    audit::{age_band, size_band},
    clusters::Clusters,
    interval::wilson_of_share,
    scores::{resampled, scores},
};
use crate::domain::{ClassList, EvaluatedImage, GroupAttribute, Scores};

/// Minimum number of patients of a group that is ranked.
const MIN_PATIENTS: u64 = 20;

/// Attributes of an image by which it is grouped.
#[derive(Clone, Debug, Default)]
pub struct GroupAttributes {
    /// Source.
    pub source: Option<String>,
    /// Projection.
    pub view: Option<String>,
    /// Sex of the patient.
    pub sex: Option<String>,
    /// Age of the patient in years.
    pub age_years: Option<u32>,
    /// Width and height of the stored image in pixels.
    pub size: Option<(u32, u32)>,
    /// Format of the stored file.
    pub format: Option<String>,
    /// Model of the scanner.
    pub scanner_model: Option<String>,
}

impl GroupAttributes {
    /// Values sort in the order of their groups: numbers of sizes are padded.
    fn value(&self, by: GroupAttribute) -> Option<String> {
        match by {
            GroupAttribute::Source => self.source.clone(),
            GroupAttribute::View => self.view.clone(),
            GroupAttribute::Sex => self.sex.clone(),
            GroupAttribute::AgeBand => self.age_years.map(age_band),
            GroupAttribute::Size => self.size.map(size_band),
            GroupAttribute::Format => self.format.clone(),
            GroupAttribute::ScannerModel => self.scanner_model.clone(),
        }
    }
}

/// Scores of an evaluation by the values of an attribute.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Grouping {
    /// Attribute.
    pub by: GroupAttribute,
    /// Groups in order of their values; images without a value are the last group.
    pub groups: Vec<Group>,
    /// Gap in accuracy between the worst and the best ranked group; null if fewer than two groups are ranked.
    pub accuracy_gap: Option<Gap>,
    /// Gap in balanced accuracy (macro recall), between groups that have images of each class of the evaluation; null if there are fewer than
    /// two.
    pub balanced_accuracy_gap: Option<Gap>,
}

/// Images with the same value of an attribute.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Group {
    /// Value of the attribute; null for images of which it is unknown.
    pub value: Option<String>,
    /// Number of images.
    pub n: u64,
    /// Number of patients. An image without a patient id counts as a patient.
    pub patients: u64,
    /// True if there are fewer than 20 patients. A small group is never ranked.
    pub small: bool,
    /// Scores of the group.
    pub scores: Scores,
}

/// Difference of a score between the best and the worst ranked group.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Gap {
    /// Value of the worst group.
    pub worst: String,
    /// Value of the best group.
    pub best: String,
    /// Score of the best group minus score of the worst group, 0 to 1.
    pub value: f64,
    /// Lower bound of the 95 % interval, corrected for the choice among all pairs of ranked groups. Below 0, the groups may as well be
    /// equal.
    pub low: f64,
    /// Upper bound of the interval.
    pub high: f64,
    /// Number of ranked groups.
    pub ranked_groups: u64,
}

impl Grouping {
    /// Groups images by an attribute; one item of `attributes` for each image.
    ///
    /// # Panics
    /// If the lengths differ, or a class index or a number of probabilities does not agree with `classes`.
    pub fn new(
        by: GroupAttribute,
        images: &[EvaluatedImage],
        attributes: &[GroupAttributes],
        classes: &ClassList,
    ) -> Self {
        assert_eq!(images.len(), attributes.len(), "attributes of each image");
        let clusters = Clusters::new(images.iter().map(|image| image.patient));
        let mut members: BTreeMap<(bool, Option<String>), Vec<usize>> = BTreeMap::new();
        for (image, attributes) in attributes.iter().enumerate() {
            let value = attributes.value(by);
            members.entry((value.is_none(), value)).or_default().push(image);
        }
        let of_members = |((_, value), members): (&(bool, Option<String>), &Vec<usize>)| {
            let those: Vec<EvaluatedImage> = members.iter().map(|&image| images[image].clone()).collect();
            let patients = members.iter().map(|&image| clusters.of_image()[image]).collect::<HashSet<_>>().len() as u64;
            let small = patients < MIN_PATIENTS;
            let value = value.clone().map(|value| displayed(by, value));
            Group { value, n: members.len() as u64, patients, small, scores: scores(&those, classes) }
        };
        let groups: Vec<Group> = members.iter().map(of_members).collect();
        let candidates: Vec<Candidate<'_>> = groups
            .iter()
            .zip(members.values())
            .filter(|(group, _)| !group.small)
            .filter_map(|(group, members)| Some(Candidate { value: group.value.as_ref()?, group, members }))
            .collect();
        let present = present_classes(images.iter(), classes);
        let complete: Vec<Candidate<'_>> = candidates
            .iter()
            .filter(|candidate| present_classes(candidate.members.iter().map(|&i| &images[i]), classes) == present)
            .copied()
            .collect();
        let data = Data { images, clusters: &clusters, classes: classes.len() };
        let accuracy_gap = data.gap(&candidates, |group| group.scores.accuracy.value, Recalls::accuracy);
        let balanced_accuracy_gap =
            data.gap(&complete, |group| group.scores.balanced_accuracy.value, Recalls::balanced_accuracy);
        Self { by, groups, accuracy_gap, balanced_accuracy_gap }
    }
}

/// The value without the padding of sizes.
fn displayed(by: GroupAttribute, value: String) -> String {
    match by {
        GroupAttribute::Size => value.split_whitespace().collect::<Vec<_>>().join(" "),
        _ => value,
    }
}

/// Classes of which there are images.
fn present_classes<'a>(images: impl Iterator<Item = &'a EvaluatedImage>, classes: &ClassList) -> Vec<bool> {
    let mut present = vec![false; classes.len()];
    images.for_each(|image| present[image.truth] = true);
    present
}

/// A group that is ranked.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    value: &'a String,
    group: &'a Group,
    members: &'a [usize],
}

struct Data<'a> {
    images: &'a [EvaluatedImage],
    clusters: &'a Clusters,
    classes: usize,
}

impl Data<'_> {
    fn gap(
        &self,
        ranked: &[Candidate<'_>],
        score: impl Fn(&Group) -> Option<f64>,
        resampled_score: impl Fn(&Recalls) -> Option<f64> + Sync,
    ) -> Option<Gap> {
        let scored: Vec<_> = ranked.iter().filter_map(|of| Some((of, score(of.group)?))).collect();
        let (first, rest) = scored.split_first()?;
        let (mut worst, mut best) = (first, first);
        for candidate in rest {
            worst = if candidate.1 < worst.1 { candidate } else { worst };
            best = if candidate.1 >= best.1 { candidate } else { best };
        }
        let pairs = scored.len() * (scored.len() - 1) / 2;
        if pairs == 0 {
            return None;
        }
        let difference = |weights: &[u32]| {
            let of = |candidate: &Candidate<'_>| resampled_score(&self.recalls(candidate.members, weights));
            Some(of(best.0)? - of(worst.0)?)
        };
        let tail = 0.025 / pairs as f64;
        let differences: Vec<f64> = resampled(self.clusters, difference).into_iter().flatten().collect();
        let percentiles = (!differences.is_empty()).then(|| Interval::between_tails(differences, tail));
        let interval = percentiles
            .filter(|interval| interval.low < interval.high)
            .unwrap_or_else(|| newcombe((best.1, best.0.group.patients), (worst.1, worst.0.group.patients)));
        Some(Gap {
            worst: worst.0.value.clone(),
            best: best.0.value.clone(),
            value: best.1 - worst.1,
            low: interval.low,
            high: interval.high,
            ranked_groups: scored.len() as u64,
        })
    }

    fn recalls(&self, members: &[usize], weights: &[u32]) -> Recalls {
        let mut recalls = Recalls(vec![(0, 0); self.classes]);
        for &member in members {
            let (image, weight) = (&self.images[member], u64::from(weights[member]));
            let (correct, all) = &mut recalls.0[image.truth];
            *all += weight;
            *correct += if image.predicted == image.truth { weight } else { 0 };
        }
        recalls
    }
}

/// Numbers of correct images and of all images, by class.
struct Recalls(Vec<(u64, u64)>);

impl Recalls {
    /// `None` without images.
    fn accuracy(&self) -> Option<f64> {
        let (correct, all) = self.0.iter().fold((0, 0), |sum, class| (sum.0 + class.0, sum.1 + class.1));
        (all > 0).then(|| correct as f64 / all as f64)
    }

    /// Mean recall of the classes that have images; `None` without images.
    fn balanced_accuracy(&self) -> Option<f64> {
        let recalls: Vec<f64> =
            self.0.iter().filter(|class| class.1 > 0).map(|class| class.0 as f64 / class.1 as f64).collect();
        (!recalls.is_empty()).then(|| recalls.iter().sum::<f64>() / recalls.len() as f64)
    }
}

/// Newcombe's interval of the difference of two shares, each with its number of patients.
fn newcombe((best, n_best): (f64, u64), (worst, n_worst): (f64, u64)) -> Interval {
    let ((best_low, best_high), (worst_low, worst_high)) =
        (wilson_of_share(best, n_best), wilson_of_share(worst, n_worst));
    let difference = best - worst;
    Interval {
        low: difference - (best - best_low).hypot(worst_high - worst),
        high: difference + (best_high - best).hypot(worst - worst_low),
    }
}

#[cfg(test)]
mod tests;
