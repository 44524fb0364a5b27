//! `thorax runs`: lists, shows and compares the training runs in the data folder, with or without a running server.

mod compare;
mod show;

use std::io::Write;

use clap::{Args, Subcommand};
use jiff::Timestamp;

pub(super) use show::RunReport;

use super::{CliError, open_existing, serve::DATA_FOLDER};
use crate::{
    config::DataConfig,
    domain::{RunId, RunStatus},
    format::{Column, Table},
    store::{self, Db, Page, Run, StoreError},
};

/// Page size when reading runs from the database.
const PAGE: u32 = 200;

#[derive(Args, Debug)]
pub(super) struct RunsArgs {
    #[command(subcommand)]
    command: RunsCommand,
}

#[derive(Subcommand, Debug)]
enum RunsCommand {
    /// List training runs, oldest first.
    List {
        /// Filter by status: queued, running, paused, cancelling, cancelled, failed or succeeded.
        #[arg(long, value_name = "STATUS")]
        status: Option<RunStatus>,

        /// Print a JSON array of runs, as in `GET /v1/training-runs`, instead of a table.
        #[arg(long)]
        json: bool,

        #[command(flatten)]
        data: DataConfig,
    },
    /// Show a training run: status, epochs, and the scores of the model of each stage.
    Show {
        /// Identifier of the run, from `thorax runs list`.
        id: RunId,

        /// Print one JSON object with the run, its epochs and its evaluations, instead of tables.
        #[arg(long)]
        json: bool,

        #[command(flatten)]
        data: DataConfig,
    },
    /// Compare runs: scores with confidence intervals, training time, parameters, and a paired test against the first run.
    Compare(compare::CompareArgs),
}

pub(super) async fn run(args: RunsArgs) -> Result<(), CliError> {
    let output = match args.command {
        RunsCommand::Compare(args) => return compare::run(args).await,
        RunsCommand::List { status, json, data } => {
            let folder = open_existing(&data.folder(DATA_FOLDER)).await?;
            let runs = all(&folder.stores.db, status).await?;
            folder.stores.db.close().await;
            if json { serde_json::to_string_pretty(&runs)? } else { run_table(&runs) }
        }
        RunsCommand::Show { id, json, data } => {
            let folder = open_existing(&data.folder(DATA_FOLDER)).await?;
            let report = RunReport::read(&folder.stores.db, id).await?;
            folder.stores.db.close().await;
            let report = report.ok_or(CliError::NoRun { id, folder: folder.path })?;
            if json { serde_json::to_string_pretty(&report)? } else { report.tables() }
        }
    };
    Ok(writeln!(std::io::stdout(), "{}", output.trim_end())?)
}

/// Reads all runs, page by page.
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

fn run_table(runs: &[Run]) -> String {
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
            utc(run.created_at),
            or_none(run.name.as_deref()),
        ]
    };
    Table::new(columns, runs.iter().map(row)).to_text()
}

fn percent(fraction: f64) -> String {
    format!("{:.0} %", fraction * 100.0)
}

/// A time in UTC, to the second.
fn utc(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

fn or_none(text: Option<&str>) -> String {
    text.unwrap_or("-").into()
}
