//! Evaluations beside those of training: of any model on any data set, from the results of a prediction job, and by groups of images.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;

use super::{Error, Stores};
use crate::{
    domain::{
        ClassList, ConfusionMatrix, DatasetId, EvaluatedImage, EvaluationId, GroupAttribute, ModelSpec, RadiographId,
        Sha256, Split,
    },
    evaluation::{self, GroupAttributes, Grouping},
    store::{self, Dataset, Evaluation, EvaluationRecord, JobResult, Model, PredictionJob, StoreError},
};

/// Results per query.
const PAGE: u32 = 500;

/// Evaluation of a model that a client requests.
pub struct NewEvaluation {
    /// Identifier or alias of the model.
    pub model: String,
    /// Data set.
    pub dataset: DatasetId,
    /// Split of the data set.
    pub split: Split,
    /// Attributes by which the scores are to be grouped.
    pub group_by: Vec<GroupAttribute>,
}

/// Refuses a data set with a class that the model cannot predict. A class of the model that the data set lacks has undefined scores.
///
/// # Errors
/// [`Error::Invalid`] names the classes.
pub(super) fn check_classes(spec: &ModelSpec, dataset: &Dataset) -> Result<(), Error> {
    let unknown: Vec<&str> = dataset
        .classes
        .names()
        .iter()
        .filter(|class| spec.classes.index_of(class).is_none())
        .map(String::as_str)
        .collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let detail = format!(
        "the model does not know {} of this data set; its classes are {}",
        unknown.join(", "),
        spec.classes.names().join(", ")
    );
    Err(Error::invalid("/dataset_id", detail))
}

/// The evaluation of a job all of whose images are done, or the reason why there is none.
pub(super) async fn record(
    stores: &Stores,
    job: &PredictionJob,
    model: &Model,
) -> Result<Result<EvaluationRecord, String>, StoreError> {
    let db = &stores.db;
    let (Some(requested), Some(dataset), Some(split)) = (&job.evaluation, job.dataset_id, job.split) else {
        return Ok(Err("it has no evaluation to store".into()));
    };
    let radiographs = store::radiographs::labelled_in_order(db, dataset, split).await?;
    let patients = radiographs.into_iter().map(|radiograph| (radiograph.id, radiograph.patient_id)).collect();
    let images = match evaluated_images(stores, job, &model.spec.classes, &patients).await? {
        Ok(images) => images,
        Err(why) => return Ok(Err(why)),
    };
    // After the images were read: what they are about is what the fingerprint says.
    if store::datasets::fingerprint(db, dataset).await? != requested.dataset_fingerprint {
        return Ok(Err("the data set changed during the evaluation: request it again".into()));
    }
    if images.is_empty() {
        return Ok(Err("none of the images could be classified".into()));
    }
    let selection_split = match model.run_id {
        Some(run) => store::runs::get(db, run).await?.filter(|run| run.dataset_id == dataset),
        None => None,
    }
    .map(|run| run.plan.selection.split);
    let classes = model.spec.classes.clone();
    let scoring = (images.clone(), classes.clone());
    let scores = tokio::task::spawn_blocking(move || evaluation::scores(&scoring.0, &scoring.1)).await;
    let scores = scores.map_err(|error| StoreError::Task(error.to_string()))?;
    let Some(loss) = scores.log_loss.value else {
        return Ok(Err("its log loss is undefined".into()));
    };
    let mut confusion_matrix = ConfusionMatrix::new(classes.len());
    images.iter().for_each(|image| confusion_matrix.record(image.truth, image.predicted));
    let now = Timestamp::now();
    let evaluation = Evaluation {
        id: requested.id,
        model_id: model.id,
        run_id: None,
        stage: None,
        dataset_id: dataset,
        dataset_fingerprint: requested.dataset_fingerprint.clone(),
        split,
        selection_split,
        classes,
        confusion_matrix,
        scores: Some(scores),
        loss,
        seconds: job.started_at.map_or(0.0, |started| now.duration_since(started).as_secs_f64()),
        created_at: now,
    };
    Ok(Ok(EvaluationRecord { evaluation, images }))
}

/// The images of a job that have a prediction, in order of their hashes.
async fn evaluated_images(
    stores: &Stores,
    job: &PredictionJob,
    classes: &ClassList,
    patients: &HashMap<RadiographId, Option<String>>,
) -> Result<Result<Vec<EvaluatedImage>, String>, StoreError> {
    let (mut images, mut numbers, mut next) = (BTreeMap::new(), HashMap::new(), 0);
    loop {
        let results = store::prediction_jobs::results(&stores.db, job.id, next, PAGE).await?;
        let Some(last) = results.last() else { return Ok(Ok(images.into_values().collect())) };
        next = last.sequence + 1;
        for result in results {
            let JobResult { radiograph_id, sha256: Some(sha256), label, prediction: Some(prediction), .. } = result
            else {
                continue;
            };
            let patient = radiograph_id.and_then(|id| patients.get(&id)?.clone());
            let patient = patient.map(|id| {
                let number = numbers.len() as u32;
                *numbers.entry(id).or_insert(number)
            });
            let truth = label.as_deref().and_then(|label| classes.index_of(label));
            let (Some(truth), Some(predicted)) = (truth, classes.index_of(&prediction)) else {
                return Ok(Err(format!("the label {:?} is no class of the model", label.unwrap_or_default())));
            };
            let of_class = result.probabilities.unwrap_or_default();
            let probabilities: Option<Vec<f32>> =
                classes.names().iter().map(|name| of_class.get(name).copied()).collect();
            let Some(probabilities) = probabilities else {
                return Ok(Err("a result has no probability of some class".into()));
            };
            images.insert(sha256.clone(), EvaluatedImage { sha256, patient, truth, predicted, probabilities });
        }
    }
}

/// Scores of an evaluation by groups of its images: by the given attribute, or by those of the request that created the evaluation, which
/// may be none. The attributes of the images are the current ones of the data set; those of deleted radiographs are unknown.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Conflict`] for an evaluation without predictions.
pub async fn group(stores: &Stores, id: EvaluationId, by: Option<GroupAttribute>) -> Result<Vec<Grouping>, Error> {
    let db = &stores.db;
    let evaluation = store::evaluations::get(db, id).await?.ok_or(Error::NotFound("evaluation"))?;
    let by = match by {
        Some(by) => vec![by],
        None => {
            let job = store::prediction_jobs::of_evaluation(db, id).await?;
            job.and_then(|job| job.evaluation).map(|requested| requested.group_by).unwrap_or_default()
        }
    };
    if by.is_empty() {
        return Ok(Vec::new());
    }
    let images = store::outcomes::of_evaluation(db, id).await?;
    if images.is_empty() {
        return Err(Error::Conflict("the predictions of this evaluation are not stored".into()));
    }
    let mut of_image = attributes(stores, &evaluation).await?;
    let attributes: Vec<GroupAttributes> =
        images.iter().map(|image| of_image.remove(&image.sha256).unwrap_or_default()).collect();
    let group = move || {
        by.into_iter().map(|by| Grouping::new(by, &images, &attributes, &evaluation.classes)).collect::<Vec<_>>()
    };
    Ok(tokio::task::spawn_blocking(group).await?)
}

async fn attributes(stores: &Stores, evaluation: &Evaluation) -> Result<HashMap<Sha256, GroupAttributes>, StoreError> {
    let (db, dataset) = (&stores.db, evaluation.dataset_id);
    let mut known = store::attributes::of_dataset(db, dataset).await?;
    let radiographs = store::radiographs::all(db, dataset).await?;
    let described = radiographs.into_iter().map(|radiograph| {
        let of = known.remove(&radiograph.id).unwrap_or_default();
        let attributes = GroupAttributes {
            source: radiograph.source,
            view: radiograph.view,
            sex: of.sex,
            age_years: of.age_years,
            size: Some((radiograph.width, radiograph.height)),
            format: Some(radiograph.format),
            scanner_model: radiograph.dicom.and_then(|dicom| dicom.manufacturer_model),
        };
        (radiograph.sha256, attributes)
    });
    Ok(described.collect())
}
