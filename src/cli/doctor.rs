//! `thorax doctor`: examines a data folder, for people and for monitoring.

use std::io::{Write, stdout};

use clap::Args;

use super::{CliError, open_existing, serve::DATA_FOLDER};
use crate::{
    config::DataConfig,
    store::{self, Examination, Severity},
};

#[derive(Args, Debug)]
pub(super) struct DoctorArgs {
    /// Read every image, model and weight file, and compare its hash. Takes as long as reading the whole folder.
    #[arg(long)]
    hash: bool,

    /// Accept the database as that of the folder, after it was restored or replaced, and accept that `patient.key` is lost.
    ///
    /// A server removes no file from a folder whose database it does not recognise: one of another folder, or an older copy. After
    /// `--adopt`, the next server removes images, models and checkpoints that the database does not name. A missing `patient.key` is
    /// replaced by a new one, unless THORAX_PATIENT_KEY is set: the same patient then gets another hash than before, and leakage between
    /// earlier and later images of a patient is not found.
    #[arg(long)]
    adopt: bool,

    #[command(flatten)]
    data: DataConfig,
}

pub(super) async fn run(args: &DoctorArgs) -> Result<(), CliError> {
    let folder = args.data.folder(DATA_FOLDER);
    if !store::is_data_folder(&folder) {
        return Err(CliError::NoDataFolder(folder));
    }
    if args.adopt {
        let opened = open_existing(&folder).await?;
        opened.adopt(args.data.patient_key.as_deref()).await?;
        opened.stores.db.close().await;
    }
    let examination = Examination {
        hash: args.hash,
        low_disk_bytes: args.data.low_disk_bytes,
        has_operators_key: args.data.patient_key.is_some(),
    };
    let diagnosis = store::diagnose(&folder, &examination).await;
    let mut out = stdout().lock();
    for finding in &diagnosis.0 {
        let severity = match finding.severity {
            Severity::Fine => "ok",
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        writeln!(out, "{severity}: {}", finding.text)?;
    }
    if diagnosis.is_healthy() { Ok(()) } else { Err(CliError::Unhealthy(folder)) }
}
