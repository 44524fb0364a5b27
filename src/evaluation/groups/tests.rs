//! Groups with scores computed by hand, and the coverage of the interval of a gap.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::domain::Sha256;

/// `correct` of `n` images of a source, each of another patient. The classes take turns.
fn images_of(source: Option<&str>, n: usize, correct: usize) -> Vec<(EvaluatedImage, GroupAttributes)> {
    let image = |at: usize| {
        let truth = at % 2;
        let predicted = if at < correct { truth } else { 1 - truth };
        let probabilities = (0..2).map(|class| if class == predicted { 0.75 } else { 0.25 }).collect();
        let sha256 = Sha256::of(format!("{source:?} {at}").as_bytes());
        let attributes = GroupAttributes { source: source.map(str::to_owned), ..Default::default() };
        (EvaluatedImage { sha256, patient: None, truth, predicted, probabilities }, attributes)
    };
    (0..n).map(image).collect()
}

fn classes() -> ClassList {
    ClassList::new(vec!["normal".into(), "COVID-19".into()]).unwrap()
}

fn by_source(sets: &[Vec<(EvaluatedImage, GroupAttributes)>]) -> Grouping {
    let (images, attributes): (Vec<_>, Vec<_>) = sets.concat().into_iter().unzip();
    Grouping::new(GroupAttribute::Source, &images, &attributes, &classes())
}

#[test]
fn ranks_groups_and_shows_small_and_unknown_ones_without_ranking_them() {
    let grouping = by_source(&[
        images_of(Some("b"), 40, 30),
        images_of(None, 30, 30),
        images_of(Some("c"), 19, 0),
        images_of(Some("a"), 20, 18),
    ]);
    let rows: Vec<_> =
        grouping.groups.iter().map(|group| (group.value.as_deref(), group.n, group.patients, group.small)).collect();
    let expected =
        [(Some("a"), 20, 20, false), (Some("b"), 40, 40, false), (Some("c"), 19, 19, true), (None, 30, 30, false)];
    assert_eq!(rows, expected);
    let accuracies: Vec<_> = grouping.groups.iter().map(|group| group.scores.accuracy.value).collect();
    assert_eq!(accuracies, [Some(0.9), Some(0.75), Some(0.0), Some(1.0)]);
    let gap = grouping.accuracy_gap.unwrap();
    assert_eq!((gap.worst.as_str(), gap.best.as_str(), gap.ranked_groups), ("b", "a", 2));
    assert!((gap.value - 0.15).abs() < 1e-12);
    // Standard error: sqrt(0.9 * 0.1 / 20 + 0.75 * 0.25 / 40) = 0.096.
    assert!(
        (gap.low - (0.15 - 1.96 * 0.096)).abs() < 0.04 && (gap.high - (0.15 + 1.96 * 0.096)).abs() < 0.04,
        "{gap:?}"
    );
}

#[test]
fn one_ranked_group_has_no_gap() {
    let grouping = by_source(&[images_of(Some("a"), 30, 20), images_of(Some("b"), 5, 5)]);
    assert_eq!((grouping.accuracy_gap, grouping.balanced_accuracy_gap), (None, None));
    let none = by_source(&[]);
    assert_eq!((none.groups.len(), none.accuracy_gap), (0, None));
}

#[test]
fn images_of_one_patient_do_not_make_a_group_large() {
    let mut images = images_of(Some("a"), 100, 80);
    for (at, (image, _)) in images.iter_mut().enumerate() {
        image.patient = Some(at as u32 % 19);
    }
    let grouping = by_source(&[images, images_of(Some("b"), 40, 30)]);
    assert_eq!((grouping.groups[0].patients, grouping.groups[0].small), (19, true));
    assert_eq!(grouping.accuracy_gap, None);
}

#[test]
fn balanced_accuracy_is_compared_between_groups_with_all_classes() {
    let only_normal = |(image, _): &(EvaluatedImage, GroupAttributes)| image.truth == 0;
    let mut one_class = images_of(Some("c"), 60, 0);
    one_class.retain(only_normal);
    let grouping = by_source(&[images_of(Some("a"), 40, 40), images_of(Some("b"), 40, 20), one_class]);
    assert_eq!(grouping.accuracy_gap.unwrap().worst, "c");
    let gap = grouping.balanced_accuracy_gap.unwrap();
    assert_eq!((gap.worst.as_str(), gap.best.as_str(), gap.value, gap.ranked_groups), ("b", "a", 0.5, 2));
}

#[test]
fn groups_without_errors_have_the_interval_of_newcombe() {
    let gap = by_source(&[images_of(Some("a"), 40, 40), images_of(Some("b"), 40, 40)]).accuracy_gap.unwrap();
    // Wilson's interval of 40 of 40 begins at 40 / (40 + 1.96²) = 0.91238.
    assert!((gap.low + 0.08762).abs() < 1e-4 && (gap.high - 0.08762).abs() < 1e-4, "{gap:?}");
    assert_eq!(gap.value, 0.0);
}

/// Five equal groups: the extremes always differ, and an interval that ignored the choice would often exclude 0.
#[test]
fn interval_of_a_gap_between_equal_groups_contains_zero() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let (trials, mut covered) = (60, 0);
    for _ in 0..trials {
        let sets: Vec<_> = ["a", "b", "c", "d", "e"]
            .map(|source| {
                let mut images = images_of(Some(source), 60, 60);
                for (image, _) in &mut images {
                    let correct = rng.random_bool(0.8);
                    image.predicted = if correct { image.truth } else { 1 - image.truth };
                }
                images
            })
            .into();
        covered += u32::from(by_source(&sets).accuracy_gap.unwrap().low <= 0.0);
    }
    assert!(covered >= 54, "{covered} of {trials}");
}

#[test]
fn groups_by_each_attribute() {
    let attributes = GroupAttributes {
        source: Some("rsna".into()),
        view: Some("PA".into()),
        sex: Some("female".into()),
        age_years: Some(61),
        size: Some((800, 1000)),
        format: Some("png".into()),
        scanner_model: Some("X1".into()),
    };
    let expected = [
        (GroupAttribute::Source, "rsna"),
        (GroupAttribute::View, "PA"),
        (GroupAttribute::Sex, "female"),
        (GroupAttribute::AgeBand, "60 to 79"),
        (GroupAttribute::Size, "512 to 1023 px"),
        (GroupAttribute::Format, "png"),
        (GroupAttribute::ScannerModel, "X1"),
    ];
    for (by, value) in expected {
        assert_eq!(attributes.value(by).map(|found| displayed(by, found)).as_deref(), Some(value));
        assert_eq!(GroupAttributes::default().value(by), None);
    }
}
