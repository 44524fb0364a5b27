//! The one way by which a radiograph enters a data set, from an upload or an import.

use std::sync::LazyLock;

use jiff::Timestamp;
use tokio::sync::Semaphore;

use crate::{
    domain::{Fingerprint, QualityFlag, RadiographId, Sha256, Split, is_lateral},
    imaging::{self, Examined, Format, ImageError, Limits},
    store::{Attributes, Blobs, Dataset, Db, Radiograph, RadiographExtras, StoreError, StoredBlob, radiographs},
};

use super::{PatientIds, match_class};

/// Longest accepted text field, in characters.
const MAX_TEXT: usize = 255;

/// A radiograph on its way in. Empty texts count as absent.
#[derive(Clone, Debug, Default)]
pub struct NewRadiograph {
    /// PNG, JPEG or DICOM.
    pub bytes: Vec<u8>,
    /// Folders before the name are dropped.
    pub file_name: String,
    /// One of the data set's classes.
    pub label: Option<String>,
    /// As the hospital or data set writes it; see [`PatientIds`].
    pub patient_id: Option<String>,
    /// Origin.
    pub source: Option<String>,
    /// Projection.
    pub view: Option<String>,
    /// Split.
    pub split: Option<Split>,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Added {
    /// It is new.
    Created(Radiograph),
    /// The data set has the same content already; nothing changed.
    Duplicate(Radiograph),
}

/// Why it was not added.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// A field is unusable (HTTP 422).
    #[error("{field}: {detail}")]
    Field {
        /// `label`, `file_name`, ...
        field: &'static str,
        /// What is wrong and what would be right.
        detail: String,
    },
    /// The data set refuses radiographs with this flag (HTTP 422).
    #[error("this data set refuses it: {}", .0.explanation())]
    Refused(QualityFlag),
    /// The bytes are not a usable radiograph.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A radiograph whose blob is durable and whose row is still to be written.
pub(super) enum Kept {
    /// With the blob's lock, to be held until the row is committed.
    New(Box<Radiograph>, Fingerprint, #[allow(dead_code, reason = "held, not used")] StoredBlob),
    Known(Box<Radiograph>),
}

/// Checks the fields, decodes the image on a blocking thread, writes the blob and then the row.
pub async fn add(
    db: &Db,
    blobs: &Blobs,
    dataset: &Dataset,
    new: NewRadiograph,
    limits: &Limits,
    patient_ids: &PatientIds,
) -> Result<Added, AddError> {
    let kept = keep(db, blobs, dataset, new, limits, patient_ids).await?;
    Ok(enter(db, vec![(kept, None)]).await?.remove(0))
}

/// All but the row: safe to run for many at once.
pub(super) async fn keep(
    db: &Db,
    blobs: &Blobs,
    dataset: &Dataset,
    new: NewRadiograph,
    limits: &Limits,
    patient_ids: &PatientIds,
) -> Result<Kept, AddError> {
    let NewRadiograph { bytes, file_name, label, patient_id, source, view, split } = new;
    let file_name = checked("file_name", file_name.rsplit(['/', '\\']).next().unwrap_or_default())?;
    let label = optional("label", label)?.map(|label| known_class(dataset, &label)).transpose()?;
    let patient_id = optional("patient_id", patient_id)?;
    let (source, view) = (optional("source", source)?, optional("view", view)?);

    let (bytes, uploaded) = blocking(move || {
        let sha256 = Sha256::of(&bytes);
        Ok((bytes, sha256))
    })
    .await?;
    if let Some(known) = radiographs::find(db, dataset.id, &uploaded).await? {
        return Ok(Kept::Known(Box::new(known)));
    }
    let Prepared { examined, look, format, stored, sha256 } = prepared(bytes, uploaded.clone(), *limits).await?;
    let Examined { image, mut flags, dicom, .. } = examined;
    let attributes = dicom.as_ref().map(|dicom| dicom.attributes.clone());
    // What the sender says of it goes before what the file does.
    let view = view.or_else(|| attributes.as_ref()?.view.clone());
    if view.as_deref().is_some_and(is_lateral) && !flags.contains(&QualityFlag::LateralView) {
        flags.push(QualityFlag::LateralView);
    }
    if let Some(refused) = flags.iter().find(|flag| dataset.refuse.contains(flag)) {
        return Err(AddError::Refused(*refused));
    }
    let patient_id = patient_id.or_else(|| dicom.as_ref()?.patient_id.clone());
    let radiograph = Radiograph {
        id: RadiographId::new(),
        dataset_id: dataset.id,
        upload_sha256: (uploaded != sha256).then_some(uploaded),
        sha256: sha256.clone(),
        file_name: dicom.as_ref().map_or_else(|| file_name.clone(), |dicom| dicom.harmless_name(&file_name)),
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
        created_at: Timestamp::now(),
    };
    let blob = blobs.put_hashed(sha256, stored).await?;
    Ok(Kept::New(Box::new(radiograph), look, blob))
}

/// Writes the rows, each with what its folder says about the image, in one transaction and in their order; what came in meanwhile with
/// the same bytes, or is among them, is not written again.
pub(super) async fn enter(db: &Db, kept: Vec<(Kept, Option<&Attributes>)>) -> Result<Vec<Added>, StoreError> {
    let own = |kept: &Kept| match kept {
        Kept::New(radiograph, ..) => radiograph.dicom.as_ref().map(Attributes::from_dicom),
        Kept::Known(_) => None,
    };
    let own: Vec<Option<Attributes>> = kept.iter().map(|(kept, _)| own(kept)).collect();
    let new: Vec<_> = kept
        .iter()
        .zip(&own)
        .filter_map(|((kept, attributes), own)| match kept {
            Kept::New(radiograph, look, _) => {
                let look = Some((imaging::FINGERPRINT_VERSION, look));
                Some((&**radiograph, RadiographExtras { fingerprint: look, attributes: attributes.or(own.as_ref()) }))
            }
            Kept::Known(_) => None,
        })
        .collect();
    let mut there = radiographs::insert_all(db, &new).await?.into_iter();
    let added = |(kept, _)| match kept {
        Kept::Known(known) => Added::Duplicate(*known),
        Kept::New(radiograph, ..) => there.next().flatten().map_or(Added::Created(*radiograph), Added::Duplicate),
    };
    Ok(kept.into_iter().map(added).collect())
}

/// A file, looked at, and what is stored of it.
struct Prepared {
    examined: Examined,
    look: Fingerprint,
    format: Format,
    stored: Vec<u8>,
    sha256: Sha256,
}

/// Places for files that are decoded, which take many times their size: a core each, however many uploads and imports there are.
static DECODERS: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(std::thread::available_parallelism().map_or(1, usize::from)));

async fn prepared(bytes: Vec<u8>, uploaded: Sha256, limits: Limits) -> Result<Prepared, ImageError> {
    let place = DECODERS.acquire().await.expect("it is never closed");
    blocking(move || {
        // Held by the work and not by who waits for it: work whose client hung up still takes its core.
        let _place = place;
        let examined = imaging::examine(&bytes, &limits)?;
        let (format, stored) = examined.storable(&bytes)?;
        let sha256 = if stored == bytes { uploaded } else { Sha256::of(&stored) };
        let look = imaging::fingerprint(&examined.image);
        Ok(Prepared { examined, look, format, stored, sha256 })
    })
    .await
}

/// Runs off the async threads. A decoder that panics on hostile bytes refuses that file and nothing else.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    let failed = |error: tokio::task::JoinError| ImageError::Undecodable(format!("the decoder gave up: {error}"));
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}

fn known_class(dataset: &Dataset, label: &str) -> Result<String, AddError> {
    match_class(&dataset.classes, label).map(str::to_owned).ok_or_else(|| AddError::Field {
        field: "label",
        detail: format!("{label:?} is not a class of this data set; those are {}", dataset.classes.names().join(", ")),
    })
}

fn optional(field: &'static str, text: Option<String>) -> Result<Option<String>, AddError> {
    text.filter(|text| !text.trim().is_empty()).map(|text| checked(field, &text)).transpose()
}

fn checked(field: &'static str, text: &str) -> Result<String, AddError> {
    let text = text.trim();
    let refuse = |detail: String| Err(AddError::Field { field, detail });
    if text.is_empty() {
        refuse("must not be empty".to_owned())
    } else if text.chars().count() > MAX_TEXT {
        refuse(format!("at most {MAX_TEXT} characters"))
    } else if text.chars().any(char::is_control) {
        refuse("must not hold control characters".to_owned())
    } else {
        Ok(text.to_owned())
    }
}
