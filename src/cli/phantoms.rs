//! `thorax phantoms`: generates synthetic radiographs in the COVIDx layout, for tests and demonstrations of the import.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write, stdout},
    path::{Path, PathBuf},
};

use clap::Args;

use super::CliError;
use crate::{
    domain::Split,
    imaging::phantom::{self, Phantom},
};

/// Source of the images, in label files and in the database.
pub(super) const SOURCE: &str = "synthetic";

#[derive(Args, Debug)]
pub(super) struct PhantomsArgs {
    /// Output folder for `train/`, `test/` and their label files. Created if missing.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,

    /// Number of images, with the three classes in turn.
    #[arg(long, value_name = "IMAGES", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,

    /// Random seed. The same seed generates the same images.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,

    /// Width and height of the images in pixels.
    #[arg(long, value_name = "PIXELS", default_value_t = 256, alias = "side",
          value_parser = clap::value_parser!(u32).range(32..=2048))]
    image_size: u32,
}

pub(super) fn run(args: &PhantomsArgs) -> Result<(), CliError> {
    let failed = |source| CliError::Path { path: args.out.clone(), source };
    let (train, test) = write(args).map_err(failed)?;
    Ok(writeln!(stdout(), "{}: {train} images in train/, {test} in test/, all synthetic", args.out.display())?)
}

fn write(args: &PhantomsArgs) -> io::Result<(u32, u32)> {
    let mut train = SplitFolder::create(&args.out, "train")?;
    let mut test = SplitFolder::create(&args.out, "test")?;
    let mut patients = Patients::default();
    for phantom in phantom::series(args.seed, args.count, args.image_size) {
        let folder = if patients.split(&phantom) == Split::Test { &mut test } else { &mut train };
        folder.add(&phantom)?;
    }
    Ok((train.finish()?, test.finish()?))
}

/// Assigns patients to splits in turn: of five patients of a class, three train, one validates and one tests.
#[derive(Default)]
pub(super) struct Patients(BTreeMap<String, usize>);

impl Patients {
    /// The split of the phantom's patient, the same for all images of a patient.
    pub(super) fn split(&mut self, phantom: &Phantom) -> Split {
        let next = self.0.len();
        let number = *self.0.entry(phantom.patient_id.clone()).or_insert(next);
        // The classes take turns, so every third patient has the same class.
        match number / phantom::Appearance::ALL.len() % 5 {
            1 => Split::Test,
            3 => Split::Validation,
            _ => Split::Train,
        }
    }
}

/// A folder of images and its label file.
struct SplitFolder {
    folder: PathBuf,
    rows: io::BufWriter<fs::File>,
    images: u32,
}

impl SplitFolder {
    fn create(out: &Path, name: &str) -> io::Result<Self> {
        let folder = out.join(name);
        fs::create_dir_all(&folder)?;
        let rows = fs::File::create(out.join(format!("{name}_split.txt")))?;
        Ok(Self { folder, rows: io::BufWriter::new(rows), images: 0 })
    }

    fn add(&mut self, phantom: &Phantom) -> io::Result<()> {
        let Phantom { file_name, patient_id, label, image } = phantom;
        fs::write(self.folder.join(file_name), phantom::encode_png(image))?;
        self.images += 1;
        writeln!(self.rows, "{patient_id} {file_name} {label} {SOURCE}")
    }

    fn finish(mut self) -> io::Result<u32> {
        self.rows.flush()?;
        Ok(self.images)
    }
}
