//! `thorax runs`: its output as text and JSON, and its errors.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use jiff::Timestamp;
use serde_json::Value;
use tempfile::TempDir;
use thorax::{
    domain::{
        BlockVariant, ClassList, ConfusionMatrix, DatasetId, EpochRecord, EpochScores, EvaluationId, ModelId,
        ModelSpec, Normalisation, RunId, RunStatus, Sha256, Split, recipe,
    },
    store::{Db, Evaluation, Model, Run, models, runs},
};

#[tokio::test]
async fn lists_runs_oldest_first_and_by_status() {
    let (folder, db) = data_folder().await;
    let ids = [stored(&db, "first", "covid-resnet").await, stored(&db, "second", "vgg16-scratch").await];
    runs::claim(&db, "cpu").await.unwrap().unwrap();
    db.close().await;
    let table = said(folder.path(), &["runs", "list"]);
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0][..5], ["id", "status", "done", "network", "recipe"]);
    assert_eq!(rows[1][..6], [&ids[0], "running", "0", "%", "resnet50", "covid-resnet"]);
    assert_eq!(rows[2][..6], [&ids[1], "queued", "0", "%", "vgg16", "vgg16-scratch"]);
    assert_eq!((rows.len(), rows[1].last(), rows[2].last()), (3, Some(&"first"), Some(&"second")));
    let queued = said(folder.path(), &["runs", "list", "--status", "queued"]);
    assert!(queued.contains(&ids[1]) && !queued.contains(&ids[0]), "{queued}");
}

#[tokio::test]
async fn the_json_list_equals_that_of_the_http_api() {
    let (folder, db) = data_folder().await;
    // More than one page.
    for number in 0..203 {
        stored(&db, &number.to_string(), "simple-cnn").await;
    }
    db.close().await;
    let list: Vec<Run> = serde_json::from_str(&said(folder.path(), &["runs", "list", "--json"])).unwrap();
    let names: Vec<String> = list.into_iter().map(|run| run.name.unwrap()).collect();
    assert_eq!(names, (0..203).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn shows_a_run_with_its_epochs_and_scores() {
    let (folder, db) = data_folder().await;
    let id = stored(&db, "named", "covid-resnet").await;
    tell(&db, id.parse().unwrap()).await;
    db.close().await;
    let shown = said(folder.path(), &["runs", "show", &id]);
    for line in [
        "name named",
        "status failed",
        "error the disk is full",
        "device cpu",
        "1 2 1 0.5000 0.7500 0.2500 0.8750 0.8000 1e-3 2.5",
    ] {
        assert!(squeezed(&shown).contains(&line.to_owned()), "{line:?} is not in\n{shown}");
    }
    // Six images, one of COVID-19 taken for normal.
    let has =
        |start: &str, end: &str| squeezed(&shown).iter().any(|line| line.starts_with(start) && line.ends_with(end));
    assert!(has("1 test 6 0.833 (0.436–0.970) 0.822 (", ""), "{shown}");
    let (start, end) = ("1 test COVID-19 2 1.000 (0.207–1.000) 0.500 (0.095–0.905) 0.667 (", " 1.000 (0.510–1.000)");
    assert!(has(start, end), "{shown}");
    assert!(shown.contains("95 % confidence intervals"), "{shown}");

    let json: Value = serde_json::from_str(&said(folder.path(), &["runs", "show", &id, "--json"])).unwrap();
    assert_eq!((&json["run"]["id"], &json["epochs"][0]["train"]["loss"]), (&id.as_str().into(), &0.5.into()));
    let evaluation = &json["evaluations"][0];
    assert_eq!(evaluation["per_class"]["COVID-19"]["recall"], 0.5);
    assert!((evaluation["macro_f1"].as_f64().unwrap() - 0.8222).abs() < 1e-4, "{evaluation}");
    assert_eq!(evaluation["confusion_matrix"][2], serde_json::json!([1, 0, 1]));
}

#[tokio::test]
async fn control_characters_of_a_name_do_not_reach_the_terminal() {
    let (folder, db) = data_folder().await;
    let id = stored(&db, "clear\u{1b}[2J", "simple-cnn").await;
    db.close().await;
    for arguments in [vec!["runs", "list"], vec!["runs", "show", &id]] {
        let shown = said(folder.path(), &arguments);
        assert!(shown.contains("clear\u{FFFD}[2J") && !shown.contains('\u{1b}'), "{shown:?}");
    }
}

#[tokio::test]
async fn an_unknown_run_is_an_error_that_names_it() {
    let (folder, db) = data_folder().await;
    db.close().await;
    let nobody = RunId::new().to_string();
    assert!(refused(folder.path(), &["runs", "show", &nobody]).contains(&nobody));
    assert!(refused(folder.path(), &["runs", "show", "seven"]).contains("seven"));
    assert!(refused(folder.path(), &["runs", "list", "--status", "lost"]).contains("lost"));
    let elsewhere = refused(folder.path(), &["runs", "list", "--data-dir", "elsewhere"]);
    assert!(elsewhere.contains("elsewhere") && elsewhere.contains("--data-dir"), "{elsewhere}");
    assert!(!folder.path().join("elsewhere").exists(), "who only looks makes no folder");
}

/// A folder with an empty database in `data`.
async fn data_folder() -> (TempDir, Db) {
    let folder = tempfile::tempdir().unwrap();
    let db = Db::open(&folder.path().join("data")).await.unwrap();
    (folder, db)
}

/// Creates a queued run and returns its identifier.
async fn stored(db: &Db, name: &str, from: &str) -> String {
    let run = Run {
        name: Some(name.into()),
        recipe: Some(from.into()),
        ..Run::queued(DatasetId::new(), "f".repeat(64), recipe(from).unwrap().plan, 1)
    };
    runs::create(db, &run).await.unwrap();
    run.id.to_string()
}

/// Records an epoch, a model with an evaluation, and the end of the run.
async fn tell(db: &Db, id: RunId) {
    runs::claim(db, "cpu").await.unwrap().unwrap();
    let epoch = EpochRecord {
        sequence: 1,
        stage: 1,
        step: 2,
        epoch: 1,
        train: EpochScores { loss: 0.5, accuracy: 0.75, macro_f1: None },
        selection: EpochScores { loss: 0.25, accuracy: 0.875, macro_f1: Some(0.8) },
        learning_rate: 1e-3,
        seconds: 2.5,
        images_per_second: 10.0,
        data_wait_share: None,
        serving_wait_share: None,
    };
    runs::add_epoch(db, id, &epoch).await.unwrap();
    let model = model(id);
    let evaluation = Evaluation {
        id: EvaluationId::new(),
        model_id: model.id,
        run_id: Some(id),
        stage: Some(1),
        dataset_id: DatasetId::new(),
        dataset_fingerprint: "f".repeat(64),
        split: Split::Test,
        selection_split: Some(Split::Validation),
        classes: ClassList::default(),
        confusion_matrix: ConfusionMatrix::from_rows(vec![vec![2, 0, 0], vec![0, 2, 0], vec![1, 0, 1]]),
        scores: None,
        loss: 0.3,
        seconds: 1.0,
        created_at: Timestamp::now(),
    };
    models::create(db, &model, &[evaluation]).await.unwrap();
    runs::finish(db, id, RunStatus::Failed, Some("the disk is full")).await.unwrap();
}

fn model(run: RunId) -> Model {
    Model {
        id: ModelId::new(),
        run_id: Some(run),
        stage: Some(1),
        name: "model1".into(),
        sha256: Sha256::of(b"weights"),
        byte_length: 7,
        spec: ModelSpec {
            architecture: recipe("covid-resnet").unwrap().plan.architecture,
            block_variant: BlockVariant::V1,
            classes: ClassList::default(),
            image_size: 128,
            normalisation: Normalisation { scale: 1.0, mean: [0.0; 3], std: [1.0; 3] },
            dropout: 0.5,
        },
        synthetic: false,
        aliases: vec![],
        created_at: Timestamp::now(),
    }
}

/// The lines with single spaces between words.
fn squeezed(text: &str) -> Vec<String> {
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// Standard output of a command that must succeed.
fn said(folder: &Path, arguments: &[&str]) -> String {
    let output = program(folder, arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Standard error of a command that must fail.
fn refused(folder: &Path, arguments: &[&str]) -> String {
    let output = program(folder, arguments);
    assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// The program in `folder`, without configuration variables.
fn program(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thorax"));
    let ours = std::env::vars().map(|(name, _)| name).filter(|name| name.starts_with("THORAX_"));
    for name in ours {
        command.env_remove(name);
    }
    command.current_dir(folder).args(arguments).stdin(Stdio::null()).output().unwrap()
}
