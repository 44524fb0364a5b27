//! The command line.

mod bench;
mod dataset;
mod demo;
mod docs;
mod import;
mod openapi;
mod phantoms;
mod runs;
mod serve;
mod train;
mod weights;

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use tokio::runtime::Runtime;

use crate::{
    app::{AppError, DataFolder},
    config::ServerConfig,
    dataset::{AddError, ExportError, RulesError},
    domain::{InvalidClasses, LeakageKind, RunId, RunStatus},
    nn::NnError,
    service,
    store::{Db, StoreError},
    telemetry::{self, LogFormat},
};

/// Trains and serves chest-radiograph classifiers. For research only: not a medical device.
///
/// Without a command it serves.
#[derive(Parser, Debug)]
#[command(name = "thorax", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What is logged on standard error: a level (`error`, `warn`, `info`, `debug`), or levels by module. [default: info; for `train`,
    /// which tells by itself what happens, warn]
    #[arg(long, env = "THORAX_LOG", value_name = "FILTER", global = true)]
    log: Option<String>,

    /// How it is logged.
    #[arg(long, env = "THORAX_LOG_FORMAT", value_name = "FORMAT", default_value = "text", global = true)]
    log_format: LogFormat,

    #[command(flatten)]
    server: ServerConfig,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Serves the dashboard, the interface under /v1 and its description under /docs.
    Serve(ServerConfig),
    /// Draws a small synthetic data set, trains the small network on it in about a minute, and serves: the tour.
    Demo(demo::DemoArgs),
    /// Imports a folder of labelled radiographs into a data set. Bad rows and files are reported and do not stop the
    /// rest; importing twice adds nothing.
    Import(import::ImportArgs),
    /// Looks at data sets, generates, splits and exports them, whether a server runs or not.
    Dataset(dataset::DatasetArgs),
    /// Trains without a server, and leaves the same runs and models. A run that is interrupted goes on with `--resume`, or when a
    /// server starts on the folder.
    Train(train::TrainArgs),
    /// ImageNet weights.
    Weights(weights::WeightsArgs),
    /// Looks at training runs, whether a server runs or not.
    Runs(runs::RunsArgs),
    /// Draws synthetic chest phantoms into a folder in the COVIDx layout.
    Phantoms(phantoms::PhantomsArgs),
    /// Measures predictions and training steps on this machine, through the calls that the server makes.
    Bench(bench::BenchArgs),
    /// Prints the OpenAPI document.
    Openapi,
    /// Print a generated page of the documentation as Markdown.
    #[command(hide = true)]
    Docs(docs::DocsArgs),
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error(transparent)]
    App(#[from] AppError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{path}: {source}")]
    Path { path: PathBuf, source: io::Error },
    #[error("the import failed: {0}")]
    Import(String),
    #[error(transparent)]
    Classes(#[from] InvalidClasses),
    #[error(transparent)]
    Add(#[from] AddError),
    #[error(
        "{folder} holds the data set {dataset:?}: the demo keeps its drawn data in a folder of its own; name one with \
         --data-dir"
    )]
    NotTheDemo { folder: PathBuf, dataset: String },
    #[error("{0} holds no database: name the data folder with --data-dir")]
    NoDatabase(PathBuf),
    #[error("{folder} holds no training run {id}")]
    NoRun { id: RunId, folder: PathBuf },
    #[error("{folder} holds no data set {name:?}")]
    NoDataset { name: String, folder: PathBuf },
    #[error(
        "the data set leaks between its splits: {}. Scores on it are better than they would be on new patients; --acknowledge \
         NAME accepts that",
        .0.iter().map(LeakageKind::to_string).collect::<Vec<_>>().join(", ")
    )]
    Leakage(Vec<LeakageKind>),
    #[error(transparent)]
    Export(#[from] ExportError),
    #[error("the rules: {0}")]
    Rules(#[from] RulesError),
    #[error("{0}")]
    Refused(String),
    #[error("the run is {status}: {error}")]
    Training { status: RunStatus, error: String },
    #[error("interrupted: `thorax train --resume {0}` goes on, and so does a server that starts on this folder")]
    Interrupted(RunId),
    #[error(transparent)]
    Bench(#[from] bench::BenchError),
    #[error("{0}")]
    Network(#[from] NnError),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("the log filter (--log, THORAX_LOG): {0}")]
    Log(#[from] tracing_subscriber::filter::ParseError),
}

impl From<service::Error> for CliError {
    /// Lists each wrong field below the summary.
    fn from(error: service::Error) -> Self {
        let summary = error.to_string();
        match error {
            service::Error::Invalid(fields) => {
                let fields = fields.iter().map(|field| format!("{}: {}", field.pointer, field.detail));
                Self::Refused(std::iter::once(summary).chain(fields).collect::<Vec<_>>().join("\n  "))
            }
            service::Error::Leakage(findings) => {
                Self::Leakage(findings.into_iter().map(|finding| finding.name).collect())
            }
            service::Error::Store(error) => error.into(),
            _ => Self::Refused(summary),
        }
    }
}

/// A data folder that is there: who only looks makes none.
async fn open_existing(folder: &Path) -> Result<DataFolder, CliError> {
    if !Db::exists(folder) {
        return Err(CliError::NoDatabase(folder.to_owned()));
    }
    Ok(DataFolder::open(folder).await?)
}

/// Runs the program; failures go to standard error and end it with 1.
pub fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("thorax: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<(), CliError> {
    let quiet = matches!(cli.command, Some(Command::Train(_)));
    telemetry::init(cli.log.as_deref().unwrap_or(if quiet { "warn" } else { "info" }), cli.log_format)?;
    let runtime = Runtime::new()?;
    let outcome = runtime.block_on(async {
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
            Some(Command::Openapi) => openapi::print(),
            Some(Command::Docs(args)) => docs::print(&args),
        }
    });
    // Work that did not end in time is not waited for a second time.
    runtime.shutdown_background();
    outcome
}
