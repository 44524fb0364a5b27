//! The sources of COVIDx as they are distributed, brought together: by rules, as `create_COVIDx.ipynb` of COVID-Net does it, or by published
//! label files.

mod clinical;
mod collection;
mod labels;
mod pictures;
mod radiography;
mod rsna;
mod rules;
mod sheet;

use std::path::{Path, PathBuf};

use crate::{
    domain::{ClassList, Split},
    store::ExcludedRows,
};

use super::layout::Entry;
use collection::Collection;
pub use rules::{ClinicalRules, RadiographyRules, RsnaRules, Rules, RulesError, TestRules};

/// What a data set is made of, and how.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Where the sources are.
    pub sources: SourceFolders,
    /// Which images, of which class and split.
    pub by: GenerateBy,
}

/// What says of which class and split an image is.
#[derive(Clone, Debug)]
pub enum GenerateBy {
    /// Rules about the sources' metadata.
    Rules(Box<Rules>),
    /// Label files in the COVIDx format, with the split of each: their rows are matched with the sources' images by name.
    Labels(Vec<(Split, PathBuf)>),
}

impl GenerateBy {
    /// By the label files or, where there are none, by the rules.
    pub fn of(train_labels: Option<PathBuf>, test_labels: Option<PathBuf>, rules: Rules) -> Self {
        let labels = [(Split::Train, train_labels), (Split::Test, test_labels)];
        let labels: Vec<_> = labels.into_iter().filter_map(|(split, file)| Some((split, file?))).collect();
        if labels.is_empty() { Self::Rules(Box::new(rules)) } else { Self::Labels(labels) }
    }
}

/// The folder of each source that is there, as it is distributed.
#[derive(Clone, Debug, Default)]
pub struct SourceFolders {
    /// covid-chestxray-dataset: `metadata.csv`, `images`.
    pub cohen: Option<PathBuf>,
    /// Figure 1: `metadata.csv`, `images`.
    pub fig1: Option<PathBuf>,
    /// Actualmed: `metadata.csv`, `images`.
    pub actmed: Option<PathBuf>,
    /// COVID-19 Radiography Database: a folder a class, such as `COVID`, with `COVID.metadata.xlsx` beside it.
    pub radiography: Option<PathBuf>,
    /// RSNA pneumonia challenge: `stage_2_detailed_class_info.csv`, `stage_2_train_labels.csv`, `stage_2_train_images`.
    pub rsna: Option<PathBuf>,
}

/// One of the sources.
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

    /// As COVIDx calls it, whose label files say `sirm` of the radiography database.
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
    /// Whether no source is there.
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

/// All images of the sources with their class and split, and how many rows the rules leave out; an error means that a source or label
/// file cannot be read.
pub(super) fn entries(generation: &Generation, classes: &ClassList) -> Result<(Vec<Entry>, Vec<ExcludedRows>), String> {
    let sources = &generation.sources;
    let rules = match &generation.by {
        GenerateBy::Labels(files) => return Ok((labels::entries(sources, files, classes)?, Vec::new())),
        GenerateBy::Rules(rules) => rules,
    };
    let problems = rules.problems(classes);
    if !problems.is_empty() {
        return Err(format!("the rules do not fit: {}", problems.join("; ")));
    }
    let mut collection = Collection::new(rules, classes);
    for source in Source::ALL {
        let Some(folder) = sources.folder(source) else { continue };
        let read = match source {
            Source::Cohen | Source::Fig1 | Source::Actmed => clinical::read(source, folder, &mut collection),
            Source::Radiography => radiography::read(folder, sources.cohen.as_deref(), &mut collection),
            Source::Rsna => rsna::read(folder, &mut collection),
        };
        read.map_err(|why| format!("{}: {why}", source.as_str()))?;
    }
    Ok(collection.finish())
}
