//! Tables of the number of images and patients by class and split.

use std::collections::BTreeSet;

use crate::{
    domain::{ClassList, Split},
    format::{Column, Table},
    store::{self, Dataset, Db, StoreError},
};

/// Explains below the tables why the columns do not add up.
const NOTE: &str =
    "A patient with images in several classes or splits is counted in each of them, and once in the totals.";

/// Image to count.
#[derive(Clone, Copy, Debug)]
pub struct CountedImage<'a> {
    /// Split, if assigned.
    pub split: Option<Split>,
    /// Class, if labelled.
    pub class: Option<&'a str>,
    /// Patient. An image without patient id counts as a separate patient.
    pub patient: Option<&'a str>,
}

/// Numbers of images and unique patients, with a row per non-empty split and a column per class, and totals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DistributionTable {
    columns: Vec<String>,
    rows: Vec<Row>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Row {
    name: &'static str,
    /// Counts by column.
    images: Vec<u64>,
    patients: Vec<u64>,
}

/// The distribution of a data set.
pub async fn distribution(db: &Db, dataset: &Dataset) -> Result<DistributionTable, StoreError> {
    let radiographs = store::radiographs::all(db, dataset.id).await?;
    let counted: Vec<CountedImage<'_>> = radiographs
        .iter()
        .map(|radiograph| CountedImage {
            split: radiograph.split,
            class: radiograph.label.as_deref(),
            patient: radiograph.patient_id.as_deref(),
        })
        .collect();
    Ok(DistributionTable::count(&dataset.classes, &counted))
}

impl DistributionTable {
    /// Counts images. Unlabelled and unassigned images have a separate column and row, if there are any.
    pub fn count(classes: &ClassList, images: &[CountedImage<'_>]) -> Self {
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

    /// Both tables in Markdown.
    pub fn to_markdown(&self) -> String {
        self.render(Table::to_markdown)
    }

    /// Both tables as text with aligned columns.
    pub fn to_text(&self) -> String {
        self.render(Table::to_text)
    }

    fn render(&self, text: impl Fn(&Table) -> String) -> String {
        let images = text(&self.table("images", |row| &row.images));
        let patients = text(&self.table("patients", |row| &row.patients));
        format!("{images}\n{patients}\n{NOTE}\n")
    }

    fn table(&self, heading: &str, counts: impl Fn(&Row) -> &Vec<u64>) -> Table {
        let columns = [Column::text(heading)].into_iter().chain(self.columns.iter().map(Column::number));
        let cells = |row: &Row| {
            let numbers = counts(row).iter().map(u64::to_string);
            [row.name.to_owned()].into_iter().chain(numbers).collect::<Vec<_>>()
        };
        Table::new(columns, self.rows.iter().map(cells))
    }
}

impl Row {
    fn count(name: &'static str, columns: &[Option<&str>], images: &[CountedImage<'_>]) -> Self {
        let of_class = |class: &Option<&str>| -> Vec<CountedImage<'_>> {
            images.iter().copied().filter(|image| image.class == *class).collect()
        };
        let mut groups: Vec<Vec<CountedImage<'_>>> = columns.iter().map(of_class).collect();
        groups.push(images.to_vec());
        let patients = |group: &Vec<CountedImage<'_>>| {
            let known: BTreeSet<&str> = group.iter().filter_map(|image| image.patient).collect();
            (known.len() + group.iter().filter(|image| image.patient.is_none()).count()) as u64
        };
        Self {
            name,
            images: groups.iter().map(|group| group.len() as u64).collect(),
            patients: groups.iter().map(patients).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::covidx;

    fn counted<'a>(rows: &'a [covidx::Row], split: Split) -> impl Iterator<Item = CountedImage<'a>> {
        rows.iter().map(move |row| CountedImage {
            split: Some(split),
            class: Some(&row.class),
            patient: row.patient_id.as_deref(),
        })
    }

    #[test]
    fn a_patient_counts_in_each_class_and_split_and_once_in_the_totals() {
        let image = |split, class, patient| CountedImage { split, class, patient };
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
| images     | normal | pneumonia | COVID-19 | unlabelled | total |
| ---------- | -----: | --------: | -------: | ---------: | ----: |
| train      |      4 |         1 |        0 |          0 |     5 |
| test       |      0 |         0 |        1 |          0 |     1 |
| unassigned |      0 |         0 |        0 |          1 |     1 |
| total      |      4 |         1 |        1 |          1 |     7 |

| patients   | normal | pneumonia | COVID-19 | unlabelled | total |
| ---------- | -----: | --------: | -------: | ---------: | ----: |
| train      |      3 |         1 |        0 |          0 |     3 |
| test       |      0 |         0 |        1 |          0 |     1 |
| unassigned |      0 |         0 |        0 |          1 |     1 |
| total      |      3 |         1 |        1 |          1 |     4 |
";
        assert_eq!(table.to_markdown(), format!("{expected}\n{NOTE}\n"));
    }

    #[test]
    fn text_has_aligned_columns() {
        let images = [CountedImage { split: Some(Split::Train), class: Some("normal"), patient: None }];
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
        // Figures for V7A in docs/COVIDx.md of COVID-Net.
        for line in [
            "| train | 7966 | 5475 | 1670 | 15111 |",
            "| test | 100 | 100 | 100 | 300 |",
            "| train | 7966 | 5451 | 1506 | 14923 |",
            "| test | 100 | 98 | 74 | 272 |",
        ] {
            let cells = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(markdown.lines().any(|found| cells(found) == line), "{line} is not in\n{markdown}");
        }
    }
}
