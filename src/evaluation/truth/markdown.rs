//! A report on a data set as text: Markdown, which a terminal shows well enough.

use std::fmt::Write;

use super::{
    Accuracy, Association, DatasetReport, Found, LabelProblem, PatientFinding, PictureGroup,
    verdict::{between, percent},
};
use crate::evaluation::table::escaped;

/// Most of a kind that the text lists; JSON has more.
const MOST_TOLD: usize = 20;

impl DatasetReport {
    /// The whole report for people.
    pub fn to_markdown(&self) -> String {
        let synthetic = if self.synthetic { " (synthetic)" } else { "" };
        let mut text = format!("# The data set {}{synthetic}\n\n", escaped(&self.dataset_name));
        self.verdict.iter().for_each(|sentence| put(&mut text, format!("- {sentence}")));
        self.distribution(&mut text);
        self.patients_part(&mut text);
        self.duplicates_part(&mut text);
        self.shortcuts_part(&mut text);
        self.attributes_part(&mut text);
        self.labels_part(&mut text);
        put(
            &mut text,
            format!("\nMade in {:.1} s from {} images, fingerprint {}.", self.seconds, self.images, self.fingerprint),
        );
        text
    }

    fn distribution(&self, text: &mut String) {
        head(text, "Images and patients");
        let names =
            self.names_and("unlabelled", self.splits.iter().any(|split| split.images.contains_key("unlabelled")));
        let heads = std::iter::once("Split").chain(names.iter().map(String::as_str)).chain(["All"]);
        let rows = self.splits.iter().map(|split| {
            let cell = |name: &String| {
                let of = |counts: &std::collections::BTreeMap<String, u64>| counts.get(name).copied().unwrap_or(0);
                format!("{} of {}", of(&split.images), patients(of(&split.patients)))
            };
            let all = format!("{} of {}", split.images.values().sum::<u64>(), patients(split.all_patients));
            let name = split.split.map_or("unassigned".to_owned(), |split| split.to_string());
            std::iter::once(name).chain(names.iter().map(cell)).chain([all]).collect()
        });
        table(text, &heads.collect::<Vec<_>>(), rows);
    }

    fn patients_part(&self, text: &mut String) {
        head(text, "Patients");
        let counts = [
            (self.patients_in_several_splits.count, "are in more than one split"),
            (self.patients_with_several_classes.count, "have images of more than one class"),
        ];
        put(
            text,
            format!(
                "Known patients: {}. Images without a patient id: {}. Of the patients\n",
                self.patients, self.without_patient
            ),
        );
        for (count, what) in counts {
            put(text, format!("- {count} {what}."));
        }
        for (title, found) in [
            ("In more than one split", &self.patients_in_several_splits),
            ("With more than one class", &self.patients_with_several_classes),
        ] {
            if found.count > 0 {
                put(text, format!("\n{title}:\n"));
                let row = |one: &PatientFinding| {
                    let splits: Vec<&str> = one.splits.iter().map(|split| split.as_str()).collect();
                    let classes: Vec<String> = one.classes.iter().map(|(name, n)| format!("{n} {name}")).collect();
                    vec![one.patient.clone(), one.images.to_string(), splits.join(", "), classes.join(", ")]
                };
                let rows = found.items.iter().take(MOST_TOLD).map(row);
                table(text, &["Patient", "Images", "Splits", "Classes"], rows);
                more(text, found);
            }
        }
    }

    fn duplicates_part(&self, text: &mut String) {
        let found = &self.duplicates;
        head(text, "Images that look the same");
        put(
            text,
            format!(
                "{} images were compared: the same picture in another size, compression, brightness or contrast, or \
                 mirrored, is found; cropped and turned ones are not. {} have too little detail to be compared, {} could not be read.",
                found.compared, found.featureless, found.unreadable
            ),
        );
        put(
            text,
            format!(
                "Groups that look the same: {}; across splits {}, of several classes {}, of several patients {}.",
                found.groups.count, found.across_splits, found.with_several_classes, found.with_several_patients
            ),
        );
        if found.groups.count > 0 {
            put(text, String::new());
            table(text, &["Likeness", "Images"], found.groups.items.iter().take(MOST_TOLD).map(group));
            more(text, &found.groups);
        }
    }

    fn shortcuts_part(&self, text: &mut String) {
        head(text, "What predicts the class without any disease");
        if self.shortcuts.is_empty() {
            return put(text, "Too few labelled images to measure.".into());
        }
        let first = &self.shortcuts[0].cross_validated;
        put(
            text,
            format!(
                "Accuracy with 95 % intervals (bootstrap over patients); cross-validated by patient over {} images of {} \
                 patients, and learnt from train and scored on test. A network must beat these.\n",
                first.n, first.patients
            ),
        );
        let test = |test: Option<Accuracy>, of: fn(&Accuracy) -> _| {
            test.map_or_else(|| "–".to_owned(), |test| between(of(&test)))
        };
        let row = |name: String, cross: String, test: String, model: String| vec![name, cross, test, model];
        let mut rows = vec![row(
            "always the commonest class".into(),
            between(first.majority),
            test(self.shortcuts[0].on_test, |test| test.majority),
            "–".into(),
        )];
        rows.extend(self.shortcuts.iter().map(|one| {
            let cross = between(one.cross_validated.accuracy);
            row(one.features.clone(), cross, test(one.on_test, |test| test.accuracy), one.model.clone())
        }));
        table(text, &["From", "Cross-validated", "On test", "By"], rows.into_iter());
    }

    fn attributes_part(&self, text: &mut String) {
        head(text, "Class by what is no disease");
        put(
            text,
            "Information: mutual information with the class in bits, as counted; by chance: the mean when the classes are dealt \
             anew among patients; share: what is left of it, of all there is to know about the class.\n"
                .into(),
        );
        let rows = self.attributes.iter().map(
            |Association { attribute, known, information_bits, chance_bits, share_of_class, p, .. }| {
                vec![
                    attribute.clone(),
                    known.to_string(),
                    format!("{information_bits:.3}"),
                    format!("{chance_bits:.3}"),
                    percent(*share_of_class),
                    format!("{p:.3}"),
                ]
            },
        );
        table(text, &["Attribute", "Known", "Information", "By chance", "Share", "p"], rows);
        for association in &self.attributes {
            put(text, format!("\n### {}\n", association.attribute));
            let heads: Vec<&str> = [association.attribute.as_str()]
                .into_iter()
                .chain(self.classes.names().iter().map(String::as_str))
                .collect();
            let rows = association.rows.iter().map(|row| {
                let cell = |name: &String| row.images.get(name).copied().unwrap_or(0).to_string();
                std::iter::once(row.value.clone()).chain(self.classes.names().iter().map(cell)).collect()
            });
            table(text, &heads, rows);
        }
    }

    fn labels_part(&self, text: &mut String) {
        head(text, "Labels");
        for (what, found) in [
            ("rows contradict another row about the same file", &self.labels.contradictions),
            ("rows name a file that is not there", &self.labels.rows_without_file),
            ("files are named by no row", &self.labels.files_without_row),
            ("rows or files are unusable", &self.labels.unusable),
        ] {
            put(text, format!("- {} {what}.", found.count));
            for LabelProblem { file, line, reason } in found.items.iter().take(MOST_TOLD) {
                let line = line.map(|line| format!(":{line}")).unwrap_or_default();
                put(text, format!("  - {}{line}: {}", printable(file), printable(reason)));
            }
            if found.count > MOST_TOLD as u64 {
                put(text, format!("  - and {} more", found.count - MOST_TOLD as u64));
            }
        }
    }

    fn names_and(&self, last: &str, there: bool) -> Vec<String> {
        self.classes.names().iter().cloned().chain(there.then(|| last.to_owned())).collect()
    }
}

fn group(group: &PictureGroup) -> Vec<String> {
    let image = |image: &super::GroupImage| {
        let place = image.split.map_or("no split", |split| split.as_str());
        let label = image.label.as_deref().unwrap_or("unlabelled");
        let patient = image.patient.as_deref().unwrap_or("unknown");
        format!("{} ({place}, {label}, patient {patient})", image.file_name)
    };
    let mirrored = if group.mirrored { ", mirrored" } else { "" };
    let likeness = if group.identical { "identical".to_owned() } else { format!("{:.3}{mirrored}", group.likeness) };
    vec![likeness, group.images.iter().map(image).collect::<Vec<_>>().join("; ")]
}

/// The deals that a p value is counted over show no smaller one.
pub(super) fn probability(p: f64) -> String {
    if p < 0.0015 { "≤ 0.001".to_owned() } else { format!("{p:.3}") }
}

fn patients(n: u64) -> String {
    format!("{n} {}", if n == 1 { "patient" } else { "patients" })
}

fn head(text: &mut String, title: &str) {
    put(text, format!("\n## {title}\n"));
}

fn more<T>(text: &mut String, found: &Found<T>) {
    if found.count > MOST_TOLD as u64 {
        put(text, format!("\nand {} more.", found.count - MOST_TOLD as u64));
    }
}

/// Columns as wide as their widest cell, so that it reads well without being rendered.
fn table(text: &mut String, heads: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let lines: Vec<Vec<String>> = std::iter::once(heads.iter().map(|head| (*head).to_owned()).collect())
        .chain(rows)
        .map(|cells: Vec<String>| cells.iter().map(|cell| printable(&escaped(cell))).collect())
        .collect();
    let width = |at: usize| lines.iter().map(|cells| cells[at].chars().count()).max().unwrap_or(0).max(3);
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    for (number, cells) in lines.iter().enumerate() {
        let padded: Vec<String> = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        put(text, format!("| {} |", padded.join(" | ")));
        if number == 0 {
            let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            put(text, format!("| {} |", rule.join(" | ")));
        }
    }
}

/// Without what a terminal would obey: names come from whoever made the files.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

fn put(text: &mut String, line: String) {
    writeln!(text, "{line}").expect("memory takes it");
}
