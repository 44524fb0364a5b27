//! How many images and how many patients each class has in each split, as tables for people.

use std::{collections::BTreeSet, fmt::Write};

use crate::{
    domain::{ClassList, Split},
    store::{self, Dataset, Db, StoreError},
};

/// Below the tables, for whoever adds the columns up.
const NOTE: &str = "A patient with images in several classes or splits counts in each of them, and once in a total.";

/// An image as it is counted.
#[derive(Clone, Copy, Debug)]
pub struct Counted<'a> {
    /// Its split, if it has one.
    pub split: Option<Split>,
    /// Its class, if it has one.
    pub class: Option<&'a str>,
    /// Its patient; an image whose patient is not known counts as a patient of its own.
    pub patient: Option<&'a str>,
}

/// Images and unique patients: a row for each split that has images and one for all, a column for each class and one for all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DistributionTable {
    columns: Vec<String>,
    rows: Vec<Row>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    name: &'static str,
    /// By column.
    images: Vec<u64>,
    patients: Vec<u64>,
}

/// The distribution of a data set.
pub async fn distribution(db: &Db, dataset: &Dataset) -> Result<DistributionTable, StoreError> {
    let radiographs = store::radiographs::all(db, dataset.id).await?;
    let counted: Vec<Counted<'_>> = radiographs
        .iter()
        .map(|radiograph| Counted {
            split: radiograph.split,
            class: radiograph.label.as_deref(),
            patient: radiograph.patient_id.as_deref(),
        })
        .collect();
    Ok(DistributionTable::count(&dataset.classes, &counted))
}

impl DistributionTable {
    /// Counts images; those without a class or split have a column or row of their own where there are any.
    pub fn count(classes: &ClassList, images: &[Counted<'_>]) -> Self {
        let mut columns: Vec<Option<&str>> = classes.names().iter().map(|class| Some(class.as_str())).collect();
        if images.iter().any(|image| image.class.is_none()) {
            columns.push(None);
        }
        let splits = Split::ALL.into_iter().map(Some).chain([None]);
        let mut rows: Vec<Row> = splits
            .filter_map(|split| {
                let of_split: Vec<_> = images.iter().copied().filter(|image| image.split == split).collect();
                (!of_split.is_empty())
                    .then(|| Row::count(split.map_or("unassigned", Split::as_str), &columns, &of_split))
            })
            .collect();
        rows.push(Row::count("total", &columns, images));
        let names = columns.iter().map(|class| class.unwrap_or("unlabelled").to_owned());
        Self { columns: names.chain(["total".to_owned()]).collect(), rows }
    }

    /// Two tables in Markdown.
    pub fn to_markdown(&self) -> String {
        self.write(|cells| {
            let mut table = String::new();
            for (at, row) in cells.iter().enumerate() {
                let _ = writeln!(table, "| {} |", row.join(" | "));
                if at == 0 {
                    let _ = writeln!(table, "| --- |{}", " ---: |".repeat(row.len() - 1));
                }
            }
            table
        })
    }

    /// Two tables in aligned columns.
    pub fn to_text(&self) -> String {
        self.write(|cells| {
            let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
            let widths: Vec<usize> = (0..cells[0].len()).map(width).collect();
            let line = |row: &Vec<String>| {
                let numbers = row.iter().zip(&widths).skip(1).map(|(cell, width)| format!("  {cell:>width$}"));
                format!("{:<width$}{}\n", row[0], numbers.collect::<String>(), width = widths[0])
            };
            cells.iter().map(line).collect()
        })
    }

    fn write(&self, table: impl Fn(&[Vec<String>]) -> String) -> String {
        let images = table(&self.cells("images", |row| &row.images));
        let patients = table(&self.cells("patients", |row| &row.patients));
        format!("{images}\n{patients}\n{NOTE}\n")
    }

    fn cells(&self, what: &str, counts: impl Fn(&Row) -> &Vec<u64>) -> Vec<Vec<String>> {
        let head = [what.to_owned()].into_iter().chain(self.columns.iter().cloned()).collect();
        let line = |row: &Row| {
            let numbers = counts(row).iter().map(u64::to_string);
            [row.name.to_owned()].into_iter().chain(numbers).collect()
        };
        [head].into_iter().chain(self.rows.iter().map(line)).collect()
    }
}

impl Row {
    fn count(name: &'static str, columns: &[Option<&str>], images: &[Counted<'_>]) -> Self {
        let of_class = |class: &Option<&str>| -> Vec<Counted<'_>> {
            images.iter().copied().filter(|image| image.class == *class).collect()
        };
        let mut parts: Vec<Vec<Counted<'_>>> = columns.iter().map(of_class).collect();
        parts.push(images.to_vec());
        let patients = |part: &Vec<Counted<'_>>| {
            let known: BTreeSet<&str> = part.iter().filter_map(|image| image.patient).collect();
            (known.len() + part.iter().filter(|image| image.patient.is_none()).count()) as u64
        };
        Self {
            name,
            images: parts.iter().map(|part| part.len() as u64).collect(),
            patients: parts.iter().map(patients).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::covidx;

    fn counted<'a>(rows: &'a [covidx::Row], split: Split) -> impl Iterator<Item = Counted<'a>> {
        rows.iter().map(move |row| Counted {
            split: Some(split),
            class: Some(&row.class),
            patient: row.patient_id.as_deref(),
        })
    }

    #[test]
    fn a_patient_counts_in_each_class_and_split_and_once_in_a_total() {
        let image = |split, class, patient| Counted { split, class, patient };
        let (train, test) = (Some(Split::Train), Some(Split::Test));
        let images = [
            image(train, Some("normal"), Some("a")),
            image(train, Some("normal"), Some("a")),
            image(train, Some("pneumonia"), Some("a")),
            image(train, Some("normal"), None),
            image(train, Some("normal"), None),
            image(test, Some("COVID-19"), Some("a")),
            image(None, None, Some("b")),
        ];
        let table = DistributionTable::count(&ClassList::default(), &images);
        let expected = "\
| images | normal | pneumonia | COVID-19 | unlabelled | total |
| --- | ---: | ---: | ---: | ---: | ---: |
| train | 4 | 1 | 0 | 0 | 5 |
| test | 0 | 0 | 1 | 0 | 1 |
| unassigned | 0 | 0 | 0 | 1 | 1 |
| total | 4 | 1 | 1 | 1 | 7 |

| patients | normal | pneumonia | COVID-19 | unlabelled | total |
| --- | ---: | ---: | ---: | ---: | ---: |
| train | 3 | 1 | 0 | 0 | 3 |
| test | 0 | 0 | 1 | 0 | 1 |
| unassigned | 0 | 0 | 0 | 1 | 1 |
| total | 3 | 1 | 1 | 1 | 4 |
";
        assert_eq!(table.to_markdown(), format!("{expected}\n{NOTE}\n"));
    }

    #[test]
    fn text_stands_in_columns() {
        let images = [Counted { split: Some(Split::Train), class: Some("normal"), patient: None }];
        let text = DistributionTable::count(&ClassList::default(), &images).to_text();
        let lines: Vec<&str> = text.lines().take(3).collect();
        let expected = [
            "images  normal  pneumonia  COVID-19  total",
            "train        1          0         0      1",
            "total        1          0         0      1",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn the_published_files_have_the_published_distribution() {
        let Some(folder) = crate::fixtures::shared_folder("covidx") else { return };
        let classes = ClassList::default();
        let rows = |name: &str| {
            covidx::parse(&std::fs::read_to_string(folder.join(name)).expect("a published split file"), &classes).0
        };
        let (train, test) = (rows("train_COVIDx7A.txt"), rows("test_COVIDx7A.txt"));
        let images: Vec<_> = counted(&train, Split::Train).chain(counted(&test, Split::Test)).collect();
        let markdown = DistributionTable::count(&classes, &images).to_markdown();
        // As docs/COVIDx.md of COVID-Net has them for V7A.
        for line in [
            "| train | 7966 | 5475 | 1670 | 15111 |",
            "| test | 100 | 100 | 100 | 300 |",
            "| train | 7966 | 5451 | 1506 | 14923 |",
            "| test | 100 | 98 | 74 | 272 |",
        ] {
            assert!(markdown.lines().any(|found| found == line), "{line} is not in\n{markdown}");
        }
    }
}
