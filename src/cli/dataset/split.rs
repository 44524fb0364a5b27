//! `thorax dataset split`: assigns images to splits.

use clap::Args;

use super::{find, print_distribution};
use crate::{
    cli::{CliError, open_existing, serve::DATA_FOLDER},
    config::DataConfig,
    dataset::{self, Fractions},
};

#[derive(Args, Debug)]
pub(super) struct SplitArgs {
    /// Data set, by name or identifier.
    dataset: String,

    /// Fraction of the images of each class that go into the test split, at least 0 and less than 1.
    #[arg(long, value_name = "FRACTION", default_value_t = 0.1, value_parser = fraction)]
    test_fraction: f64,

    /// Fraction of the remaining images of each class that go into the validation split, at least 0 and less than 1.
    #[arg(long, value_name = "FRACTION", default_value_t = 0.0, value_parser = fraction)]
    validation_fraction: f64,

    /// Random seed for choosing patients.
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u32,

    #[command(flatten)]
    data: DataConfig,
}

pub(super) async fn run(args: SplitArgs) -> Result<(), CliError> {
    let folder = open_existing(&args.data.folder(DATA_FOLDER)).await?;
    let dataset = find(&folder, &args.dataset).await?;
    let fractions = Fractions { test: args.test_fraction, validation: args.validation_fraction };
    let warnings = dataset::split(&folder.stores.db, dataset.id, fractions, args.seed.into()).await?;
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    let table = dataset::distribution(&folder.stores.db, &dataset).await?;
    folder.stores.db.close().await;
    print_distribution(&table, super::TableFormat::Text)
}

fn fraction(text: &str) -> Result<f64, String> {
    let fraction = text.parse().ok().filter(|fraction| (0.0..1.0).contains(fraction));
    fraction.ok_or_else(|| "must be at least 0 and below 1".into())
}
