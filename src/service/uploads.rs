//! Uploads of single radiographs, by a form or by DICOMweb.

use super::{Intake, Limits, Stores};
use crate::{
    dataset::{self, AddError, AddOutcome, NewRadiograph},
    store::Dataset,
};

/// Use cases about uploaded radiographs.
#[derive(Clone)]
pub struct Uploads {
    /// Store of the radiographs.
    pub stores: Stores,
    /// Storing of file names and patient ids.
    pub intake: Intake,
    /// Limits on files.
    pub limits: Limits,
}

impl Uploads {
    /// Adds a radiograph to a data set, unless the data set has the same content already.
    ///
    /// # Errors
    /// [`AddError`] with the field or the property of the image that is refused.
    pub async fn add(&self, dataset: &Dataset, new: NewRadiograph) -> Result<AddOutcome, AddError> {
        let Stores { db, blobs, .. } = &self.stores;
        dataset::add(db, blobs, dataset, new, &self.limits.image(), &self.intake.patient_ids).await
    }
}
