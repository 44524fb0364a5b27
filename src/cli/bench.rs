//! `thorax bench`: measures inference and training steps through the code paths of the server.

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
#[command(next_help_heading = "Benchmark")]
pub(super) struct BenchArgs {
    /// Workload to measure.
    #[arg(long, value_name = "CASE", default_value = "all")]
    case: CaseChoice,

    /// Architecture: `resnet50`, `vgg16` or `simple-cnn`. [default: that of `--weights`, else resnet50]
    #[arg(long, value_name = "ARCHITECTURE")]
    architecture: Option<Architecture>,

    /// Width and height of the input in pixels, one or more. [default: predict 224; train 128,224,229]
    #[arg(long, value_name = "PIXELS,PIXELS,…", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(32..=1024))]
    image_size: Vec<u32>,

    /// Batch size in images, one or more. [default: predict 1,8,32; train 32 up to 128 pixels, else 8]
    #[arg(long, value_name = "IMAGES,IMAGES,…", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=512))]
    batch: Vec<u32>,

    /// Number of measured repetitions of each case, after a warm-up. [default: predict 30; train 10]
    #[arg(long, value_name = "RUNS", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    runs: Option<u32>,

    /// Number of CPU threads. [default: one per core]
    #[arg(long, value_name = "THREADS", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,

    /// Model file to measure. [default: random weights with a fixed seed]
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,

    /// Write the network to a model file, for other programs to run, and exit without measuring.
    #[arg(long, value_name = "FILE")]
    export: Option<PathBuf>,

    /// Print one JSON object per line and case instead of a table.
    #[arg(long)]
    json: bool,

    /// Include the time of each repetition and the results (probabilities, or the loss of each step) in the JSON.
    #[arg(long, requires = "json")]
    details: bool,

    #[command(flatten)]
    device: DeviceConfig,
}

/// Errors of a benchmark.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    #[error("--threads applies to the CPU only, and the device is {0}: leave it out, or add --device cpu")]
    ThreadsOfGpu(String),
    #[error("cannot start the requested number of threads: {0}")]
    Threads(#[from] ThreadPoolBuildError),
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("{path}: {source}")]
    Model { path: PathBuf, source: NnError },
    #[error("{path} contains a {found}, but --architecture is {wanted}: leave --architecture out")]
    Architecture { path: PathBuf, found: String, wanted: String },
    #[error("the loss of step {0} is not finite")]
    NotFinite(usize),
    #[error("device error: {0}")]
    Device(#[from] ExecutionError),
}

pub(super) fn run(args: &BenchArgs) -> Result<(), CliError> {
    let (device, info) = args.device.device.open(None)?;
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

/// Sets the number of CPU threads and returns it; `None` on a GPU.
///
/// The size of rayon's global pool is the number of threads of all CPU computation, so this must run before any.
fn use_threads(threads: Option<u32>, device: &DeviceInfo) -> Result<Option<usize>, BenchError> {
    match threads {
        None if device.name == "cpu" => Ok(Some(rayon::current_num_threads())),
        None => Ok(None),
        Some(_) if device.name != "cpu" => Err(BenchError::ThreadsOfGpu(device.name.clone())),
        Some(threads) => {
            // Fails if the pool exists already, perhaps with another size.
            ThreadPoolBuilder::new().num_threads(threads as usize).build_global()?;
            Ok(Some(rayon::current_num_threads()))
        }
    }
}
