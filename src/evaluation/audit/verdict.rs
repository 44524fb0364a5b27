//! Conclusions of the audit in sentences: what a score on the data set can and cannot mean.

use super::{Accuracy, Association, DatasetReport, Shortcut, association::UNKNOWN};
use crate::{
    domain::Split,
    evaluation::{Estimate, wilson},
    format::p_value,
};

/// Example accuracy whose interval illustrates the precision of the test split.
const EXAMPLE_ACCURACY: f64 = 0.9;

/// Sentences, most serious first.
pub(super) fn of(report: &DatasetReport) -> Vec<String> {
    let parts = [leakage(report), labels(report), baselines(report), sources(report), precision(report)];
    let last = "Training and test images come from the same collections: a score on this split does not show how a \
                model performs in another hospital, and is no evidence of clinical value.";
    parts.into_iter().flatten().chain([last.to_owned()]).collect()
}

fn leakage(report: &DatasetReport) -> Vec<String> {
    let mut sentences: Vec<String> = report
        .leakage
        .iter()
        .map(|finding| format!("{}. A run on this data set must acknowledge \"{}\".", finding.detail, finding.name))
        .collect();
    let assigned = report.splits.iter().filter(|count| count.split.is_some()).count();
    if sentences.is_empty() && assigned > 1 {
        sentences.push(
            "No known patient and no near-duplicate occurs in more than one split: test scores are measured on patients and \
             images that training has not seen."
                .into(),
        );
    }
    if assigned < 2 {
        sentences.push("The images are not divided into splits yet: no test images are set aside.".into());
    }
    if report.without_patient > 0 && report.images > 0 {
        sentences.push(format!(
            "{} of {} images have no patient id: patient overlap between splits cannot be checked for them.",
            report.without_patient, report.images
        ));
    }
    sentences
}

fn labels(report: &DatasetReport) -> Vec<String> {
    let several = report.duplicates.with_several_classes;
    let groups = (several > 0).then(|| {
        format!(
            "{several} {} labels of different classes: at least one label in each is wrong, and no model can \
             classify all of them correctly.",
            if several == 1 { "group of near-duplicates has" } else { "groups of near-duplicates have" }
        )
    });
    let wrong = report.labels.contradictions.count;
    let rows = (wrong > 0).then(|| {
        let rows = if wrong == 1 { "row contradicts" } else { "rows contradict" };
        format!("{wrong} {rows} another row for the same file: the first row was used; which is correct is unknown.")
    });
    groups.into_iter().chain(rows).collect()
}

/// Shortcut baselines that a network must beat.
fn baselines(report: &DatasetReport) -> Vec<String> {
    let Some(best) = report.shortcuts.first() else {
        return vec!["There are too few labelled images to compute shortcut baselines.".into()];
    };
    let significant = |shortcut: &&Shortcut| {
        let Accuracy { accuracy, majority, .. } = shortcut.cross_validated;
        accuracy.low > majority.value
    };
    let Accuracy { majority, .. } = best.cross_validated;
    let better: Vec<&Shortcut> = report.shortcuts.iter().filter(significant).collect();
    if better.is_empty() {
        return vec![format!(
            "No shortcut baseline (file properties, origin, thumbnail) beats the majority-class baseline, whose accuracy is \
             {}: a higher score is not explained by these shortcuts.",
            percent(majority.value)
        )];
    }
    let each: Vec<String> = better
        .iter()
        .map(|shortcut| format!("{} from {}", between(shortcut.cross_validated.accuracy), shortcut.features))
        .collect();
    let test = best.on_test.map(|test| {
        format!(
            " Fitted on train and scored on test, as a network is, the best of them reaches {} (majority class {}).",
            between(test.accuracy),
            percent(test.majority.value)
        )
    });
    vec![format!(
        "Shortcut baselines reach an accuracy of {} without looking at pathology; the majority-class baseline reaches {}. \
         A network that does not score higher may have learnt nothing but the origin of the images; one that scores \
         higher has learnt more, but part of its score may still come from shortcuts.{}",
        each.join(", "),
        percent(majority.value),
        test.unwrap_or_default()
    )]
}

/// Share of the data from sources with a single class.
fn sources(report: &DatasetReport) -> Vec<String> {
    let Some(source) = report.attributes.iter().find(|one| one.attribute == "source") else { return Vec::new() };
    let of_row = |row: &super::AssociationRow| row.images.values().sum::<u64>();
    let known = || source.rows.iter().filter(|row| row.value != UNKNOWN);
    let single = known().filter(|row| row.images.len() == 1);
    let (names, images) = single.fold((Vec::new(), 0), |(mut names, images), row| {
        names.push(row.value.as_str());
        (names, images + of_row(row))
    });
    let Association { share_of_class, p, .. } = source;
    let mut sentences = vec![format!(
        "The source explains {} of the entropy of the class beyond chance (p {}).",
        percent(*share_of_class),
        p_value(*p)
    )];
    if images > 0 {
        sentences.push(format!(
            "{} of the images come from sources with a single class ({}): for these, recognising the source is \
             enough to predict the class.",
            percent(images as f64 / source.known.max(1) as f64),
            names.join(", ")
        ));
    }
    sentences
}

/// Precision that the number of test patients allows.
fn precision(report: &DatasetReport) -> Vec<String> {
    let Some(test) = report.splits.iter().find(|count| count.split == Some(Split::Test)) else { return Vec::new() };
    let (images, patients): (u64, u64) = (test.images.values().sum(), test.all_patients);
    let (low, high) = wilson((EXAMPLE_ACCURACY * patients as f64).round() as u64, patients);
    vec![format!(
        "There are {images} test images of {patients} patients: an accuracy of {} on them has a 95 % interval of \
         about {} to {} if the images of a patient are fully correlated. Smaller differences between models cannot be resolved.",
        percent(EXAMPLE_ACCURACY),
        percent(low),
        percent(high)
    )]
}

pub(super) fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// 76.1 % (73.4 to 78.6 %)
pub(super) fn between(Estimate { value, low, high }: Estimate) -> String {
    format!("{} ({:.1} to {})", percent(value), low * 100.0, percent(high))
}
