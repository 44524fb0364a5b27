//! `thorax dataset generate NAME --cohen FOLDER …`

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use clap::Args;

use crate::{
    cli::{
        CliError,
        import::{carry_out, real},
    },
    config::DataConfig,
    dataset::{Generation, GenerationMethod, ImportSource, Rules, SourceFolders},
};

#[derive(Args, Debug)]
pub(super) struct GenerateArgs {
    /// Name of the data set; made when there is none.
    #[arg(required_unless_present = "print_rules")]
    dataset: Option<String>,

    #[command(flatten)]
    sources: SourceArgs,

    /// Rules in TOML: each section that the file has takes the place of the built-in one.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["train_labels", "test_labels"])]
    rules: Option<PathBuf>,

    /// Prints the built-in rules, COVIDx V7A's, and does nothing else.
    #[arg(long)]
    print_rules: bool,

    /// In place of rules: a label file in the COVIDx format whose rows are matched with the images by name, for train.
    #[arg(long, value_name = "FILE")]
    train_labels: Option<PathBuf>,

    /// The same for test.
    #[arg(long, value_name = "FILE")]
    test_labels: Option<PathBuf>,

    /// The data set's classes, in the order of the network's outputs. [default: normal,pneumonia,COVID-19]
    #[arg(long, value_name = "CLASS,CLASS,…", value_delimiter = ',')]
    classes: Option<Vec<String>>,

    #[command(flatten)]
    data: DataConfig,
}

/// The folder of each source that is there, as it is distributed.
#[derive(Args, Debug)]
#[group(id = "source", required = true, multiple = true, args = ["cohen", "fig1", "actmed", "radiography", "rsna", "print_rules"])]
struct SourceArgs {
    /// covid-chestxray-dataset: `metadata.csv`, `images`.
    #[arg(long, value_name = "FOLDER")]
    cohen: Option<PathBuf>,

    /// Figure 1: `metadata.csv`, `images`.
    #[arg(long, value_name = "FOLDER")]
    fig1: Option<PathBuf>,

    /// Actualmed: `metadata.csv`, `images`.
    #[arg(long, value_name = "FOLDER")]
    actmed: Option<PathBuf>,

    /// COVID-19 Radiography Database: a folder a class, such as `COVID`, with `COVID.metadata.xlsx` beside it.
    #[arg(long, value_name = "FOLDER")]
    radiography: Option<PathBuf>,

    /// RSNA pneumonia challenge: `stage_2_detailed_class_info.csv`, `stage_2_train_labels.csv`, `stage_2_train_images`.
    #[arg(long, value_name = "FOLDER")]
    rsna: Option<PathBuf>,
}

pub(super) async fn run(args: GenerateArgs) -> Result<(), CliError> {
    let Some(name) = &args.dataset else {
        return Ok(write!(std::io::stdout(), "{}", Rules::built_in())?);
    };
    let (sources, path) = args.sources.real()?;
    let by = GenerationMethod::new(args.train_labels, args.test_labels, rules(args.rules.as_deref())?);
    let from = ImportSource::Sources(Generation { sources, by });
    carry_out(&args.data, name, args.classes, path, from).await
}

fn rules(file: Option<&Path>) -> Result<Rules, CliError> {
    let Some(file) = file else { return Ok(Rules::default()) };
    let text = std::fs::read_to_string(file).map_err(|source| CliError::Path { path: file.to_owned(), source })?;
    Ok(Rules::parse(&text)?)
}

impl SourceArgs {
    /// The folders, and what they are called in the import's row.
    fn real(&self) -> Result<(SourceFolders, String), CliError> {
        let folder = |path: &Option<PathBuf>| path.as_deref().map(real).transpose();
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
        let told =
            named.into_iter().filter_map(|(name, folder)| Some(format!("{name}={}", folder.as_ref()?.display())));
        let told = told.collect::<Vec<_>>().join(" ");
        Ok((folders, told))
    }
}
