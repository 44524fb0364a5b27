//! What a folder's `sources.csv`, or else the header of a DICOM, says about an image.

use std::collections::HashMap;

use sqlx::SqliteConnection;

use super::{Db, StoreError, columns};
use crate::domain::{DatasetId, DicomAttributes, RadiographId};

/// An image as its collection published it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// Where it was published.
    pub collection: Option<String>,
    /// Projection; kept with the radiograph itself.
    pub view: Option<String>,
    /// In whole years; 90 stands for all above.
    pub age_years: Option<u32>,
    /// `female` or `male`.
    pub sex: Option<String>,
    /// Columns of the published file.
    pub original_width: Option<u32>,
    /// Rows of the published file.
    pub original_height: Option<u32>,
    /// Its kind of pixels, such as `L` or `RGB`.
    pub original_mode: Option<String>,
    /// Its format, such as `PNG`.
    pub original_format: Option<String>,
    /// Under which licence.
    pub licence: Option<String>,
}

impl Attributes {
    /// Where no folder says anything, what the header of a DICOM does.
    pub fn of_dicom(dicom: &DicomAttributes) -> Self {
        let sex = match dicom.sex.as_deref() {
            Some("F") => Some("female".into()),
            Some("M") => Some("male".into()),
            _ => None,
        };
        Self { view: dicom.view.clone(), age_years: dicom.age_years.map(u32::from), sex, ..Self::default() }
    }

    /// Whether a radiograph of which this is known would be no other for being told `said`: a view that it has stays.
    pub fn cover(&self, said: &Self) -> bool {
        *self == Self { view: self.view.clone().or_else(|| said.view.clone()), ..said.clone() }
    }
}

/// Keeps what is said of a radiograph, in place of what was said before; a view that the radiograph has already stays.
pub async fn put(db: &Db, id: RadiographId, attributes: &Attributes) -> Result<(), StoreError> {
    let mut tx = db.begin().await?;
    put_in(&mut tx, id, attributes).await?;
    tx.commit().await?;
    Ok(())
}

/// The same within a write transaction, for a radiograph that comes in.
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

/// Of all radiographs of a data set of which something is known.
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
