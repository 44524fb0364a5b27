//! `thorax dataset generate`: builds a COVIDx data set from its original sources.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use clap::Args;

use crate::{
    cli::{
        CliError,
        import::{canonical, run_import},
    },
    config::DataConfig,
    dataset::{Generation, GenerationMethod, ImportSource, Rules, SourceFolders},
};

#[derive(Args, Debug)]
pub(super) struct GenerateArgs {
    /// Name of the data set. Created if it does not exist.
    #[arg(required_unless_present = "print_rules")]
    dataset: Option<String>,

    /// TOML file of rules. A section in it replaces the built-in section of the same name.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["train_labels", "test_labels"])]
    rules: Option<PathBuf>,

    /// Print the built-in rules (those of COVIDx V7A) and exit.
    #[arg(long)]
    print_rules: bool,

    /// Label file of the train split in the COVIDx format, instead of rules. Rows are matched to images by file name.
    #[arg(long, value_name = "FILE")]
    train_labels: Option<PathBuf>,

    /// Label file of the test split, instead of rules.
    #[arg(long, value_name = "FILE")]
    test_labels: Option<PathBuf>,

    /// Classes of the data set, in the order of the network's outputs. [default: normal,pneumonia,COVID-19]
    #[arg(long, value_name = "CLASS,CLASS,…", value_delimiter = ',')]
    classes: Option<Vec<String>>,

    #[command(flatten)]
    sources: SourceArgs,

    #[command(flatten)]
    data: DataConfig,
}

/// Folders of the sources, as their authors distribute them.
#[derive(Args, Debug)]
#[command(next_help_heading = "Sources (at least one)")]
#[group(id = "source", required = true, multiple = true, args = ["cohen", "fig1", "actmed", "radiography", "rsna", "print_rules"])]
struct SourceArgs {
    /// covid-chestxray-dataset (Cohen et al.): `metadata.csv` and `images/`.
    #[arg(long, value_name = "FOLDER")]
    cohen: Option<PathBuf>,

    /// Figure 1 COVID-19 chest X-ray dataset: `metadata.csv` and `images/`.
    #[arg(long, value_name = "FOLDER")]
    fig1: Option<PathBuf>,

    /// Actualmed COVID-19 chest X-ray dataset: `metadata.csv` and `images/`.
    #[arg(long, value_name = "FOLDER")]
    actmed: Option<PathBuf>,

    /// COVID-19 Radiography Database: one folder per class, such as `COVID/`, next to `COVID.metadata.xlsx`.
    #[arg(long, value_name = "FOLDER")]
    radiography: Option<PathBuf>,

    /// RSNA Pneumonia Detection Challenge: `stage_2_detailed_class_info.csv`, `stage_2_train_labels.csv` and
    /// `stage_2_train_images/`.
    #[arg(long, value_name = "FOLDER")]
    rsna: Option<PathBuf>,
}

pub(super) async fn run(args: GenerateArgs) -> Result<(), CliError> {
    let Some(name) = &args.dataset else {
        return Ok(write!(std::io::stdout(), "{}", Rules::built_in())?);
    };
    let (sources, path) = args.sources.canonical()?;
    let by = GenerationMethod::new(args.train_labels, args.test_labels, rules(args.rules.as_deref())?);
    let from = ImportSource::Sources(Generation { sources, by });
    run_import(&args.data, name, args.classes, path, from).await
}

fn rules(file: Option<&Path>) -> Result<Rules, CliError> {
    let Some(file) = file else { return Ok(Rules::default()) };
    let text = std::fs::read_to_string(file).map_err(|source| CliError::Path { path: file.to_owned(), source })?;
    Ok(Rules::parse(&text)?)
}

impl SourceArgs {
    /// The canonical folders, and the text that names them in the row of the import.
    fn canonical(&self) -> Result<(SourceFolders, String), CliError> {
        let folder = |path: &Option<PathBuf>| path.as_deref().map(canonical).transpose();
        let folders = SourceFolders {
            cohen: folder(&self.cohen)?,
            fig1: folder(&self.fig1)?,
            actmed: folder(&self.actmed)?,
            radiography: folder(&self.radiography)?,
            rsna: folder(&self.rsna)?,
        };
        let SourceFolders { cohen, fig1, actmed, radiography, rsna } = &folders;
        let named =
            [("cohen", cohen), ("fig1", fig1), ("actmed", actmed), ("radiography", radiography), ("rsna", rsna)];
        let given =
            named.into_iter().filter_map(|(name, folder)| Some(format!("{name}={}", folder.as_ref()?.display())));
        let path = given.collect::<Vec<_>>().join(" ");
        Ok((folders, path))
    }
}
