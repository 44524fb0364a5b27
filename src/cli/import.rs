//! `thorax import`

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

/// Between two lines of progress where the terminal cannot overwrite one.
const LINE_EVERY: Duration = Duration::from_secs(10);

#[derive(Args, Debug)]
pub(super) struct ImportArgs {
    /// Name of the data set; made when there is none.
    #[arg(long, value_name = "NAME")]
    dataset: String,

    /// Its classes, in the order of the network's outputs. [default: normal,pneumonia,COVID-19]
    #[arg(long, value_name = "CLASS,CLASS,…", value_delimiter = ',')]
    classes: Option<Vec<String>>,

    /// Split file of the images in `train/`, relative to the folder. [default: train_split.txt]
    #[arg(long, value_name = "FILE")]
    train_split: Option<String>,

    /// Split file of the images in `test/`, relative to the folder. [default: test_split.txt]
    #[arg(long, value_name = "FILE")]
    test_split: Option<String>,

    /// A folder in the COVIDx layout, with arrays of NumPy, or with one folder a class.
    folder: PathBuf,

    #[command(flatten)]
    data: DataConfig,
}

pub(super) async fn run(args: ImportArgs) -> Result<(), CliError> {
    let root = real(&args.folder)?;
    let path = root.display().to_string();
    let from =
        ImportSource::Folder(LabelledFolder { root, train_split: args.train_split, test_split: args.test_split });
    carry_out(&args.data, &args.dataset, args.classes, path, from).await
}

/// The place that a path names, which must be there.
pub(super) fn real(path: &Path) -> Result<PathBuf, CliError> {
    path.canonicalize().map_err(|source| CliError::Path { path: path.to_owned(), source })
}

/// Imports into a data set, made when there is none, and tells what became of it.
pub(super) async fn carry_out(
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

/// Imports with progress on standard error; ctrl-c ends it between two images.
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
            "the data set {name:?} has the classes {}, which cannot be changed",
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
        writeln!(out, "{source}: {rows} rows passed over: {reason}")?;
    }
    let Import { total, created, duplicates, rejected, .. } = import;
    writeln!(out, "{total} found: {created} new, {duplicates} already there, {rejected} rejected")
}

/// One line that is overwritten on a terminal; now and then a line elsewhere.
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
        } else if self.last.elapsed() >= LINE_EVERY {
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
