//! `thorax bench`: how long predictions and training steps take here, through the calls that serving and training make.

mod case;
mod measure;
mod memory;
mod report;
mod subject;

use std::{fs, io, path::PathBuf};

use burn::tensor::ExecutionError;
use clap::Args;
use rayon::{ThreadPoolBuildError, ThreadPoolBuilder};

use self::{
    case::{CaseChoice, Selection},
    measure::Bench,
    report::Report,
    subject::Subject,
};
use super::CliError;
use crate::{
    config::DeviceConfig,
    domain::{Architecture, DeviceInfo},
    nn::NnError,
};

#[derive(Args, Debug)]
pub(super) struct BenchArgs {
    /// What is measured.
    #[arg(long, value_name = "CASE", default_value = "all")]
    case: CaseChoice,

    /// `resnet50`, `vgg16` or `simple-cnn`. [default: that of the weights, else resnet50]
    #[arg(long, value_name = "ARCHITECTURE")]
    architecture: Option<Architecture>,

    /// Input side in pixels, several by commas. [default: predict 224, train 128,224,229]
    #[arg(long, value_name = "PIXELS", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(32..=1024))]
    image_size: Vec<u32>,

    /// Images at once, several by commas. [default: predict 1,8,32; train 32 up to 128 pixels, above that 8]
    #[arg(long, value_name = "IMAGES", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=512))]
    batch: Vec<u32>,

    /// Measured runs of each case, after some that are not. [default: predict 30, train 10]
    #[arg(long, value_name = "RUNS", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    runs: Option<u32>,

    /// Threads that compute, on the CPU. [default: one a core]
    #[arg(long, value_name = "THREADS", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,

    /// A model file to measure; without one the weights are random, and the same each time.
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,

    /// Writes the network as a model file, so that others can run the same one, and measures nothing.
    #[arg(long, value_name = "FILE")]
    export: Option<PathBuf>,

    /// One JSON object a case, each on a line, in place of a table.
    #[arg(long)]
    json: bool,

    /// With --json: also the time of each run, and what was computed: probabilities, or the loss of each step.
    #[arg(long, requires = "json")]
    details: bool,

    #[command(flatten)]
    on: DeviceConfig,
}

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    #[error(
        "--threads sets how many threads of the CPU compute, and the device is {0}: leave it out or add --device cpu"
    )]
    ThreadsOfGpu(String),
    #[error("cannot compute with that many threads: {0}")]
    Threads(#[from] ThreadPoolBuildError),
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("{path}: {source}")]
    Model { path: PathBuf, source: NnError },
    #[error("{path} holds a {found}, not the {wanted} of --architecture")]
    Architecture { path: PathBuf, found: String, wanted: String },
    #[error("the loss of step {0} is not finite")]
    NotFinite(usize),
    #[error("the device failed: {0}")]
    Device(#[from] ExecutionError),
}

pub(super) fn run(args: &BenchArgs) -> Result<(), CliError> {
    let (device, info) = args.on.device.open(None)?;
    let threads = use_threads(args.threads, &info)?;
    let subject = Subject::new(args.architecture, args.weights.as_deref())?;
    let cases = args.selection().cases();
    if let Some(path) = &args.export {
        let file = subject.model_file(cases[0].image_size)?;
        return Ok(fs::write(path, file).map_err(|source| BenchError::File { path: path.clone(), source })?);
    }
    let bench = Bench { device, device_name: info.name, threads, subject, details: args.details };
    let mut report = Report::begin(args.json)?;
    for case in cases {
        report.add(&bench.measure(&case)?)?;
    }
    Ok(())
}

impl BenchArgs {
    fn selection(&self) -> Selection<'_> {
        Selection { choice: self.case, image_sizes: &self.image_size, batches: &self.batch, runs: self.runs }
    }
}

/// Sets how many threads compute, before anything does, and says how many it is; none where a GPU computes.
///
/// All that computes on the CPU takes its number of threads from rayon's pool.
fn use_threads(threads: Option<u32>, device: &DeviceInfo) -> Result<Option<usize>, BenchError> {
    match threads {
        None if device.name == "cpu" => Ok(Some(rayon::current_num_threads())),
        None => Ok(None),
        Some(_) if device.name != "cpu" => Err(BenchError::ThreadsOfGpu(device.name.clone())),
        Some(threads) => {
            // Refused when the pool is there already, with another number perhaps.
            ThreadPoolBuilder::new().num_threads(threads as usize).build_global()?;
            Ok(Some(rayon::current_num_threads()))
        }
    }
}
