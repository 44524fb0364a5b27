//! Adding radiographs to a data set. Uploads and imports share this path.

use std::sync::LazyLock;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::Semaphore;

use crate::{
    domain::{
        Fingerprint, GreyRange, MAX_TEXT_LENGTH, QualityFlag, RadiographField, RadiographId, Sha256, Split, is_lateral,
    },
    imaging::{self, ExaminedImage, Format, ImageError, Limits},
    store::{Attributes, Blobs, Dataset, Db, Radiograph, RadiographExtras, StoreError, StoredBlob, radiographs},
};

use super::{PatientIds, match_class, neutral_name};

/// Radiograph to add. Empty text fields count as absent.
#[derive(Clone, Debug, Default)]
pub struct NewRadiograph {
    /// PNG, JPEG or DICOM file.
    pub bytes: Bytes,
    /// Name to store, unless the file is DICOM; leading folders are removed. Without it a neutral name is stored ([`neutral_name`]).
    pub file_name: Option<String>,
    /// Class of the data set.
    pub label: Option<String>,
    /// Patient id as assigned by the hospital or source; only its keyed hash is stored (see [`PatientIds`]).
    pub patient_id: Option<String>,
    /// Source, such as the original data set.
    pub source: Option<String>,
    /// View, such as `PA`.
    pub view: Option<String>,
    /// Split, if assigned.
    pub split: Option<Split>,
}

/// Outcome of adding a radiograph.
#[derive(Clone, Debug, PartialEq)]
pub enum AddOutcome {
    /// The radiograph was added.
    Created(Radiograph),
    /// The data set already contains the same image; nothing was changed. Lists the given fields that differ from those stored.
    Duplicate(Radiograph, Vec<RadiographField>),
}

/// Reason why a radiograph was not added.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// Invalid field (HTTP 422).
    #[error("{field}: {detail}")]
    Field {
        /// Name of the field, such as `label`.
        field: &'static str,
        /// Reason and accepted values.
        detail: String,
    },
    /// The data set refuses radiographs with this quality flag (HTTP 422).
    #[error("this data set refuses the image: {}", .0.explanation(*.1))]
    Refused(QualityFlag, GreyRange),
    /// The file is not a usable radiograph.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Radiograph whose image is stored and whose row is not yet written.
pub(super) enum StagedRadiograph {
    /// A new image, with the lock of its blob, which must be held until the row is committed.
    New(Box<Radiograph>, Fingerprint, #[allow(dead_code, reason = "held, not used")] StoredBlob),
    /// The data set already contains the image. Lists the given fields that differ from those stored.
    Known(Box<Radiograph>, Vec<RadiographField>),
}

/// The fields that were given with an image. Absent fields differ from nothing.
struct GivenFields<'a> {
    label: Option<&'a str>,
    split: Option<Split>,
    /// Keyed hash.
    patient_id: Option<&'a str>,
    view: Option<&'a str>,
}

impl<'a> GivenFields<'a> {
    fn of(radiograph: &'a Radiograph) -> Self {
        Self {
            label: radiograph.label.as_deref(),
            split: radiograph.split,
            patient_id: radiograph.patient_id.as_deref(),
            view: radiograph.view.as_deref(),
        }
    }

    /// The given fields that differ from those of the stored radiograph.
    fn differences(&self, stored: &Radiograph) -> Vec<RadiographField> {
        let differs = |given: Option<&str>, stored: &Option<String>| given.is_some() && given != stored.as_deref();
        let fields = [
            (RadiographField::Label, differs(self.label, &stored.label)),
            (RadiographField::Split, self.split.is_some() && self.split != stored.split),
            (RadiographField::PatientId, differs(self.patient_id, &stored.patient_id)),
            (RadiographField::View, differs(self.view, &stored.view)),
        ];
        fields.into_iter().filter_map(|(field, differs)| differs.then_some(field)).collect()
    }
}

/// Validates the fields, decodes the image on a blocking thread, stores the image and then its row.
pub async fn add(
    db: &Db,
    blobs: &Blobs,
    dataset: &Dataset,
    new: NewRadiograph,
    limits: &Limits,
    patient_ids: &PatientIds,
) -> Result<AddOutcome, AddError> {
    let staged = stage(db, blobs, dataset, new, limits, patient_ids).await?;
    let outcomes = insert_all(db, vec![(staged, None)]).await?;
    Ok(outcomes.into_iter().next().expect("one outcome per radiograph"))
}

/// Does everything except writing the row. Safe to run concurrently.
pub(super) async fn stage(
    db: &Db,
    blobs: &Blobs,
    dataset: &Dataset,
    new: NewRadiograph,
    limits: &Limits,
    patient_ids: &PatientIds,
) -> Result<StagedRadiograph, AddError> {
    let NewRadiograph { bytes, file_name, label, patient_id, source, view, split } = new;
    let label = optional_text("label", label)?.map(|label| known_class(dataset, &label)).transpose()?;
    let patient_id = optional_text("patient_id", patient_id)?;
    let (source, view) = (optional_text("source", source)?, optional_text("view", view)?);

    let (bytes, uploaded) = blocking(move || {
        let sha256 = Sha256::of(&bytes);
        Ok((bytes, sha256))
    })
    .await?;
    if let Some(known) = radiographs::find(db, dataset.id, &uploaded).await? {
        let patient_id = patient_id.map(|id| patient_ids.stored(&id));
        let given =
            GivenFields { label: label.as_deref(), split, patient_id: patient_id.as_deref(), view: view.as_deref() };
        let differs = given.differences(&known);
        mend(blobs, &known, bytes, uploaded, *limits).await?;
        return Ok(StagedRadiograph::Known(Box::new(known), differs));
    }
    let PreparedImage { examined, fingerprint, format, stored, sha256 } =
        prepare(bytes, uploaded.clone(), *limits).await?;
    let ExaminedImage { image, mut flags, grey_range, dicom, synthetic, .. } = examined;
    let file_name = match file_name {
        Some(name) if dicom.is_none() => {
            checked_text("file_name", name.rsplit(['/', '\\']).next().unwrap_or_default())?
        }
        _ => neutral_name(&sha256, if dicom.is_some() { Format::Dicom } else { format }),
    };
    let attributes = dicom.as_ref().map(|dicom| dicom.attributes.clone());
    // Fields of the request take precedence over those of the file.
    let view = view.or_else(|| attributes.as_ref()?.view.clone());
    if view.as_deref().is_some_and(is_lateral) && !flags.contains(&QualityFlag::LateralView) {
        flags.push(QualityFlag::LateralView);
    }
    if let Some(refused) = flags.iter().find(|flag| dataset.refuse.contains(flag)) {
        return Err(AddError::Refused(*refused, grey_range));
    }
    let patient_id = patient_id.or_else(|| dicom.as_ref()?.patient_id.clone());
    let radiograph = Radiograph {
        id: RadiographId::new(),
        dataset_id: dataset.id,
        upload_sha256: (uploaded != sha256).then_some(uploaded),
        sha256: sha256.clone(),
        file_name,
        label,
        patient_id: patient_id.map(|id| patient_ids.stored(&id)),
        source,
        view,
        split,
        width: image.width,
        height: image.height,
        format: format.as_str().to_owned(),
        byte_length: stored.len() as u64,
        dicom: attributes,
        flags,
        grey_range: Some(grey_range),
        synthetic,
        created_at: Timestamp::now(),
    };
    let blob = blobs.put_hashed(sha256, stored).await?;
    Ok(StagedRadiograph::New(Box::new(radiograph), fingerprint, blob))
}

/// Writes the image of a radiograph again, if its file is missing or damaged, from the bytes that were uploaded then and now.
///
/// The row exists, so that no sweep removes the file.
async fn mend(
    blobs: &Blobs,
    known: &Radiograph,
    bytes: Bytes,
    uploaded: Sha256,
    limits: Limits,
) -> Result<(), AddError> {
    if blobs.is_intact(&known.sha256, known.byte_length).await? {
        return Ok(());
    }
    let PreparedImage { stored, sha256, .. } = prepare(bytes, uploaded, limits).await?;
    if sha256 == known.sha256 {
        drop(blobs.put_hashed(sha256, stored).await?);
        tracing::warn!(radiograph = %known.id, "the file of an image was lost or damaged and is stored again");
    } else {
        // An earlier version may have removed metadata in another way.
        tracing::error!(radiograph = %known.id, "the file of an image is lost or damaged, and this version makes another one: delete it and upload it again");
    }
    Ok(())
}

/// Inserts the rows of staged radiographs with their attributes, in order, in one transaction. Images that were added meanwhile or occur
/// twice are inserted once.
pub(super) async fn insert_all(
    db: &Db,
    staged: Vec<(StagedRadiograph, Option<&Attributes>)>,
) -> Result<Vec<AddOutcome>, StoreError> {
    let dicom_attributes = |staged: &StagedRadiograph| match staged {
        StagedRadiograph::New(radiograph, ..) => radiograph.dicom.as_ref().map(Attributes::from_dicom),
        StagedRadiograph::Known(..) => None,
    };
    let dicom: Vec<Option<Attributes>> = staged.iter().map(|(staged, _)| dicom_attributes(staged)).collect();
    let new: Vec<_> = staged
        .iter()
        .zip(&dicom)
        .filter_map(|((staged, attributes), dicom)| match staged {
            StagedRadiograph::New(radiograph, fingerprint, _) => {
                let fingerprint = Some((imaging::FINGERPRINT_VERSION, fingerprint));
                Some((&**radiograph, RadiographExtras { fingerprint, attributes: attributes.or(dicom.as_ref()) }))
            }
            StagedRadiograph::Known(..) => None,
        })
        .collect();
    let mut existing = radiographs::insert_all(db, &new).await?.into_iter();
    let outcome = |(staged, _)| match staged {
        StagedRadiograph::Known(known, differs) => AddOutcome::Duplicate(*known, differs),
        StagedRadiograph::New(radiograph, ..) => match existing.next().flatten() {
            Some(known) => {
                let differs = GivenFields::of(&radiograph).differences(&known);
                AddOutcome::Duplicate(known, differs)
            }
            None => AddOutcome::Created(*radiograph),
        },
    };
    Ok(staged.into_iter().map(outcome).collect())
}

/// Decoded image and the de-identified file to store.
struct PreparedImage {
    examined: ExaminedImage,
    fingerprint: Fingerprint,
    format: Format,
    stored: Vec<u8>,
    sha256: Sha256,
}

/// Permits for decoding, which takes memory of many times the file size: one per core for all uploads, imports and exports.
pub(super) static DECODERS: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from)));

async fn prepare(bytes: Bytes, uploaded: Sha256, limits: Limits) -> Result<PreparedImage, ImageError> {
    let permit = DECODERS.acquire().await.expect("the semaphore is never closed");
    blocking(move || {
        // Held by the decoding and not by the request: decoding for a disconnected client still uses its core.
        let _permit = permit;
        let examined = imaging::examine(&bytes, &limits)?;
        let (format, stored) = examined.deidentified(&bytes)?;
        let sha256 = if stored == bytes { uploaded } else { Sha256::of(&stored) };
        let fingerprint = imaging::fingerprint(&examined.image);
        Ok(PreparedImage { examined, fingerprint, format, stored, sha256 })
    })
    .await
}

/// Runs `work` on the blocking thread pool. A decoder that panics on a malicious file rejects only that file.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    let failed = |error: tokio::task::JoinError| ImageError::Undecodable(format!("the decoder failed: {error}"));
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}

fn known_class(dataset: &Dataset, label: &str) -> Result<String, AddError> {
    match_class(&dataset.classes, label).map(str::to_owned).ok_or_else(|| AddError::Field {
        field: "label",
        detail: format!(
            "{label:?} is not a class of this data set (expected one of {})",
            dataset.classes.names().join(", ")
        ),
    })
}

fn optional_text(field: &'static str, text: Option<String>) -> Result<Option<String>, AddError> {
    text.filter(|text| !text.trim().is_empty()).map(|text| checked_text(field, &text)).transpose()
}

fn checked_text(field: &'static str, text: &str) -> Result<String, AddError> {
    let text = text.trim();
    let invalid = |detail: String| Err(AddError::Field { field, detail });
    if text.is_empty() {
        invalid("must not be empty".to_owned())
    } else if text.chars().count() > MAX_TEXT_LENGTH {
        invalid(format!("must have at most {MAX_TEXT_LENGTH} characters (got {})", text.chars().count()))
    } else if text.chars().any(char::is_control) {
        invalid("must not contain control characters".to_owned())
    } else {
        Ok(text.to_owned())
    }
}
