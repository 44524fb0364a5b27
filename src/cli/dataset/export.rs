//! `thorax dataset export NAME --out FOLDER --labels --arrays`

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
#[group(id = "what", required = true, multiple = true, args = ["labels", "arrays"])]
pub(super) struct ExportArgs {
    /// Name or identifier of the data set.
    dataset: String,

    /// Folder to write into; made when missing. Files of these names that are there are replaced.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,

    /// Writes each split's label file in the COVIDx format, such as `train_split.txt`.
    #[arg(long)]
    labels: bool,

    /// Writes each split's images and labels as arrays of NumPy, such as `x_train_128.npy` and `y_train.npy`: classes are positions in the
    /// data set's list, which is printed.
    #[arg(long)]
    arrays: bool,

    #[command(flatten)]
    images: ImageArgs,

    #[command(flatten)]
    data: DataConfig,
}

/// How images are written.
#[derive(Args, Debug)]
struct ImageArgs {
    /// Width and height of the images, in pixels.
    #[arg(long, value_name = "PIXELS", default_value_t = 128, requires = "arrays",
          value_parser = clap::value_parser!(u32).range(i64::from(*ARRAY_SIDES.start())..=i64::from(*ARRAY_SIDES.end())))]
    image_size: u32,

    /// `float32` from 0 to 1, or `uint8` from 0 to 255.
    #[arg(long, value_name = "TYPE", default_value = "float32", requires = "arrays")]
    dtype: Dtype,

    /// 3 that are alike, or 1.
    #[arg(long, value_name = "NUMBER", default_value = "3", requires = "arrays", value_parser = channels)]
    channels: u8,
}

pub(super) async fn run(args: ExportArgs) -> Result<(), CliError> {
    let folder = open_existing(&args.data.folder(DATA_FOLDER)).await?;
    let dataset = find(&folder, &args.dataset).await?;
    std::fs::create_dir_all(&args.out).map_err(at(&args.out))?;
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
    let left_out = left_out(folder, dataset).await?;
    if left_out > 0 {
        writeln!(out, "left out: {left_out} images without a class or a split")?;
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

async fn left_out(folder: &DataFolder, dataset: &Dataset) -> Result<usize, CliError> {
    let all = store::radiographs::all(&folder.stores.db, dataset.id).await?;
    Ok(all.iter().filter(|radiograph| radiograph.label.is_none() || radiograph.split.is_none()).count())
}

/// By temporary name and rename: what is there under the name is whole.
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

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> CliError + use<'_> {
    move |source| CliError::Path { path: path.to_owned(), source }
}
