//! `thorax dataset export NAME --out FOLDER --labels`

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use clap::Args;

use super::find;
use crate::{
    app::DataFolder,
    cli::{CliError, open_existing, serve::DATA_FOLDER},
    config::DataConfig,
    dataset,
    domain::Split,
    store::{self, Dataset},
};

#[derive(Args, Debug)]
#[group(id = "what", required = true, multiple = true, args = ["labels"])]
pub(super) struct ExportArgs {
    /// Name or identifier of the data set.
    dataset: String,

    /// Folder to write into; made when missing. Files of these names that are there are replaced.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,

    /// Writes each split's label file in the COVIDx format, such as `train_split.txt`.
    #[arg(long)]
    labels: bool,

    #[command(flatten)]
    data: DataConfig,
}

pub(super) async fn run(args: ExportArgs) -> Result<(), CliError> {
    let folder = open_existing(&args.data.folder(DATA_FOLDER)).await?;
    let dataset = find(&folder, &args.dataset).await?;
    std::fs::create_dir_all(&args.out).map_err(at(&args.out))?;
    let written = export(&args, &folder, &dataset).await;
    folder.db.close().await;
    written
}

async fn export(args: &ExportArgs, folder: &DataFolder, dataset: &Dataset) -> Result<(), CliError> {
    let mut out = std::io::stdout();
    for split in Split::ALL {
        let images = store::radiographs::labelled_in_order(&folder.db, dataset.id, split).await?.len();
        if images == 0 {
            continue;
        }
        if args.labels {
            let text = dataset::label_file(&folder.db, dataset, split).await?;
            let path = args.out.join(format!("{split}_split.txt"));
            write(&path, text.as_bytes()).map_err(at(&path))?;
            writeln!(out, "{}: {images} images", path.display())?;
        }
    }
    let left_out = left_out(folder, dataset).await?;
    if left_out > 0 {
        writeln!(out, "left out: {left_out} images without a class or a split")?;
    }
    Ok(())
}

async fn left_out(folder: &DataFolder, dataset: &Dataset) -> Result<usize, CliError> {
    let all = store::radiographs::all(&folder.db, dataset.id).await?;
    Ok(all.iter().filter(|radiograph| radiograph.label.is_none() || radiograph.split.is_none()).count())
}

/// By temporary name and rename: what is there under the name is whole.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> CliError + use<'_> {
    move |source| CliError::Path { path: path.to_owned(), source }
}
