//! `thorax runs list`, `thorax runs show ID` and `thorax runs compare ID ID`: what the database says about training runs, whether a server runs or not.

mod compare;
mod show;
mod table;

use std::io::Write;

use clap::{Args, Subcommand};

pub(super) use show::Shown;

use self::table::{Column, table};
use super::{CliError, open_existing, serve::DATA_FOLDER};
use crate::{
    config::DataConfig,
    domain::{RunId, RunStatus},
    store::{self, Db, Page, Run, StoreError},
};

/// Runs that are read at once.
const PAGE: u32 = 200;

#[derive(Args, Debug)]
pub(super) struct RunsArgs {
    #[command(subcommand)]
    command: RunsCommand,
}

#[derive(Subcommand, Debug)]
enum RunsCommand {
    /// Lists the training runs, oldest first.
    List {
        /// Only those in this state: queued, running, paused, cancelling, cancelled, failed or succeeded.
        #[arg(long, value_name = "STATUS")]
        status: Option<RunStatus>,

        /// In place of a table an array of JSON objects, those of GET /v1/training-runs.
        #[arg(long)]
        json: bool,

        #[command(flatten)]
        data: DataConfig,
    },
    /// Shows a training run: where it stands, its epochs, and the scores of its stages' models.
    Show {
        /// As `thorax runs list` has it.
        id: RunId,

        /// In place of tables one JSON object: the run, its epochs and its evaluations.
        #[arg(long)]
        json: bool,

        #[command(flatten)]
        data: DataConfig,
    },
    /// Compares runs: scores with their intervals, training time, parameters, and a test of the difference to the first.
    Compare(compare::CompareArgs),
}

pub(super) async fn run(args: RunsArgs) -> Result<(), CliError> {
    let said = match args.command {
        RunsCommand::Compare(args) => return compare::run(args).await,
        RunsCommand::List { status, json, data } => {
            let folder = open_existing(&data.folder(DATA_FOLDER)).await?;
            let runs = all(&folder.stores.db, status).await?;
            folder.stores.db.close().await;
            if json { serde_json::to_string_pretty(&runs)? } else { listed(&runs) }
        }
        RunsCommand::Show { id, json, data } => {
            let folder = open_existing(&data.folder(DATA_FOLDER)).await?;
            let found = Shown::read(&folder.stores.db, id).await?;
            folder.stores.db.close().await;
            let shown = found.ok_or(CliError::NoRun { id, folder: folder.path })?;
            if json { serde_json::to_string_pretty(&shown)? } else { shown.tables() }
        }
    };
    Ok(writeln!(std::io::stdout(), "{said}")?)
}

/// All runs, page by page.
async fn all(db: &Db, status: Option<RunStatus>) -> Result<Vec<Run>, StoreError> {
    let mut runs: Vec<Run> = Vec::new();
    loop {
        let after = runs.last().map(|run| run.id.to_string());
        let page = store::runs::list(db, status, &Page { limit: PAGE, after }).await?;
        let is_last = page.len() < PAGE as usize;
        runs.extend(page);
        if is_last {
            return Ok(runs);
        }
    }
}

fn listed(runs: &[Run]) -> String {
    let columns = [
        Column::text("id"),
        Column::text("status"),
        Column::number("done"),
        Column::text("network"),
        Column::text("recipe"),
        Column::text("created (UTC)"),
        Column::text("name"),
    ];
    let row = |run: &Run| {
        [
            run.id.to_string(),
            run.status.to_string(),
            percent(run.progress.fraction),
            run.plan.architecture.to_string(),
            or_none(run.recipe.as_deref()),
            table::time(run.created_at),
            or_none(run.name.as_deref()),
        ]
    };
    table(columns, runs.iter().map(row))
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

fn or_none(text: Option<&str>) -> String {
    text.unwrap_or("-").into()
}
