//! `thorax probe`: checks the results of a compute device against the CPU.

use std::{
    io::{Write, stdout},
    path::PathBuf,
    time::Instant,
};

use burn::tensor::Device;
use clap::Args;

use super::CliError;
use crate::{
    app,
    config::DeviceConfig,
    domain::{Architecture, BlockVariant, ClassList, ModelSpec, Normalisation, Scope},
    nn::{self, Compiled, Network},
};

#[derive(Args, Debug)]
#[command(next_help_heading = "Probe")]
pub(super) struct ProbeArgs {
    /// Also check a network of this architecture with random weights: `resnet50`, `vgg16` or `simple-cnn`.
    ///
    /// The first run on a device takes minutes, because each shape is tuned. The results of tuning are kept.
    #[arg(long, value_name = "ARCHITECTURE")]
    architecture: Option<Architecture>,

    /// Width and height of the network's input in pixels.
    #[arg(long, value_name = "PIXELS", default_value_t = 224, requires = "architecture",
          value_parser = clap::value_parser!(u32).range(32..=1024))]
    image_size: u32,

    /// Batch sizes of the network in images, one or more.
    #[arg(long, value_name = "IMAGES,IMAGES,…", default_value = "1,8", requires = "architecture", value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(1..=512))]
    batch: Vec<u32>,

    /// Also check a training step of the network, in the largest batch size.
    #[arg(long, requires = "architecture")]
    training: bool,

    /// Print the devices as JSON and exit.
    #[arg(long, hide = true)]
    list: bool,

    /// Folder of the autotune cache.
    #[arg(long, value_name = "FOLDER", hide = true)]
    tuning: Option<PathBuf>,

    /// Do nothing if the file records that these drivers passed; record it in the file if they do.
    #[arg(long, value_name = "FILE", hide = true)]
    record: Option<PathBuf>,

    #[command(flatten)]
    device: DeviceConfig,
}

pub(super) fn run(args: &ProbeArgs) -> Result<(), CliError> {
    let mut out = stdout().lock();
    if args.list {
        return Ok(serde_json::to_writer(out, &nn::devices())?);
    }
    let drivers = nn::drivers();
    if args.record.as_deref().is_some_and(|file| app::has_passed(file, &drivers)) {
        return Ok(());
    }
    let began = Instant::now();
    let (device, info) = args.device.device.open(args.tuning.as_deref())?;
    let driver = info.driver.map(|driver| format!(", driver {driver}")).unwrap_or_default();
    writeln!(out, "{}: {}{driver}", info.name, info.description)?;
    nn::check_device(&device).map_err(CliError::Refused)?;
    let mut report = |what: &str, began: Instant| writeln!(out, "ok: {what} ({:.1} s)", began.elapsed().as_secs_f64());
    report("products, convolutions, pooling and gradients", began)?;
    if let Some(architecture) = args.architecture {
        let spec = ModelSpec {
            architecture,
            block_variant: BlockVariant::V1_5,
            classes: ClassList::default(),
            image_size: args.image_size,
            normalisation: Normalisation { scale: 1.0 / 255.0, mean: [0.5; 3], std: [0.25; 3] },
            dropout: 0.0,
        };
        let network = Network::random(&spec, 1, &Device::flex());
        let file = network.to_bytes(&spec);
        let compiled = |device| Ok::<_, CliError>(Compiled::new(&Network::from_bytes(&file, device)?.0, &spec, device));
        let sizes: Vec<usize> = args.batch.iter().map(|&size| size as usize).collect();
        let began = Instant::now();
        nn::check_inference(&compiled(&device)?, &compiled(&Device::flex())?, args.image_size, &sizes)?;
        report(&format!("{architecture} at {} px in batches of {sizes:?}", args.image_size), began)?;
        if args.training {
            let (began, largest) = (Instant::now(), sizes.iter().copied().max().unwrap_or(1));
            nn::check_training(&network, &spec, Scope::All, largest, &device)?;
            report(&format!("a training step of {largest} images"), began)?;
        }
    }
    if let Some(file) = &args.record {
        app::record_passed(file, &drivers).map_err(|source| CliError::Path { path: file.clone(), source })?;
    }
    Ok(())
}
