//! Fixtures of the store's tests: a database in its own folder, and one of each record.

use jiff::Timestamp;
use tempfile::TempDir;

use super::*;
use crate::domain::*;

/// An empty database. Dropping the guard deletes its folder.
pub async fn db() -> (TempDir, Db) {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(dir.path()).await.unwrap();
    (dir, db)
}

/// A page of up to 100 items.
pub fn first_page() -> Page {
    Page { limit: 100, after: None }
}

pub fn dataset(name: &str) -> Dataset {
    Dataset {
        id: DatasetId::new(),
        name: name.into(),
        description: Some("four sources".into()),
        classes: ClassList::default(),
        synthetic: true,
        refuse: vec![QualityFlag::LateralView],
        created_at: Timestamp::now(),
    }
}

pub async fn stored_dataset(db: &Db) -> Dataset {
    let dataset = dataset("covidx");
    datasets::create(db, &dataset).await.unwrap();
    dataset
}

/// A radiograph whose bytes are `content`: normal, patient `p1`, train.
pub fn radiograph(dataset: &Dataset, content: &str) -> Radiograph {
    Radiograph {
        id: RadiographId::new(),
        dataset_id: dataset.id,
        sha256: Sha256::of(content.as_bytes()),
        file_name: format!("{content}.png"),
        label: Some("normal".into()),
        patient_id: Some("p1".into()),
        source: Some("cohen".into()),
        view: Some("PA".into()),
        split: Some(Split::Train),
        width: 640,
        height: 480,
        format: "png".into(),
        byte_length: u64::from(u32::MAX) + 1,
        upload_sha256: None,
        dicom: None,
        flags: Vec::new(),
        grey_range: Some(GreyRange { low: 0, high: 255 }),
        synthetic: false,
        created_at: Timestamp::now(),
    }
}

pub async fn stored_radiograph(db: &Db, dataset: &Dataset, content: &str) -> Radiograph {
    let radiograph = radiograph(dataset, content);
    let existing = radiographs::insert_all(db, &[(&radiograph, RadiographExtras::default())]).await.unwrap();
    assert_eq!(existing, [None]);
    radiograph
}

/// A queued run with a seed above `i32::MAX`.
pub fn run(dataset: &Dataset) -> Run {
    Run {
        name: Some("first".into()),
        recipe: Some("covid-resnet".into()),
        ..Run::queued(dataset.id, "f".repeat(64), recipe("covid-resnet").unwrap().plan, u32::MAX)
    }
}

pub async fn stored_run(db: &Db, dataset: &Dataset) -> Run {
    let run = run(dataset);
    runs::create(db, &run).await.unwrap();
    run
}

pub fn model(run: Option<&Run>) -> Model {
    Model {
        id: ModelId::new(),
        run_id: run.map(|run| run.id),
        stage: run.map(|_| 1),
        name: "model1".into(),
        sha256: Sha256::of(b"weights"),
        byte_length: 94_000_000,
        spec: ModelSpec {
            architecture: Architecture::ResNet50,
            block_variant: BlockVariant::V1,
            classes: ClassList::default(),
            image_size: 229,
            normalisation: Normalisation { scale: 1.0, mean: [103.939, 116.779, 123.68], std: [1.0; 3] },
            dropout: 0.5,
        },
        synthetic: false,
        aliases: vec![],
        created_at: Timestamp::now(),
    }
}

/// True and predicted class of six images, two of each class; one of `COVID-19` is predicted as `normal`.
const IMAGES: [(usize, usize); 6] = [(0, 0), (0, 0), (1, 1), (1, 1), (2, 2), (2, 0)];

/// Predictions for the images of [`evaluation`].
pub fn evaluated_images() -> Vec<EvaluatedImage> {
    let image = |(image, (truth, predicted)): (usize, (usize, usize))| EvaluatedImage {
        sha256: Sha256::of(format!("image {image}").as_bytes()),
        patient: (image > 0).then_some(image as u32 / 2),
        truth,
        predicted,
        probabilities: (0..3).map(|class| if class == predicted { 0.8 } else { 0.1 }).collect(),
    };
    IMAGES.into_iter().enumerate().map(image).collect()
}

/// Stores a model with an evaluation and its predictions.
pub async fn store_evaluated(db: &Db, model: &Model, record: &EvaluationRecord) -> Result<(), StoreError> {
    let mut tx = db.begin().await?;
    models::create_in(&mut tx, model, std::slice::from_ref(record)).await?;
    db.commit(tx).await
}

/// An evaluation of [`IMAGES`].
pub fn evaluation(model: &Model, dataset: &Dataset, split: Split) -> Evaluation {
    let mut confusion_matrix = ConfusionMatrix::new(3);
    for (truth, predicted) in IMAGES {
        confusion_matrix.record(truth, predicted);
    }
    Evaluation {
        id: EvaluationId::new(),
        model_id: model.id,
        run_id: model.run_id,
        stage: model.stage,
        dataset_id: dataset.id,
        dataset_fingerprint: "f".repeat(64),
        split,
        selection_split: Some(Split::Validation),
        classes: ClassList::default(),
        confusion_matrix,
        scores: None,
        loss: 0.1 + 0.2,
        seconds: 1.5,
        created_at: Timestamp::now(),
    }
}

/// A running import without counts.
pub async fn stored_import(db: &Db, dataset: &Dataset) -> Import {
    let import = Import { total: 1531, ..Import::started(dataset.id, "covidx".into()) };
    imports::create(db, &import, None).await.unwrap();
    import
}

/// Imported weights with `content` as the converted file.
pub fn weights(content: &str) -> Weights {
    Weights {
        sha256: Sha256::of(content.as_bytes()),
        variant: BlockVariant::V1,
        origin: format!("{content}.h5"),
        byte_length: 94_000_000,
        created_at: Timestamp::now(),
    }
}

/// A prediction that is not stored yet.
pub fn observed(model_id: ModelId, class: &str) -> ObservedPrediction {
    let probabilities = [("normal", 0.1), ("pneumonia", 1e-9), ("COVID-19", 0.9)];
    let prediction = Prediction {
        id: PredictionId::new(),
        model_id,
        input_sha256: Sha256::of(b"an upload"),
        prediction: class.into(),
        probabilities: probabilities.map(|(class, probability)| (class.into(), probability)).into(),
        timing: serde_json::json!({"queue_ms": 0.25, "preprocess_ms": 3.5, "inference_ms": 41.0}),
        key: None,
        feedback: None,
        feedback_at: None,
        created_at: Timestamp::now(),
    };
    ObservedPrediction { prediction, milliseconds: 45.0, image: InputStatistics([100.0, 40.0, 0.1, 0.0, 5.0, 1.0]) }
}
