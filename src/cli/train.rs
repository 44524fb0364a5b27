//! `thorax train`: trains without a server, and stores the same run and models as a server does.

mod board;

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use tokio::sync::broadcast::error::RecvError;

use self::board::Board;
use super::{CliError, dataset, field_errors, runs::RunReport, serve::DATA_FOLDER};
use crate::{
    app::Trainer,
    config::{DataConfig, DeviceConfig},
    domain::{LeakageKind, PlanOverrides, RunId, RunStatus},
    service::{self, Fields, JsonObject, RunRequest},
    store::{self, Db, Run, StoreError, StoredEvent},
};

/// Interval between two reads of events and progress from the database.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Page size when reading events.
const PAGE: u32 = 200;

#[derive(Args, Debug)]
#[command(next_help_heading = "Training")]
pub(super) struct TrainArgs {
    /// Data set to train on, by name or identifier.
    #[arg(long, value_name = "NAME", required_unless_present = "resume")]
    dataset: Option<String>,

    /// Recipe that provides the training plan, by name. `GET /v1/recipes` lists the recipes.
    #[arg(long, value_name = "RECIPE", default_value = "covid-resnet")]
    recipe: String,

    /// Stages of the plan to train, by number, starting from 1. [default: all]
    #[arg(long, value_name = "STAGE,STAGE,…", value_delimiter = ',')]
    stages: Option<Vec<usize>>,

    /// JSON file of plan fields that replace those of the recipe; `-` reads standard input.
    ///
    /// The fields are those of `plan` in `POST /v1/training-runs`.
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,

    /// Name of the run.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Random seed for shuffling, initialisation, augmentation and dropout.
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u32,

    /// Leakage between splits to accept, by the names that `thorax dataset check` reports.
    #[arg(long, value_name = "NAME,NAME,…", value_delimiter = ',')]
    acknowledge: Vec<LeakageKind>,

    /// Resume this run from its last checkpoint, instead of starting a new one.
    #[arg(long, value_name = "ID", conflicts_with_all = ["dataset", "recipe", "stages", "plan", "name", "seed", "acknowledge"])]
    resume: Option<RunId>,

    #[command(flatten)]
    device: DeviceConfig,

    #[command(flatten)]
    data: DataConfig,
}

pub(super) async fn run(args: TrainArgs) -> Result<(), CliError> {
    let mut trainer = Trainer::open(&args.data, args.device.device, DATA_FOLDER).await?;
    let db = trainer.folder().stores.db.clone();
    let run = match args.resume {
        Some(id) => resume(&trainer, id).await?,
        None => submit(&trainer, args).await?,
    };
    eprintln!("Run {} on {} ({}).", run.id, trainer.device().name, trainer.device().description);
    follow(&mut trainer, &run).await?;
    let report = RunReport::read(&db, run.id).await?;
    db.close().await;
    let report = report.ok_or_else(|| no_run(&trainer, run.id))?;
    write!(std::io::stdout(), "{}", report.tables())?;
    into_result(report.run())
}

/// The result of the command, from the final status of the run.
fn into_result(run: &Run) -> Result<(), CliError> {
    match run.status {
        RunStatus::Succeeded => Ok(()),
        RunStatus::Queued => Err(CliError::Interrupted(run.id)),
        status => {
            Err(CliError::Training { status, error: run.error.clone().unwrap_or_else(|| "no error recorded".into()) })
        }
    }
}

/// Validates and queues a new run, as the server does.
async fn submit(trainer: &Trainer, args: TrainArgs) -> Result<Run, CliError> {
    let folder = trainer.folder();
    let source = match &args.plan {
        Some(file) => format!("--plan {}", file.display()),
        None => format!("--recipe {}", args.recipe),
    };
    let dataset = dataset::find(folder, args.dataset.as_deref().unwrap_or_default()).await?;
    let mut unreadable = Vec::new();
    let overrides = match &args.plan {
        Some(file) => service::read_plan_overrides(Fields::new("/plan", read_plan(file)?, &mut unreadable)),
        None => PlanOverrides::default(),
    };
    let request = RunRequest {
        dataset_id: Some(dataset.id),
        recipe: args.recipe,
        overrides,
        stages: args.stages,
        name: args.name,
        seed: args.seed,
        acknowledge: args.acknowledge,
        unreadable,
    };
    let submitted = service::submit(&folder.stores, trainer.device().memory_bytes, request).await;
    submitted.map_err(|error| field_errors::refused(error, &source))
}

/// Reads the JSON object in a file, or on standard input for `-`.
fn read_plan(path: &Path) -> Result<JsonObject, CliError> {
    let from_input = path.as_os_str() == "-";
    let text = if from_input { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(path) };
    let text = text.map_err(|source| CliError::Path { path: path.to_owned(), source })?;
    serde_json::from_str(&text).map_err(|source| CliError::Plan { path: path.to_owned(), source })
}

async fn resume(trainer: &Trainer, id: RunId) -> Result<Run, CliError> {
    store::runs::resume(&trainer.folder().stores.db, id, None).await?.ok_or_else(|| no_run(trainer, id))
}

fn no_run(trainer: &Trainer, id: RunId) -> CliError {
    CliError::NoRun { id, folder: trainer.folder().path.clone() }
}

/// Trains, and shows progress.
async fn follow(trainer: &mut Trainer, run: &Run) -> Result<(), CliError> {
    let (db, mut batches) = (trainer.folder().stores.db.clone(), trainer.batches().subscribe());
    let mut events = Events::starting_now(&db, run.id).await?;
    let mut board = Board::new(run);
    let mut poll = tokio::time::interval(POLL_INTERVAL);
    let mut training = std::pin::pin!(trainer.train(run.id));
    loop {
        tokio::select! {
            ended = &mut training => {
                board.show_events(&events.next().await?);
                return Ok(ended?);
            }
            batch = batches.recv() => match batch {
                Ok((_, batch)) => board.batch(&batch.batch),
                // Missed batches do not matter: the board shows the latest one.
                Err(RecvError::Lagged(_) | RecvError::Closed) => {}
            },
            _ = poll.tick() => {
                board.show_events(&events.next().await?);
                if let Some(run) = store::runs::get(&db, run.id).await? {
                    board.progress(&run.progress);
                }
            }
        }
    }
}

/// Reader of the events of a run, page by page.
struct Events<'a> {
    db: &'a Db,
    run: RunId,
    after: u64,
}

impl<'a> Events<'a> {
    /// Skips all events so far.
    async fn starting_now(db: &'a Db, run: RunId) -> Result<Self, StoreError> {
        let mut events = Self { db, run, after: 0 };
        while !events.next().await?.is_empty() {}
        Ok(events)
    }

    async fn next(&mut self) -> Result<Vec<StoredEvent>, StoreError> {
        let events = store::events::list(self.db, self.run, self.after, PAGE).await?;
        self.after = events.last().map_or(self.after, |event| event.id);
        Ok(events)
    }
}
