//! Clinicians' feedback: the true class of a recorded prediction, optionally with its image for a data set.

use super::{Error, Imports, Stores};
use crate::{
    dataset::{self, AddOutcome, NewRadiograph},
    domain::{DatasetId, Sha256, Split},
    store::{self, Prediction},
};

/// The image of a prediction, for a data set.
pub struct FeedbackImage {
    /// Name of the file, if it was sent.
    pub file_name: Option<String>,
    /// The file that was classified.
    pub bytes: bytes::Bytes,
    /// Data set that receives the image; `None` for an identifier that cannot exist.
    pub dataset: Option<DatasetId>,
    /// Patient id; that of a DICOM file when absent.
    pub patient_id: Option<String>,
    /// Split.
    pub split: Option<Split>,
}

/// Sets the true class of a prediction, or removes it.
///
/// # Errors
/// [`Error::Invalid`] where the label is not a class of the model.
pub async fn set_feedback(stores: &Stores, prediction: &Prediction, label: Option<&str>) -> Result<(), Error> {
    let class = label.map(|label| class_of(prediction, label)).transpose()?;
    Ok(store::predictions::set_feedback(&stores.db, prediction.id, class.as_deref()).await?)
}

/// Adds the image of a prediction to a data set with its true class, then sets the feedback. An image that the data set already has is
/// not changed.
///
/// # Errors
/// [`Error::Invalid`] where the file is not the one that was classified, or the data set does not exist.
pub async fn set_feedback_with_image(
    imports: &Imports,
    prediction: &Prediction,
    label: &str,
    image: FeedbackImage,
) -> Result<(), Error> {
    let Imports { stores, intake, limits, .. } = imports;
    let class = class_of(prediction, label)?;
    let dataset = match image.dataset {
        Some(id) => store::datasets::get(&stores.db, id).await?,
        None => None,
    };
    let dataset = dataset.ok_or_else(|| Error::invalid("/dataset_id", "there is no such data set"))?;
    if Sha256::of(&image.bytes) != prediction.input_sha256 {
        return Err(Error::invalid("/file", "is not the file that was classified: its SHA-256 differs"));
    }
    let new = NewRadiograph {
        bytes: image.bytes,
        file_name: image.file_name.filter(|_| intake.keep_file_names),
        label: Some(class.clone()),
        patient_id: image.patient_id,
        split: image.split,
        ..NewRadiograph::default()
    };
    let added = dataset::add(&stores.db, &stores.blobs, &dataset, new, &limits.image(), &intake.patient_ids).await?;
    let known = matches!(added, AddOutcome::Duplicate(..));
    tracing::info!(prediction = %prediction.id, dataset = %dataset.id, known, "image of a prediction added to a data set");
    Ok(store::predictions::set_feedback(&stores.db, prediction.id, Some(&class)).await?)
}

/// The class of the model that `label` names, in the model's spelling.
fn class_of(prediction: &Prediction, label: &str) -> Result<String, Error> {
    let classes = || prediction.probabilities.keys();
    let found = classes().find(|class| class.eq_ignore_ascii_case(label.trim()));
    found.cloned().ok_or_else(|| {
        let classes = classes().cloned().collect::<Vec<_>>().join(", ");
        Error::invalid("/label", format!("is not a class of the model: {classes}"))
    })
}
