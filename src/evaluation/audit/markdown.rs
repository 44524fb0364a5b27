//! Audit report as Markdown, readable in a terminal too.

use std::fmt::Write;

use super::{
    Accuracy, Association, DatasetReport, DuplicateGroup, LabelProblem, Listing, PatientFinding,
    verdict::{between, percent},
};
use crate::format::{Column, Table, p_value, printable};

/// Maximum number of findings of a kind in the text; JSON has more.
const MAX_LISTED: usize = 20;

impl DatasetReport {
    /// Formats the whole report.
    pub fn to_markdown(&self) -> String {
        let synthetic = if self.synthetic { " (synthetic)" } else { "" };
        let mut text = format!("# Data audit: {}{synthetic}\n\n", printable(&self.dataset_name));
        self.verdict.iter().for_each(|sentence| put(&mut text, format!("- {sentence}")));
        self.write_distribution(&mut text);
        self.write_patients(&mut text);
        self.write_duplicates(&mut text);
        self.write_shortcuts(&mut text);
        self.write_attributes(&mut text);
        self.write_labels(&mut text);
        put(
            &mut text,
            format!(
                "\nComputed in {:.1} s over {} images, fingerprint {}.",
                self.seconds, self.images, self.fingerprint
            ),
        );
        text
    }

    fn write_distribution(&self, text: &mut String) {
        head(text, "Images and patients");
        let names =
            self.class_columns("unlabelled", self.splits.iter().any(|split| split.images.contains_key("unlabelled")));
        let columns = std::iter::once("Split").chain(names.iter().map(String::as_str)).chain(["All"]).map(Column::text);
        let rows = self.splits.iter().map(|split| {
            let cell = |name: &String| {
                let of = |counts: &std::collections::BTreeMap<String, u64>| counts.get(name).copied().unwrap_or(0);
                format!("{} of {}", of(&split.images), patients(of(&split.patients)))
            };
            let all = format!("{} of {}", split.images.values().sum::<u64>(), patients(split.all_patients));
            let name = split.split.map_or("unassigned".to_owned(), |split| split.to_string());
            std::iter::once(name).chain(names.iter().map(cell)).chain([all]).collect::<Vec<_>>()
        });
        table(text, columns, rows);
    }

    fn write_patients(&self, text: &mut String) {
        head(text, "Patients");
        let counts = [
            (self.patients_in_several_splits.count, "patients are in more than one split"),
            (self.patients_with_several_classes.count, "patients have images of more than one class"),
        ];
        put(
            text,
            format!("Known patients: {}. Images without a patient id: {}.\n", self.patients, self.without_patient),
        );
        for (count, kind) in counts {
            put(text, format!("- {count} {kind}."));
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
                let rows = found.items.iter().take(MAX_LISTED).map(row);
                let columns = [
                    Column::text("Patient"),
                    Column::number("Images"),
                    Column::text("Splits"),
                    Column::text("Classes"),
                ];
                table(text, columns, rows);
                more(text, found);
            }
        }
    }

    fn write_duplicates(&self, text: &mut String) {
        let found = &self.duplicates;
        head(text, "Near-duplicates");
        put(
            text,
            format!(
                "{} images compared. Copies that differ in size, compression, brightness, contrast or mirroring are detected; cropped \
                 or rotated copies are not. {} images have too little detail to compare, {} could not be read.",
                found.compared, found.featureless, found.unreadable
            ),
        );
        put(
            text,
            format!(
                "Groups of near-duplicates: {}; across splits {}, of several classes {}, of several patients {}.",
                found.groups.count, found.across_splits, found.with_several_classes, found.with_several_patients
            ),
        );
        if found.groups.count > 0 {
            put(text, String::new());
            let columns = ["Similarity", "Images"].map(Column::text);
            table(text, columns, found.groups.items.iter().take(MAX_LISTED).map(group));
            more(text, &found.groups);
        }
    }

    fn write_shortcuts(&self, text: &mut String) {
        head(text, "Shortcut baselines: accuracy without looking at pathology");
        if self.shortcuts.is_empty() {
            return put(text, "Too few labelled images to compute.".into());
        }
        let first = &self.shortcuts[0].cross_validated;
        put(
            text,
            format!(
                "Accuracy with 95 % confidence intervals (bootstrap over patients); cross-validated by patient over {} images of \
                 {} patients, and fitted on train and scored on test. A network must beat these.\n",
                first.n, first.patients
            ),
        );
        let test = |test: Option<Accuracy>, of: fn(&Accuracy) -> _| {
            test.map_or_else(|| "–".to_owned(), |test| between(of(&test)))
        };
        let row = |name: String, cross: String, test: String, model: String| vec![name, cross, test, model];
        let mut rows = vec![row(
            "majority class".into(),
            between(first.majority),
            test(self.shortcuts[0].on_test, |test| test.majority),
            "–".into(),
        )];
        rows.extend(self.shortcuts.iter().map(|one| {
            let cross = between(one.cross_validated.accuracy);
            row(one.features.clone(), cross, test(one.on_test, |test| test.accuracy), one.model.clone())
        }));
        table(text, ["Features", "Cross-validated", "Test", "Model"].map(Column::text), rows.into_iter());
    }

    fn write_attributes(&self, text: &mut String) {
        head(text, "Association of attributes with the class");
        put(
            text,
            "Information: mutual information with the class in bits (plug-in estimate). By chance: mean over label permutations by \
             patient. Share: excess over chance relative to the entropy of the class.\n"
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
                    p_value(*p),
                ]
            },
        );
        let numbers = ["Known", "Information", "By chance", "Share", "p"].map(Column::number);
        table(text, [Column::text("Attribute")].into_iter().chain(numbers), rows);
        for association in &self.attributes {
            put(text, format!("\n### {}\n", association.attribute));
            let classes = self.classes.names().iter().map(Column::number);
            let columns = [Column::text(&association.attribute)].into_iter().chain(classes);
            let rows = association.rows.iter().map(|row| {
                let cell = |name: &String| row.images.get(name).copied().unwrap_or(0).to_string();
                std::iter::once(row.value.clone()).chain(self.classes.names().iter().map(cell)).collect::<Vec<_>>()
            });
            table(text, columns, rows);
        }
    }

    fn write_labels(&self, text: &mut String) {
        head(text, "Labels");
        for (kind, found) in [
            ("rows contradict another row for the same file", &self.labels.contradictions),
            ("rows whose file is missing", &self.labels.rows_without_file),
            ("files without a row", &self.labels.files_without_row),
            ("unusable rows or files", &self.labels.unusable),
        ] {
            put(text, format!("- {} {kind}.", found.count));
            for LabelProblem { file, line, reason } in found.items.iter().take(MAX_LISTED) {
                let line = line.map(|line| format!(":{line}")).unwrap_or_default();
                put(text, format!("  - {}{line}: {}", printable(file), printable(reason)));
            }
            if found.count > MAX_LISTED as u64 {
                put(text, format!("  - and {} more", found.count - MAX_LISTED as u64));
            }
        }
    }

    fn class_columns(&self, extra: &str, present: bool) -> Vec<String> {
        self.classes.names().iter().cloned().chain(present.then(|| extra.to_owned())).collect()
    }
}

fn group(group: &DuplicateGroup) -> Vec<String> {
    let image = |image: &super::GroupImage| {
        let split = image.split.map_or("no split", |split| split.as_str());
        let label = image.label.as_deref().unwrap_or("unlabelled");
        let patient = image.patient.as_deref().unwrap_or("unknown");
        format!("{} ({split}, {label}, patient {patient})", image.file_name)
    };
    let mirrored = if group.mirrored { ", mirrored" } else { "" };
    let likeness = if group.identical { "identical".to_owned() } else { format!("{:.3}{mirrored}", group.likeness) };
    vec![likeness, group.images.iter().map(image).collect::<Vec<_>>().join("; ")]
}

fn patients(n: u64) -> String {
    format!("{n} {}", if n == 1 { "patient" } else { "patients" })
}

fn head(text: &mut String, title: &str) {
    put(text, format!("\n## {title}\n"));
}

fn more<T>(text: &mut String, found: &Listing<T>) {
    if found.count > MAX_LISTED as u64 {
        put(text, format!("\nand {} more.", found.count - MAX_LISTED as u64));
    }
}

fn table(text: &mut String, columns: impl IntoIterator<Item = Column>, rows: impl Iterator<Item = Vec<String>>) {
    text.push_str(&Table::new(columns, rows).to_markdown());
}

fn put(text: &mut String, line: String) {
    writeln!(text, "{line}").expect("memory takes it");
}
