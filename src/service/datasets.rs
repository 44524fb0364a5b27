//! Look-up and deletion of data sets and radiographs.

use super::{Error, Stores};
use crate::{
    domain::{DatasetId, RadiographId},
    store::{self, Dataset, Radiograph},
};

/// The data set of an identifier.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn find_dataset(stores: &Stores, id: DatasetId) -> Result<Dataset, Error> {
    store::datasets::get(&stores.db, id).await?.ok_or(Error::NotFound("data set"))
}

/// The radiograph of an identifier.
///
/// # Errors
/// [`Error::NotFound`].
pub async fn find_radiograph(stores: &Stores, id: RadiographId) -> Result<Radiograph, Error> {
    store::radiographs::get(&stores.db, id).await?.ok_or(Error::NotFound("radiograph"))
}

/// Deletes a data set with its radiographs and caches. Images that no other data set uses are removed later, by the sweep of the blobs.
///
/// # Errors
/// [`Error::NotFound`], or [`Error::Conflict`] while a run on the data set is not final.
pub async fn delete_dataset(stores: &Stores, id: DatasetId) -> Result<(), Error> {
    refuse_while_in_use(stores, id).await?;
    if !store::datasets::delete(&stores.db, id).await? {
        return Err(Error::NotFound("data set"));
    }
    Ok(stores.caches.remove(id).await?)
}

/// Deletes a radiograph. Its image is removed later, by the sweep of the blobs, if no other data set uses it.
///
/// # Errors
/// The same errors as [`delete_dataset`].
pub async fn delete_radiograph(stores: &Stores, id: RadiographId) -> Result<(), Error> {
    let dataset = find_radiograph(stores, id).await?.dataset_id;
    refuse_while_in_use(stores, dataset).await?;
    if !store::radiographs::delete(&stores.db, id).await? {
        return Err(Error::NotFound("radiograph"));
    }
    // The cache holds the pixels of the radiograph too.
    Ok(stores.caches.remove(dataset).await?)
}

/// Training reads the images of its data set until the run is final.
async fn refuse_while_in_use(stores: &Stores, id: DatasetId) -> Result<(), Error> {
    match store::runs::count_active(&stores.db, id).await? {
        0 => Ok(()),
        n => Err(Error::Conflict(format!("{n} training runs on this data set are not finished: cancel them first"))),
    }
}
