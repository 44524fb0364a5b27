//! `thorax dataset distribution`: counts images and patients by split and class.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{TableFormat, find, print_distribution};
use crate::{
    cli::{CliError, open_existing, serve::DATA_FOLDER},
    config::DataConfig,
    dataset::{self, CountedImage, DistributionTable, covidx},
    domain::{ClassList, Split},
};

#[derive(Args, Debug)]
pub(super) struct DistributionArgs {
    /// Data set, by name or identifier.
    #[arg(required_unless_present_any = ["train_labels", "validation_labels", "test_labels"])]
    dataset: Option<String>,

    /// Output format.
    #[arg(long, value_name = "FORMAT", default_value = "markdown")]
    format: TableFormat,

    #[command(flatten)]
    labels: LabelFiles,

    #[command(flatten)]
    data: DataConfig,
}

/// Label files to count instead of a data set.
#[derive(Args, Debug)]
#[command(next_help_heading = "Label files, instead of a data set")]
struct LabelFiles {
    /// Label file of the train split, in the COVIDx format. The images are not needed.
    #[arg(long, value_name = "FILE", conflicts_with = "dataset")]
    train_labels: Option<PathBuf>,

    /// Label file of the validation split.
    #[arg(long, value_name = "FILE", conflicts_with = "dataset")]
    validation_labels: Option<PathBuf>,

    /// Label file of the test split.
    #[arg(long, value_name = "FILE", conflicts_with = "dataset")]
    test_labels: Option<PathBuf>,

    /// Classes in the label files. [default: normal,pneumonia,COVID-19]
    #[arg(long, value_name = "CLASS,CLASS,…", value_delimiter = ',', conflicts_with = "dataset")]
    classes: Option<Vec<String>>,
}

pub(super) async fn run(args: DistributionArgs) -> Result<(), CliError> {
    let table = match &args.dataset {
        Some(name) => count_dataset(&args.data, name).await?,
        None => args.labels.count()?,
    };
    print_distribution(&table, args.format)
}

async fn count_dataset(data: &DataConfig, name: &str) -> Result<DistributionTable, CliError> {
    let folder = open_existing(&data.folder(DATA_FOLDER)).await?;
    let dataset = find(&folder, name).await?;
    let table = dataset::distribution(&folder.stores.db, &dataset).await?;
    folder.stores.db.close().await;
    Ok(table)
}

impl LabelFiles {
    fn count(self) -> Result<DistributionTable, CliError> {
        let classes = self.classes.map(ClassList::new).transpose()?.unwrap_or_default();
        let files = [
            (Split::Train, self.train_labels),
            (Split::Validation, self.validation_labels),
            (Split::Test, self.test_labels),
        ];
        let mut rows = Vec::new();
        for (split, file) in files {
            let Some(file) = file else { continue };
            rows.extend(read(&file, &classes)?.into_iter().map(|row| (split, row)));
        }
        let counted: Vec<CountedImage<'_>> = rows
            .iter()
            .map(|(split, row)| CountedImage {
                split: Some(*split),
                class: Some(&row.class),
                patient: row.patient_id.as_deref(),
            })
            .collect();
        Ok(DistributionTable::count(&classes, &counted))
    }
}

/// Reads a label file. An invalid line is an error, because skipping it would make the counts wrong.
fn read(file: &Path, classes: &ClassList) -> Result<Vec<covidx::Row>, CliError> {
    let bytes = std::fs::read(file).map_err(|source| CliError::Path { path: file.to_owned(), source })?;
    let text =
        dataset::decode_labels(&bytes).map_err(|reason| CliError::Refused(format!("{}: {reason}", file.display())))?;
    let (rows, problems) = covidx::parse(&text, classes);
    if problems.is_empty() {
        return Ok(rows);
    }
    let lines = problems.iter().map(|problem| format!("{}:{}: {}", file.display(), problem.line, problem.reason));
    Err(CliError::Refused(lines.collect::<Vec<_>>().join("\n")))
}
