//! Export of a split as label file in the COVIDx format.

use std::collections::HashSet;

use crate::{
    domain::{RadiographId, Split},
    store::{self, Dataset, Db, Radiograph, StoreError},
};

use super::{
    PatientIds,
    covidx::{self, Row},
};

/// Export error.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The label file format cannot represent an image.
    #[error("an image cannot be represented in the COVIDx format: {0}")]
    Unwritable(String),
    /// Two images of a split have the same file name.
    #[error("{split} has two images called {file_name:?}, which a label file cannot distinguish")]
    SameName {
        /// Split of the images.
        split: Split,
        /// File name of both images.
        file_name: String,
    },
    /// Stored images are missing or damaged.
    #[error(
        "{split} has radiographs whose stored image is missing or damaged: {}. Upload their files again, or delete them",
        listed(radiographs)
    )]
    Damaged {
        /// Split of the images.
        split: Split,
        /// The radiographs.
        radiographs: Vec<RadiographId>,
    },
    /// A stored image cannot be decoded.
    #[error("radiograph {radiograph}: {problem}")]
    Image {
        /// The radiograph.
        radiograph: RadiographId,
        /// Error of the decoder.
        problem: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The first identifiers, and the number of the others.
fn listed(radiographs: &[RadiographId]) -> String {
    const MAX_LISTED: usize = 20;
    let first: Vec<String> = radiographs.iter().take(MAX_LISTED).map(ToString::to_string).collect();
    let others = match radiographs.len() - first.len() {
        0 => String::new(),
        others => format!(" and {others} more"),
    };
    first.join(", ") + &others
}

/// The label file of a split: `patient-id filename class source` for each labelled image, in order of arrival. Importing it again gives
/// the same data set. Patient ids are the stored hashes with a prefix that marks them as hashes, and `-` for unknown patients.
///
/// # Errors
/// File names that the format cannot represent or distinguish.
pub async fn label_file(db: &Db, dataset: &Dataset, split: Split) -> Result<String, ExportError> {
    let radiographs = store::radiographs::labelled_in_order(db, dataset.id, split).await?;
    let mut names = HashSet::new();
    if let Some(duplicate) = radiographs.iter().find(|radiograph| !names.insert(&radiograph.file_name)) {
        return Err(ExportError::SameName { split, file_name: duplicate.file_name.clone() });
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
