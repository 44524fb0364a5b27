//! `thorax import`: imports a folder of labelled radiographs.

use std::{
    io::{IsTerminal, Write, stderr, stdout},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{CliError, serve::DATA_FOLDER};
use crate::{
    app::DataFolder,
    config::DataConfig,
    dataset::{self, ImportRequest, ImportSource, LabelledFolder},
    domain::ClassList,
    imaging,
    store::{self, Dataset, ExcludedRows, Import},
};

/// Interval between two progress lines when standard error is not a terminal.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Args, Debug)]
pub(super) struct ImportArgs {
    /// Name of the data set. Created if it does not exist.
    #[arg(long, value_name = "NAME")]
    dataset: String,

    /// Classes of the data set, in the order of the network's outputs. [default: normal,pneumonia,COVID-19]
    #[arg(long, value_name = "CLASS,CLASS,…", value_delimiter = ',')]
    classes: Option<Vec<String>>,

    /// Class of the data set for a class name in the label files or folders. An empty class leaves the images out. May be repeated.
    #[arg(long = "map-class", value_name = "NAME=CLASS", value_parser = mapped_class)]
    map_class: Vec<(String, Option<String>)>,

    /// Label file of the training images, relative to the folder. [default: train_split.txt, else train.txt]
    #[arg(long, value_name = "FILE")]
    train_split: Option<String>,

    /// Label file of the validation images, relative to the folder. [default: validation_split.txt, else val.txt]
    #[arg(long, value_name = "FILE")]
    validation_split: Option<String>,

    /// Label file of the test images, relative to the folder. [default: test_split.txt, else test.txt]
    #[arg(long, value_name = "FILE")]
    test_split: Option<String>,

    /// Folder to import: in the COVIDx layout, with NumPy arrays, or with one subfolder per class.
    folder: PathBuf,

    #[command(flatten)]
    data: DataConfig,
}

pub(super) async fn run(args: ImportArgs) -> Result<(), CliError> {
    let root = canonical(&args.folder)?;
    let path = root.display().to_string();
    let from = ImportSource::Folder(LabelledFolder {
        root,
        train_split: args.train_split,
        validation_split: args.validation_split,
        test_split: args.test_split,
        class_mapping: args.map_class.into_iter().collect(),
    });
    run_import(&args.data, &args.dataset, args.classes, path, from).await
}

/// Parses `NAME=CLASS`, or `NAME=` for a name to leave out.
fn mapped_class(text: &str) -> Result<(String, Option<String>), String> {
    let (name, class) = text.split_once('=').ok_or("must be NAME=CLASS, or NAME= to leave the images out")?;
    Ok((name.to_owned(), Some(class.to_owned()).filter(|class| !class.is_empty())))
}

/// The canonical form of a path that must exist.
pub(super) fn canonical(path: &Path) -> Result<PathBuf, CliError> {
    path.canonicalize().map_err(|source| CliError::Path { path: path.to_owned(), source })
}

/// Imports into a data set, created if it does not exist, and prints the result.
pub(super) async fn run_import(
    data: &DataConfig,
    name: &str,
    classes: Option<Vec<String>>,
    path: String,
    from: ImportSource,
) -> Result<(), CliError> {
    let folder = DataFolder::open(&data.folder(DATA_FOLDER)).await?;
    let dataset = find_or_create(&folder, name, classes).await?;
    let import = Import::started(dataset.id, path);
    store::imports::create(&folder.stores.db, &import, None).await?;
    let request = ImportRequest {
        dataset,
        from,
        limits: imaging::Limits { max_pixels: data.max_pixels },
        max_bytes: data.max_upload_bytes,
        patient_ids: folder.patient_ids(data.patient_key.as_deref())?,
        resumable: false,
    };
    let import = follow(&folder, &request, import).await?;
    let rejections = store::imports::rejections(&folder.stores.db, import.id).await?;
    folder.stores.db.close().await;
    report(&import, &rejections)?;
    import.error.map_or(Ok(()), |why| Err(CliError::Import(why)))
}

/// Imports with progress on standard error. Ctrl-C stops the import between two images.
async fn follow(folder: &DataFolder, request: &ImportRequest, import: Import) -> Result<Import, CliError> {
    let stop = CancellationToken::new();
    let stopper = stop.clone();
    let interrupt = tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stopper.cancel();
        }
    });
    let mut progress = Progress::new();
    let mut show = |import: &Import| progress.show(import);
    let finished = dataset::import(&folder.stores.db, &folder.stores.blobs, request, import, &stop, &mut show).await;
    progress.end();
    interrupt.abort();
    Ok(finished?)
}

async fn find_or_create(folder: &DataFolder, name: &str, classes: Option<Vec<String>>) -> Result<Dataset, CliError> {
    let classes = classes.map(ClassList::new).transpose()?;
    let new = Dataset { classes: classes.clone().unwrap_or_default(), ..Dataset::new(name) };
    let dataset = store::datasets::find_or_create(&folder.stores.db, new).await?;
    match classes {
        Some(classes) if classes != dataset.classes => Err(CliError::Import(format!(
            "data set {name:?} has the classes {}, which cannot be changed: leave --classes out, or import into another \
             data set",
            dataset.classes.names().join(",")
        ))),
        _ => Ok(dataset),
    }
}

fn report(import: &Import, rejections: &[store::ImportRejection]) -> std::io::Result<()> {
    let mut out = stdout().lock();
    for rejection in rejections {
        match rejection.line {
            Some(line) => writeln!(out, "{}:{line}: {}", rejection.file, rejection.reason)?,
            None => writeln!(out, "{}: {}", rejection.file, rejection.reason)?,
        }
    }
    for ExcludedRows { source, reason, rows } in &import.passed_over {
        writeln!(out, "{source}: {rows} left out: {reason}")?;
    }
    let Import { total, created, duplicates, rejected, .. } = import;
    writeln!(out, "{total} found: {created} imported, {duplicates} duplicates, {rejected} rejected")
}

/// Progress on standard error: one line that is overwritten on a terminal, otherwise a line at intervals.
struct Progress {
    overwrite: bool,
    last: Instant,
}

impl Progress {
    fn new() -> Self {
        Self { overwrite: stderr().is_terminal(), last: Instant::now() }
    }

    fn show(&mut self, import: &Import) {
        let Import { total, created, duplicates, rejected, .. } = import;
        let done = created + duplicates + rejected;
        if self.overwrite {
            eprint!("\r{done} of {total}, {rejected} rejected ");
        } else if self.last.elapsed() >= PROGRESS_INTERVAL {
            self.last = Instant::now();
            eprintln!("{done} of {total}, {rejected} rejected");
        }
    }

    fn end(&self) {
        if self.overwrite {
            eprintln!();
        }
    }
}
