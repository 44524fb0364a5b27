//! `thorax train`: a training run without a server, with the same rows and models as one has from a server.

mod board;

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use tokio::sync::broadcast::error::RecvError;

use self::board::Board;
use super::{CliError, dataset, runs::Shown, serve::DATA_FOLDER};
use crate::{
    app::Trainer,
    config::{DataConfig, DeviceConfig},
    domain::{LeakageKind, PlanOverrides, RunId, RunStatus},
    service::{self, Fields, JsonObject, RunRequest},
    store::{self, Db, Run, StoreError, StoredEvent},
};

/// How often events and progress are looked for.
const LOOK: Duration = Duration::from_millis(250);

/// Events that are read at once.
const PAGE: u32 = 200;

#[derive(Args, Debug)]
pub(super) struct TrainArgs {
    /// Name or identifier of the data set.
    #[arg(long, value_name = "NAME", required_unless_present = "resume")]
    dataset: Option<String>,

    /// A plan by name, of those under /v1/recipes.
    #[arg(long, value_name = "RECIPE", default_value = "covid-resnet")]
    recipe: String,

    /// Only these of the plan's stages, by their numbers from 1. [default: all]
    #[arg(long, value_name = "STAGE,STAGE,…", value_delimiter = ',')]
    stages: Option<Vec<usize>>,

    /// JSON file with fields that replace the recipe's, as `plan` of POST /v1/training-runs; `-` reads standard input.
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,

    /// Name of the run.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Of shuffling, initialisation and dropout.
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u32,

    /// Leakage between the data set's splits that is known and accepted, by the names that `thorax dataset check` gives.
    #[arg(long, value_name = "NAME,NAME,…", value_delimiter = ',')]
    acknowledge: Vec<LeakageKind>,

    /// In place of a new run, lets this one go on from its last checkpoint.
    #[arg(long, value_name = "ID", conflicts_with_all = ["dataset", "recipe", "stages", "plan", "name", "seed", "acknowledge"])]
    resume: Option<RunId>,

    #[command(flatten)]
    on: DeviceConfig,

    #[command(flatten)]
    data: DataConfig,
}

pub(super) async fn run(args: TrainArgs) -> Result<(), CliError> {
    let mut trainer = Trainer::open(&args.data, args.on.device, DATA_FOLDER).await?;
    let db = trainer.folder().stores.db.clone();
    let run = match args.resume {
        Some(id) => resumed(&trainer, id).await?,
        None => submitted(&trainer, args).await?,
    };
    eprintln!("Run {} on {} ({}).", run.id, trainer.device().name, trainer.device().description);
    follow(&mut trainer, &run).await?;
    let shown = Shown::read(&db, run.id).await?;
    db.close().await;
    let shown = shown.ok_or_else(|| no_run(&trainer, run.id))?;
    writeln!(std::io::stdout(), "{}", shown.tables())?;
    conclude(shown.run())
}

/// The run lets the command succeed or fail.
fn conclude(run: &Run) -> Result<(), CliError> {
    match run.status {
        RunStatus::Succeeded => Ok(()),
        RunStatus::Queued => Err(CliError::Interrupted(run.id)),
        status => {
            Err(CliError::Training { status, error: run.error.clone().unwrap_or_else(|| "without a cause".into()) })
        }
    }
}

/// Submits a new run, validated as the server validates one.
async fn submitted(trainer: &Trainer, args: TrainArgs) -> Result<Run, CliError> {
    let folder = trainer.folder();
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
    Ok(service::submit(&folder.stores, request).await?)
}

/// Reads the JSON object in a file, or on standard input for `-`.
fn read_plan(path: &Path) -> Result<JsonObject, CliError> {
    let from_input = path.as_os_str() == "-";
    let text = if from_input { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(path) };
    let text = text.map_err(|source| CliError::Path { path: path.to_owned(), source })?;
    Ok(serde_json::from_str(&text)?)
}

async fn resumed(trainer: &Trainer, id: RunId) -> Result<Run, CliError> {
    store::runs::resume(&trainer.folder().stores.db, id, None).await?.ok_or_else(|| no_run(trainer, id))
}

fn no_run(trainer: &Trainer, id: RunId) -> CliError {
    CliError::NoRun { id, folder: trainer.folder().path.clone() }
}

/// Trains, and shows what happens meanwhile.
async fn follow(trainer: &mut Trainer, run: &Run) -> Result<(), CliError> {
    let (db, mut batches) = (trainer.folder().stores.db.clone(), trainer.batches().subscribe());
    let mut events = Events::from_now_on(&db, run.id).await?;
    let mut board = Board::new(run);
    let mut look = tokio::time::interval(LOOK);
    let mut training = std::pin::pin!(trainer.train(run.id));
    loop {
        tokio::select! {
            ended = &mut training => {
                board.tell(&events.next().await?);
                return Ok(ended?);
            }
            batch = batches.recv() => match batch {
                Ok((_, batch)) => board.batch(&batch.batch),
                // The board is only as new as the last batch that it was told of.
                Err(RecvError::Lagged(_) | RecvError::Closed) => {}
            },
            _ = look.tick() => {
                board.tell(&events.next().await?);
                if let Some(run) = store::runs::get(&db, run.id).await? {
                    board.progress(&run.progress);
                }
            }
        }
    }
}

/// What happens to a run from a moment on.
struct Events<'a> {
    db: &'a Db,
    run: RunId,
    after: u64,
}

impl<'a> Events<'a> {
    async fn from_now_on(db: &'a Db, run: RunId) -> Result<Self, StoreError> {
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
