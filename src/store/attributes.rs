//! Attributes of radiographs: from the `sources.csv` of an import, or else from the DICOM header.

use std::collections::HashMap;

use sqlx::SqliteConnection;

use super::{Db, StoreError, columns};
use crate::domain::{DatasetId, DicomAttributes, RadiographId};

/// Attributes of an image as its collection published it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// Collection in which the image was published.
    pub collection: Option<String>,
    /// Projection, such as `PA`; stored in the row of the radiograph.
    pub view: Option<String>,
    /// Age of the patient in whole years; 90 stands for 90 and above.
    pub age_years: Option<u32>,
    /// Sex of the patient, `female` or `male`.
    pub sex: Option<String>,
    /// Width of the published file, in pixels.
    pub original_width: Option<u32>,
    /// Height of the published file, in pixels.
    pub original_height: Option<u32>,
    /// Pixel mode of the published file, such as `L` or `RGB`.
    pub original_mode: Option<String>,
    /// Format of the published file, such as `PNG`.
    pub original_format: Option<String>,
    /// Licence of the published file.
    pub licence: Option<String>,
}

impl Attributes {
    /// The attributes in a DICOM header.
    pub fn from_dicom(dicom: &DicomAttributes) -> Self {
        let sex = match dicom.sex.as_deref() {
            Some("F") => Some("female".into()),
            Some("M") => Some("male".into()),
            _ => None,
        };
        Self { view: dicom.view.clone(), age_years: dicom.age_years.map(u32::from), sex, ..Self::default() }
    }

    /// True if [`put`] with `new` would change nothing for a radiograph that has these attributes. A view that it has is never replaced.
    pub fn cover(&self, new: &Self) -> bool {
        *self == Self { view: self.view.clone().or_else(|| new.view.clone()), ..new.clone() }
    }
}

/// Replaces the attributes of a radiograph. A view that it has is not replaced. A radiograph that does not exist is ignored.
pub async fn put(db: &Db, id: RadiographId, attributes: &Attributes) -> Result<(), StoreError> {
    let mut tx = db.begin().await?;
    put_in(&mut tx, id, attributes).await?;
    tx.commit().await?;
    Ok(())
}

/// [`put`] within a write transaction, for a new radiograph.
pub(super) async fn put_in(
    tx: &mut SqliteConnection,
    id: RadiographId,
    attributes: &Attributes,
) -> Result<(), StoreError> {
    let id = id.to_string();
    sqlx::query!(
        "insert or replace into radiograph_attributes (radiograph_id, collection, age_years, sex, original_width,
           original_height, original_mode, original_format, licence)
           select id, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9 from radiographs where id = ?1",
        id,
        attributes.collection,
        attributes.age_years,
        attributes.sex,
        attributes.original_width,
        attributes.original_height,
        attributes.original_mode,
        attributes.original_format,
        attributes.licence,
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!("update radiographs set view = ? where id = ? and view is null", attributes.view, id)
        .execute(tx)
        .await?;
    Ok(())
}

/// Attributes of the radiographs of a data set that have any.
pub async fn of_dataset(db: &Db, dataset: DatasetId) -> Result<HashMap<RadiographId, Attributes>, StoreError> {
    let dataset = dataset.to_string();
    let rows = sqlx::query!(
        "select radiograph_attributes.*, view from radiograph_attributes join radiographs on id = radiograph_id
           where dataset_id = ?",
        dataset
    )
    .fetch_all(db.read())
    .await?;
    let number = |column, value: Option<i64>| value.map(|value| columns::number(column, value)).transpose();
    rows.into_iter()
        .map(|row| {
            let attributes = Attributes {
                collection: row.collection,
                view: row.view,
                age_years: number("radiograph_attributes.age_years", row.age_years)?,
                sex: row.sex,
                original_width: number("radiograph_attributes.original_width", row.original_width)?,
                original_height: number("radiograph_attributes.original_height", row.original_height)?,
                original_mode: row.original_mode,
                original_format: row.original_format,
                licence: row.licence,
            };
            Ok((columns::parse("radiograph_attributes.radiograph_id", &row.radiograph_id)?, attributes))
        })
        .collect()
}
