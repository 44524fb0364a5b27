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
    store::{self, Dataset, ExcludedRows, Import, ImportConflict, ImportFindings, ImportRejection},
};

/// Interval between two progress lines when standard error is not a terminal.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// Maximum number of conflicts that are listed. After a data set was split again, each image of its folder has one.
const MAX_CONFLICTS: usize = 20;

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
    let patient_ids = folder.patient_ids(data.patient_key.as_deref()).await?;
    let (dataset, is_new) = find_or_create(&folder, name, classes).await?;
    let import = Import::started(dataset.id, path);
    store::imports::create(&folder.stores.db, &import, None).await?;
    let request = ImportRequest {
        dataset,
        from,
        limits: imaging::Limits { max_pixels: data.max_pixels },
        max_bytes: data.max_upload_bytes,
        patient_ids,
        resumable: false,
    };
    let import = follow(&folder, &request, import).await?;
    let findings = ImportFindings {
        rejections: store::imports::rejections(&folder.stores.db, import.id).await?,
        conflicts: store::imports::conflicts(&folder.stores.db, import.id).await?,
    };
    // An import that found nothing to read leaves no empty data set behind.
    if is_new && import.error.is_some() && import.total == 0 {
        store::datasets::delete_empty(&folder.stores.db, import.dataset_id).await?;
    }
    folder.stores.db.close().await;
    report(&import, &findings)?;
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

/// The data set, and true if it was created.
async fn find_or_create(
    folder: &DataFolder,
    name: &str,
    classes: Option<Vec<String>>,
) -> Result<(Dataset, bool), CliError> {
    let classes = classes.map(ClassList::new).transpose()?;
    let new = Dataset { classes: classes.clone().unwrap_or_default(), ..Dataset::new(name) };
    let id = new.id;
    let dataset = store::datasets::find_or_create(&folder.stores.db, new).await?;
    match classes {
        Some(classes) if classes != dataset.classes => Err(CliError::Import(format!(
            "data set {name:?} has the classes {}, which cannot be changed: leave --classes out, or import into another \
             data set",
            dataset.classes.names().join(",")
        ))),
        _ => {
            let is_new = dataset.id == id;
            Ok((dataset, is_new))
        }
    }
}

fn report(import: &Import, findings: &ImportFindings) -> std::io::Result<()> {
    let mut out = stdout().lock();
    for ImportRejection { file, line, reason, .. } in &findings.rejections {
        writeln!(out, "{}: {reason}", place(file, *line))?;
    }
    for ImportConflict { file, line, differs, .. } in findings.conflicts.iter().take(MAX_CONFLICTS) {
        let differs = differs.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
        writeln!(
            out,
            "{}: the image is in the data set already, with another {differs}; it is not changed",
            place(file, *line)
        )?;
    }
    if let Some(more @ 1..) = findings.conflicts.len().checked_sub(MAX_CONFLICTS) {
        writeln!(out, "… and {more} more images that are in the data set already with other values")?;
    }
    for ExcludedRows { source, reason, rows } in &import.passed_over {
        writeln!(out, "{source}: {rows} left out: {reason}")?;
    }
    let Import { total, created, duplicates, conflicting, rejected, .. } = import;
    let conflicting = match conflicting {
        0 => String::new(),
        count => format!(" ({count} with another label, split, patient or view)"),
    };
    writeln!(out, "{total} found: {created} imported, {duplicates} duplicates{conflicting}, {rejected} rejected")
}

/// The position of a finding: a file, or a line of it.
fn place(file: &str, line: Option<u32>) -> String {
    line.map_or_else(|| file.to_owned(), |line| format!("{file}:{line}"))
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
