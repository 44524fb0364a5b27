//! A split as other programs read it: its label file in the COVIDx format.

use std::collections::HashSet;

use crate::{
    domain::Split,
    store::{self, Dataset, Db, Radiograph, StoreError},
};

use super::{
    PatientIds,
    covidx::{self, Row},
};

/// Why something cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The format has no room for an image's row.
    #[error("the row of an image cannot be written in the COVIDx format: {0}")]
    Unwritable(String),
    /// The row of one of the two would be taken for the other's.
    #[error("{split} has two images called {file_name:?}, which a label file cannot tell apart")]
    SameName {
        /// Where.
        split: Split,
        /// Of both.
        file_name: String,
    },
    /// A stored image cannot be decoded.
    #[error("{file_name}: {problem}")]
    Image {
        /// Which.
        file_name: String,
        /// What the decoder said.
        problem: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The label file of a split: `patient-id filename class source` for each of its images that has a class, in the order in which they came
/// in, so that an import reads the very same images again. Of patients it has the stored hashes, marked as such, and `-` where
/// there is none.
///
/// # Errors
/// Names that the format cannot hold or tell apart.
pub async fn label_file(db: &Db, dataset: &Dataset, split: Split) -> Result<String, ExportError> {
    let radiographs = store::radiographs::labelled_in_order(db, dataset.id, split).await?;
    let mut names = HashSet::new();
    if let Some(twice) = radiographs.iter().find(|radiograph| !names.insert(&radiograph.file_name)) {
        return Err(ExportError::SameName { split, file_name: twice.file_name.clone() });
    }
    let rows: Vec<Row> = (1..).zip(&radiographs).filter_map(|(line, radiograph)| row(line, radiograph)).collect();
    covidx::write(&rows, &dataset.classes).map_err(|problem| ExportError::Unwritable(problem.reason))
}

fn row(line: u32, radiograph: &Radiograph) -> Option<Row> {
    Some(Row {
        line,
        patient_id: radiograph.patient_id.as_deref().map(PatientIds::exported),
        file_name: radiograph.file_name.clone(),
        class: radiograph.label.clone()?,
        source: radiograph.source.clone(),
    })
}
