//! What a score on a data set can and cannot mean, in words.

use super::{Accuracy, Association, DatasetReport, Shortcut, association::UNKNOWN, markdown::probability};
use crate::{
    domain::Split,
    evaluation::{Estimate, wilson},
};

/// An accuracy whose interval on the test images is told.
const EXAMPLE: f64 = 0.9;

/// Sentences, the gravest first.
pub(super) fn of(report: &DatasetReport) -> Vec<String> {
    let parts = [leakage(report), labels(report), bar(report), sources(report), precision(report)];
    let last = "Training and test images come from the same collections: no score on this split says how a model \
                does in another hospital, and none is evidence of clinical use.";
    parts.into_iter().flatten().chain([last.to_owned()]).collect()
}

fn leakage(report: &DatasetReport) -> Vec<String> {
    let mut said: Vec<String> = report
        .leakage
        .iter()
        .map(|finding| {
            format!(
                "{}. Scores on this split are better than they would be on new patients; a run on it has to \
                 acknowledge \"{}\".",
                finding.detail, finding.name
            )
        })
        .collect();
    let placed = report.splits.iter().filter(|count| count.split.is_some()).count();
    if said.is_empty() && placed > 1 {
        said.push(
            "No known patient and no picture was found in more than one split: a test score is of people and pictures \
             that training has not seen."
                .into(),
        );
    }
    if placed < 2 {
        said.push("The images are not in different splits yet: nothing is set aside to score on.".into());
    }
    if report.without_patient > 0 && report.images > 0 {
        said.push(format!(
            "{} of {} images have no patient id: whether their patients are in several splits cannot be checked.",
            report.without_patient, report.images
        ));
    }
    said
}

fn labels(report: &DatasetReport) -> Vec<String> {
    let several = report.duplicates.with_several_classes;
    let groups = (several > 0).then(|| {
        format!(
            "{several} {} the same under different classes: at least one label of each is wrong, and no model can be \
             right about all of them.",
            if several == 1 { "group of images looks" } else { "groups of images look" }
        )
    });
    let wrong = report.labels.contradictions.count;
    let rows = (wrong > 0).then(|| {
        let rows = if wrong == 1 { "row contradicts" } else { "rows contradict" };
        format!("{wrong} {rows} another row about the same file: the first was kept, and which is right is not known.")
    });
    groups.into_iter().chain(rows).collect()
}

/// What a network has to beat.
fn bar(report: &DatasetReport) -> Vec<String> {
    let Some(best) = report.shortcuts.first() else {
        return vec![
            "There are too few labelled images to measure what predicts their class without any disease.".into(),
        ];
    };
    let clear = |shortcut: &&Shortcut| {
        let Accuracy { accuracy, majority, .. } = shortcut.cross_validated;
        accuracy.low > majority.value
    };
    let Accuracy { majority, .. } = best.cross_validated;
    let told: Vec<&Shortcut> = report.shortcuts.iter().filter(clear).collect();
    if told.is_empty() {
        return vec![format!(
            "Neither the origin of the files nor a small thumbnail predicts the class better than always calling the \
             commonest one, which is right in {}: a score above that is of something else.",
            percent(majority.value)
        )];
    }
    let each: Vec<String> = told
        .iter()
        .map(|shortcut| format!("{} from {}", between(shortcut.cross_validated.accuracy), shortcut.features))
        .collect();
    let test = best.on_test.map(|test| {
        format!(
            " Learnt from train and scored on test, as a network is, the best of them has {} (majority {}).",
            between(test.accuracy),
            percent(test.majority.value)
        )
    });
    vec![format!(
        "Without any knowledge of disease the class is predicted rightly in {}; always calling the commonest class is \
         right in {}. A network that scores no better has shown nothing that the origin of the images does not \
         explain; one that scores better has learnt something more, but its whole score is not recognition of \
         disease.{}",
        each.join(", "),
        percent(majority.value),
        test.unwrap_or_default()
    )]
}

/// How much of the data is of sources that have one class only.
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
    let mut said = vec![format!(
        "The source tells {} of what there is to know about the class, beyond chance (p: {}).",
        percent(*share_of_class),
        probability(*p)
    )];
    if images > 0 {
        said.push(format!(
            "{} of the images are of sources with one class only ({}): on these, telling sources apart and telling \
             classes apart is the same.",
            percent(images as f64 / source.known.max(1) as f64),
            names.join(", ")
        ));
    }
    said
}

/// What the number of test images can show.
fn precision(report: &DatasetReport) -> Vec<String> {
    let Some(test) = report.splits.iter().find(|count| count.split == Some(Split::Test)) else { return Vec::new() };
    let (images, patients): (u64, u64) = (test.images.values().sum(), test.all_patients);
    let (low, high) = wilson((EXAMPLE * patients as f64).round() as u64, patients);
    vec![format!(
        "There are {images} test images of {patients} patients: an accuracy of {} on them has a 95 % interval of \
         about {} to {} if a patient's images stand or fall together. Smaller differences between models are not seen.",
        percent(EXAMPLE),
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
