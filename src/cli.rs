//! The command line.

mod bench;
mod dataset;
mod demo;
mod docs;
mod doctor;
mod field_errors;
mod import;
mod leading_options;
mod openapi;
mod phantoms;
mod probe;
mod runs;
mod serve;
mod train;
mod weights;

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use rustix::fs::Mode;
use tokio::runtime::Runtime;

use crate::{
    app::{AppError, DataFolder},
    config::{self, ServerConfig},
    dataset::{AddError, ExportError, RulesError},
    domain::{InvalidClasses, LeakageKind, RunId, RunStatus},
    nn::NnError,
    service,
    store::{Db, StoreError},
    telemetry::{self, LogFormat},
};

/// Train and serve chest-radiograph classifiers. For research only: not a medical device.
///
/// Without a command, `thorax` runs `thorax serve`.
#[derive(Parser, Debug)]
#[command(
    name = "thorax",
    version,
    args_conflicts_with_subcommands = true,
    disable_help_flag = true,
    disable_version_flag = true,
    max_term_width = 100
)]
pub struct Cli {
    #[command(flatten)]
    server: ServerConfig,

    #[command(flatten)]
    global: GlobalArgs,

    /// Print the version.
    #[arg(short = 'V', long, help_heading = GLOBAL_OPTIONS, action = ArgAction::Version)]
    version: Option<bool>,

    #[command(subcommand)]
    command: Option<Command>,
}

const GLOBAL_OPTIONS: &str = "Global options";

/// Options of every command.
#[derive(Args, Debug)]
#[command(next_help_heading = GLOBAL_OPTIONS)]
struct GlobalArgs {
    /// Log level (`error`, `warn`, `info`, `debug`, `trace`) or filter, for the log on standard error. [default: info; `train`: warn]
    ///
    /// A filter sets levels by module, as in `info,thorax::worker=debug`.
    #[arg(long, env = "THORAX_LOG", value_name = "FILTER", global = true)]
    log: Option<String>,

    /// Log format.
    #[arg(long, env = "THORAX_LOG_FORMAT", value_name = "FORMAT", default_value = "text", global = true)]
    log_format: LogFormat,

    /// Print help (`-h`: summary, `--help`: details).
    #[arg(short, long, global = true, action = ArgAction::Help)]
    help: Option<bool>,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the server: HTTP API, dashboard and training worker. The API is documented at /docs.
    Serve(ServerConfig),
    /// Run a server with synthetic data and a small model, trained in about a minute.
    Demo(demo::DemoArgs),
    /// Import a folder of labelled radiographs into a data set.
    ///
    /// Invalid rows and files are reported and skipped. Importing a folder again adds only what is new. A server may be running
    /// on the same data folder.
    Import(import::ImportArgs),
    /// Inspect, generate, split and export data sets. Safe while a server is running.
    Dataset(dataset::DatasetArgs),
    /// Train a model without a server. Creates the same run and models as the HTTP API.
    ///
    /// To resume an interrupted run from its last checkpoint, use `--resume`, or start a server on the data folder.
    Train(train::TrainArgs),
    /// Manage pretrained ImageNet weights.
    Weights(weights::WeightsArgs),
    /// List, show and compare training runs. Safe while a server is running.
    Runs(runs::RunsArgs),
    /// Generate synthetic chest radiographs (phantoms) in the COVIDx folder layout.
    Phantoms(phantoms::PhantomsArgs),
    /// Benchmark inference and training steps on this machine, through the server's own code paths.
    Bench(bench::BenchArgs),
    /// Check that a compute device gives the results of the CPU.
    ///
    /// A server does this automatically before it uses a GPU whose drivers are new to its data folder.
    Probe(probe::ProbeArgs),
    /// Examine a data folder: database, images, permissions and disk. Safe while a server is running.
    ///
    /// Prints one line for each finding. The exit code is 1 if data is lost or damaged, and 0 otherwise, also with warnings.
    Doctor(doctor::DoctorArgs),
    /// Print the OpenAPI document of the HTTP API as JSON.
    Openapi,
    /// Print a generated page of the documentation as Markdown.
    #[command(hide = true)]
    Docs(docs::DocsArgs),
}

impl Command {
    /// True for commands that create files in the data folder only. Others create files where the user wants them, which others may want
    /// to read.
    fn writes_only_data(&self) -> bool {
        match self {
            Self::Serve(_) | Self::Demo(_) | Self::Import(_) | Self::Train(_) | Self::Weights(_) | Self::Doctor(_) => {
                true
            }
            Self::Dataset(_)
            | Self::Runs(_)
            | Self::Phantoms(_)
            | Self::Bench(_)
            | Self::Probe(_)
            | Self::Openapi
            | Self::Docs(_) => false,
        }
    }
}

/// Errors of a command, printed on standard error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error(transparent)]
    App(#[from] AppError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{path}: {source}")]
    Path { path: PathBuf, source: io::Error },
    #[error("{0} has errors: see above")]
    Unhealthy(PathBuf),
    #[error("import failed: {0}")]
    Import(String),
    #[error(transparent)]
    Classes(#[from] InvalidClasses),
    #[error(transparent)]
    Add(#[from] AddError),
    #[error(
        "data folder {folder} contains the data set {dataset:?}: the demo needs a data folder of its own; choose another \
         with --data-dir"
    )]
    NotTheDemo { folder: PathBuf, dataset: String },
    #[error("no data folder at {0}: set it with --data-dir (THORAX_DATA_DIR)")]
    NoDataFolder(PathBuf),
    #[error("no database in {0}: set the data folder with --data-dir")]
    NoDatabase(PathBuf),
    #[error("training run {id} not found in {folder}")]
    NoRun { id: RunId, folder: PathBuf },
    #[error("data set {name:?} not found in {folder}")]
    NoDataset { name: String, folder: PathBuf },
    #[error(
        "the splits leak: {}. Test scores would be inflated. Correct the splits, or accept the leakage with --acknowledge NAME",
        .0.iter().map(LeakageKind::to_string).collect::<Vec<_>>().join(", ")
    )]
    Leakage(Vec<LeakageKind>),
    #[error(transparent)]
    Export(#[from] ExportError),
    #[error("invalid rules: {0}")]
    Rules(#[from] RulesError),
    #[error("{0}")]
    Refused(String),
    #[error("training run {status}: {error}")]
    Training { status: RunStatus, error: String },
    #[error(
        "training was interrupted: to resume, run `thorax train --resume {0}` or start a server on this data folder"
    )]
    Interrupted(RunId),
    #[error(transparent)]
    Bench(#[from] bench::BenchError),
    #[error("{0}")]
    Network(#[from] NnError),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("--plan {path}: not a JSON object with fields of a plan: {source}")]
    Plan { path: PathBuf, source: serde_json::Error },
    #[error("invalid log filter (--log, THORAX_LOG): {0}")]
    Log(#[from] tracing_subscriber::filter::ParseError),
}

impl CliError {
    /// The message for people; faults of the storage in Thorax's words instead of SQLite's.
    fn explained(&self) -> String {
        match self {
            Self::Store(error) | Self::App(AppError::Store(error)) | Self::Add(AddError::Store(error)) => {
                error.explained()
            }
            error => error.to_string(),
        }
    }
}

impl From<service::Error> for CliError {
    fn from(error: service::Error) -> Self {
        field_errors::refused(error, "--plan")
    }
}

/// Opens a data folder that exists. Commands that only read never create one.
async fn open_existing(folder: &Path) -> Result<DataFolder, CliError> {
    if !Db::exists(folder) {
        return Err(CliError::NoDatabase(folder.to_owned()));
    }
    Ok(DataFolder::open(folder).await?)
}

/// Runs the program. Errors go to standard error, with exit code 1.
pub fn main() -> ExitCode {
    match run(parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("thorax: {}", error.explained());
            ExitCode::FAILURE
        }
    }
}

/// Parses the command line; prints help or an error and exits where clap does.
fn parse() -> Cli {
    let command = config::with_deprecated_variables(Cli::command());
    let arguments = leading_options::moved_behind_subcommand(&command, std::env::args_os().collect());
    let matches = command.get_matches_from(arguments);
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

fn run(cli: Cli) -> Result<(), CliError> {
    // `train` prints its own progress.
    let default_level = if matches!(cli.command, Some(Command::Train(_))) { "warn" } else { "info" };
    telemetry::init(cli.global.log.as_deref().unwrap_or(default_level), cli.global.log_format)?;
    for variable in config::deprecated_variables() {
        tracing::warn!("{} is deprecated: use {}", variable.old, variable.new);
    }
    if cli.command.as_ref().is_none_or(Command::writes_only_data) {
        // Files of the data folder hold patients' images: only their owner may read them. The mask holds for the whole process.
        rustix::process::umask(Mode::RWXG | Mode::RWXO);
    }
    let runtime = Runtime::new()?;
    let result = runtime.block_on(async {
        match cli.command {
            None => serve::serve(&cli.server).await,
            Some(Command::Serve(server)) => serve::serve(&server).await,
            Some(Command::Demo(args)) => demo::run(&args).await,
            Some(Command::Import(args)) => import::run(args).await,
            Some(Command::Dataset(args)) => dataset::run(args).await,
            Some(Command::Runs(args)) => runs::run(args).await,
            Some(Command::Phantoms(args)) => phantoms::run(&args),
            Some(Command::Train(args)) => train::run(args).await,
            Some(Command::Weights(args)) => weights::run(args).await,
            Some(Command::Bench(args)) => bench::run(&args),
            Some(Command::Probe(args)) => probe::run(&args),
            Some(Command::Doctor(args)) => doctor::run(&args).await,
            Some(Command::Openapi) => openapi::print(),
            Some(Command::Docs(args)) => docs::print(&args),
        }
    });
    // Do not wait again for tasks that outlived the shutdown timeout.
    runtime.shutdown_background();
    result
}
