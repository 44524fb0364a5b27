//! `thorax dataset export`: writes label files and NumPy arrays.

use std::{
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use clap::Args;
use futures_util::{StreamExt, stream};

use super::find;
use crate::{
    app::DataFolder,
    cli::{CliError, open_existing, serve::DATA_FOLDER},
    config::DataConfig,
    dataset::{self, ARRAY_SIDES, ArraySpec, ArrayStream, Dtype},
    domain::Split,
    imaging,
    store::{self, Dataset},
};

#[derive(Args, Debug)]
#[group(id = "content", required = true, multiple = true, args = ["labels", "arrays"])]
pub(super) struct ExportArgs {
    /// Data set, by name or identifier.
    dataset: String,

    /// Output folder. Created if missing; existing files with the same names are replaced.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,

    /// Write a label file for each split in the COVIDx format, such as `train_split.txt`.
    #[arg(long)]
    labels: bool,

    /// Write the images and labels of each split as NumPy arrays, such as `x_train_128.npy` and `y_train.npy`.
    ///
    /// A label is the index of the class in the data set's class list, which the command prints.
    #[arg(long)]
    arrays: bool,

    #[command(flatten)]
    images: ImageArgs,

    #[command(flatten)]
    data: DataConfig,
}

/// Format of the images in arrays.
#[derive(Args, Debug)]
#[command(next_help_heading = "Arrays")]
struct ImageArgs {
    /// Width and height of the images in pixels.
    #[arg(long, value_name = "PIXELS", default_value_t = 128, requires = "arrays",
          value_parser = clap::value_parser!(u32).range(i64::from(*ARRAY_SIDES.start())..=i64::from(*ARRAY_SIDES.end())))]
    image_size: u32,

    /// Data type: `float32` (0 to 1) or `uint8` (0 to 255).
    #[arg(long, value_name = "TYPE", default_value = "float32", requires = "arrays")]
    dtype: Dtype,

    /// Number of channels: 1 (grey) or 3 (grey, repeated).
    #[arg(long, value_name = "NUMBER", default_value = "3", requires = "arrays", value_parser = channels)]
    channels: u8,
}

pub(super) async fn run(args: ExportArgs) -> Result<(), CliError> {
    let folder = open_existing(&args.data.folder(DATA_FOLDER)).await?;
    let dataset = find(&folder, &args.dataset).await?;
    std::fs::create_dir_all(&args.out).map_err(path_error(&args.out))?;
    let written = export(&args, &folder, &dataset).await;
    folder.stores.db.close().await;
    written
}

async fn export(args: &ExportArgs, folder: &DataFolder, dataset: &Dataset) -> Result<(), CliError> {
    let mut out = std::io::stdout();
    for split in Split::ALL {
        let images = store::radiographs::labelled_in_order(&folder.stores.db, dataset.id, split).await?.len();
        if images == 0 {
            continue;
        }
        let mut written = Vec::new();
        if args.labels {
            written.push(label_file(args, folder, dataset, split).await?);
        }
        if args.arrays {
            written.extend(arrays(args, folder, dataset, split).await?);
        }
        for path in written {
            writeln!(out, "{}: {images} images", path.display())?;
        }
    }
    if args.arrays {
        let classes = (0..).zip(dataset.classes.names()).map(|(at, class): (usize, _)| format!("{at} {class}"));
        writeln!(out, "classes: {}", classes.collect::<Vec<_>>().join(", "))?;
    }
    let incomplete = incomplete(folder, dataset).await?;
    if incomplete > 0 {
        writeln!(out, "not exported: {incomplete} images without a class or a split")?;
    }
    Ok(())
}

async fn label_file(
    args: &ExportArgs,
    folder: &DataFolder,
    dataset: &Dataset,
    split: Split,
) -> Result<PathBuf, CliError> {
    let text = dataset::label_file(&folder.stores.db, dataset, split).await?;
    let path = args.out.join(format!("{split}_split.txt"));
    let bytes = text.len() as u64;
    let chunks = Box::pin(stream::iter([Ok(text.into())]));
    write(&path, ArrayStream { bytes, chunks }).await?;
    Ok(path)
}

async fn arrays(
    args: &ExportArgs,
    folder: &DataFolder,
    dataset: &Dataset,
    split: Split,
) -> Result<[PathBuf; 2], CliError> {
    let ImageArgs { image_size: side, dtype, channels } = args.images;
    let limits = imaging::Limits { max_pixels: args.data.max_pixels };
    let images = args.out.join(format!("x_{split}_{side}.npy"));
    let spec = ArraySpec { side, dtype, channels };
    write(
        &images,
        dataset::image_array(&folder.stores.db, &folder.stores.blobs, dataset.id, split, spec, limits).await?,
    )
    .await?;
    let labels = args.out.join(format!("y_{split}.npy"));
    write(&labels, dataset::label_array(&folder.stores.db, dataset, split).await?).await?;
    Ok([images, labels])
}

async fn incomplete(folder: &DataFolder, dataset: &Dataset) -> Result<usize, CliError> {
    let all = store::radiographs::all(&folder.stores.db, dataset.id).await?;
    Ok(all.iter().filter(|radiograph| radiograph.label.is_none() || radiograph.split.is_none()).count())
}

/// Writes a temporary file, syncs and renames it, so that `path` never holds a partial file.
async fn write(path: &Path, mut file: ArrayStream) -> Result<(), CliError> {
    let failed = |source| CliError::Path { path: path.to_owned(), source };
    let readable = std::fs::Permissions::from_mode(0o666);
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut partial = tempfile::Builder::new().permissions(readable).tempfile_in(folder).map_err(failed)?;
    while let Some(chunk) = file.chunks.next().await {
        partial.write_all(&chunk?).map_err(failed)?;
    }
    partial.as_file().sync_all().map_err(failed)?;
    partial.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

fn channels(text: &str) -> Result<u8, String> {
    text.parse().ok().filter(|channels| matches!(channels, 1 | 3)).ok_or_else(|| "must be 1 or 3".into())
}

fn path_error(path: &Path) -> impl FnOnce(std::io::Error) -> CliError + use<'_> {
    move |source| CliError::Path { path: path.to_owned(), source }
}
