//! Generation of a COVIDx data set from its original sources, by rules like `create_COVIDx.ipynb` of COVID-Net, or by published label files.

mod clinical;
mod collection;
mod image_index;
mod labels;
mod radiography;
mod rsna;
mod rules;
mod table;

use std::path::{Path, PathBuf};

use crate::{
    domain::{ClassList, Split},
    store::ExcludedRows,
};

use super::entry::ImportEntry;
use collection::Collection;
pub use rules::{ClinicalRules, RadiographyRules, RsnaRules, Rules, RulesError, TestRules};

/// Generation of a data set.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Folders of the sources.
    pub sources: SourceFolders,
    /// Method that determines the images with their classes and splits.
    pub by: GenerationMethod,
}

/// Method that determines the class and the split of the images.
#[derive(Clone, Debug)]
pub enum GenerationMethod {
    /// Rules on the metadata of the sources.
    Rules(Box<Rules>),
    /// Label files in the COVIDx format, one per split. Their rows are matched with the images of the sources by name.
    Labels(Vec<(Split, PathBuf)>),
}

impl GenerationMethod {
    /// By label files if any is given, else by rules.
    pub fn new(train_labels: Option<PathBuf>, test_labels: Option<PathBuf>, rules: Rules) -> Self {
        let labels = [(Split::Train, train_labels), (Split::Test, test_labels)];
        let labels: Vec<_> = labels.into_iter().filter_map(|(split, file)| Some((split, file?))).collect();
        if labels.is_empty() { Self::Rules(Box::new(rules)) } else { Self::Labels(labels) }
    }
}

/// Folder of each available source, in its original layout.
#[derive(Clone, Debug, Default)]
pub struct SourceFolders {
    /// covid-chestxray-dataset: `metadata.csv`, `images`.
    pub cohen: Option<PathBuf>,
    /// Figure 1: `metadata.csv`, `images`.
    pub fig1: Option<PathBuf>,
    /// Actualmed: `metadata.csv`, `images`.
    pub actmed: Option<PathBuf>,
    /// COVID-19 Radiography Database: one folder per class, such as `COVID`, and `COVID.metadata.xlsx`.
    pub radiography: Option<PathBuf>,
    /// RSNA pneumonia challenge: `stage_2_detailed_class_info.csv`, `stage_2_train_labels.csv`, `stage_2_train_images`.
    pub rsna: Option<PathBuf>,
}

/// Source of COVIDx.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Source {
    Cohen,
    Fig1,
    Actmed,
    Radiography,
    Rsna,
}

impl Source {
    const ALL: [Self; 5] = [Self::Cohen, Self::Fig1, Self::Actmed, Self::Radiography, Self::Rsna];

    /// The name in COVIDx label files. The radiography database is called `sirm` there.
    fn as_str(self) -> &'static str {
        match self {
            Self::Cohen => "cohen",
            Self::Fig1 => "fig1",
            Self::Actmed => "actmed",
            Self::Radiography => "sirm",
            Self::Rsna => "rsna",
        }
    }
}

impl SourceFolders {
    /// True if no source is given.
    pub fn is_empty(&self) -> bool {
        Source::ALL.into_iter().all(|source| self.folder(source).is_none())
    }

    fn folder(&self, source: Source) -> Option<&Path> {
        let folder = match source {
            Source::Cohen => &self.cohen,
            Source::Fig1 => &self.fig1,
            Source::Actmed => &self.actmed,
            Source::Radiography => &self.radiography,
            Source::Rsna => &self.rsna,
        };
        folder.as_deref()
    }
}

/// The images of the sources with class and split, and the numbers of rows that the rules exclude.
///
/// # Errors
/// A source or label file cannot be read.
pub(super) fn entries(
    generation: &Generation,
    classes: &ClassList,
) -> Result<(Vec<ImportEntry>, Vec<ExcludedRows>), String> {
    let sources = &generation.sources;
    let rules = match &generation.by {
        GenerationMethod::Labels(files) => return Ok((labels::entries(sources, files, classes)?, Vec::new())),
        GenerationMethod::Rules(rules) => rules,
    };
    let problems = rules.validate(classes);
    if !problems.is_empty() {
        return Err(format!("the rules do not match the data set: {}", problems.join("; ")));
    }
    let mut collection = Collection::new(rules, classes);
    for source in Source::ALL {
        let Some(folder) = sources.folder(source) else { continue };
        let read = match source {
            Source::Cohen | Source::Fig1 | Source::Actmed => clinical::read(source, folder, &mut collection),
            Source::Radiography => radiography::read(folder, sources.cohen.as_deref(), &mut collection),
            Source::Rsna => rsna::read(folder, &mut collection),
        };
        read.map_err(|error| format!("{}: {error}", source.as_str()))?;
    }
    Ok(collection.finish())
}
