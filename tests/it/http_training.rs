//! Recipes and training runs over HTTP. No worker runs here: each run stays in the state that the test sets.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use thorax::{
    domain::{
        Architecture, BlockVariant, ClassList, ConfusionMatrix, DeviceInfo, EpochRecord, EpochScores, EvaluationId,
        ImageCounts, ModelId, ModelSpec, Normalisation, RunId, RunProgress, RunStatus, Sha256, Split,
    },
    store::{Evaluation, Model, Run, Weights, evaluations, models, runs, weights},
};

use crate::support::{Part, Server, TestResponse, png};

const NOBODY: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

#[tokio::test]
async fn recipes_are_listed_and_shown_with_their_plan() {
    let server = Server::start().await;
    assert_eq!(server.get("/v1/recipes").await.text("/items/0/name"), "covid-resnet");
    let recipe = server.get("/v1/recipes/covid-resnet").await;
    assert_eq!(recipe.at("/plan/stages/2/image_size"), json!(229));
    server.get("/v1/recipes/none").await.assert_problem(404, "/v1/recipes/none");
}

#[tokio::test]
async fn queues_a_run_with_its_whole_plan_and_wakes_the_worker() {
    let server = Server::start().await;
    let dataset = trainable(&server).await;
    let body = json!({
        "dataset_id": dataset, "recipe": "simple-cnn", "name": "first", "seed": 7,
        "plan": {"batch_size": 4, "stages": [{"image_size": 32, "steps": [{"scope": "all", "learning_rate": 0.01, "epochs": 2}]}]}
    });
    let run = server.post("/v1/training-runs", body).await;
    assert_eq!((run.status, run.text("/status")), (202, "queued".into()), "{run:?}");
    assert_eq!(run.header("location"), format!("/v1/training-runs/{}", run.text("/id")));
    assert_eq!((run.at("/plan/batch_size"), run.at("/plan/dropout")), (json!(4), json!(0.5)));
    assert_eq!(
        (run.text("/name"), run.at("/seed"), run.text("/recipe")),
        ("first".into(), json!(7), "simple-cnn".into())
    );
    let shown = server.get(run.header("location")).await;
    let mut expected = run.json();
    expected["provenance"] = json!(null);
    assert_eq!(shown.json(), expected);
    let fingerprint = server.get(&format!("/v1/datasets/{dataset}")).await.text("/fingerprint");
    assert_eq!(shown.text("/dataset_fingerprint"), fingerprint);
    server.state.training.queued.notified().await;
}

#[tokio::test]
async fn overrides_without_a_recipe_apply_to_the_default_recipe() {
    let server = Server::start().await;
    let dataset = trainable(&server).await;
    let run = server
        .post(
            "/v1/training-runs",
            json!({"dataset_id": dataset, "plan": {"initial_weights": "random", "dropout": 0.2}}),
        )
        .await;
    assert_eq!((run.status, run.text("/recipe")), (202, "covid-resnet".into()), "{run:?}");
    assert_eq!((run.at("/plan/dropout"), run.at("/plan/stages/0/image_size")), (json!(0.2), json!(128)));
}

#[tokio::test]
async fn rejects_an_invalid_submission_with_all_invalid_fields() {
    let server = Server::start().await;
    let body = json!({
        "dataset_id": NOBODY, "recipe": "none", "seed": -1, "name": "", "colour": 1,
        "plan": {
            "architecture": "vgg", "batch_size": 0, "optimizer": "sgd", "dropout": 1.5, "learning_rate": 1,
            "selection": {"split": "train", "metric": "accuracy"},
            "stages": [
                {"image_size": 16, "steps": [{"scope": "some", "learning_rate": "fast", "epochs": 0}]},
                {"steps": []},
                7,
                {"image_size": 64, "steps": [{"scope": "all", "learning_rate": 2.0, "epochs": 1, "momentum": 1}]}
            ]
        }
    });
    let response = server.post("/v1/training-runs", body).await;
    response.assert_problem(422, "/v1/training-runs");
    let mut pointers = response.pointers();
    pointers.sort();
    let expected = [
        "/colour",
        "/dataset_id",
        "/name",
        "/plan/architecture",
        "/plan/batch_size",
        "/plan/dropout",
        "/plan/learning_rate",
        "/plan/optimizer",
        "/plan/selection/split",
        "/plan/stages/0/image_size",
        "/plan/stages/0/steps/0/epochs",
        "/plan/stages/0/steps/0/learning_rate",
        "/plan/stages/0/steps/0/scope",
        "/plan/stages/1/image_size",
        "/plan/stages/1/steps",
        "/plan/stages/2",
        "/plan/stages/3/steps/0/learning_rate",
        "/plan/stages/3/steps/0/momentum",
        "/recipe",
        "/seed",
    ];
    assert_eq!(pointers, expected);
    assert_eq!(server.get("/v1/training-runs").await.items(), 0);
}

#[tokio::test]
async fn rejects_a_submission_without_a_data_set() {
    let server = Server::start().await;
    let response = server.post("/v1/training-runs", json!({"recipe": "simple-cnn"})).await;
    assert_eq!((response.status, response.pointers()), (422, vec!["/dataset_id".into()]));
}

#[tokio::test]
async fn rejects_data_that_cannot_be_trained_on() {
    let server = Server::start().await;
    let dataset = server.dataset("empty").await;
    let submit = |plan: Value| json!({"dataset_id": dataset, "recipe": "simple-cnn", "plan": plan});
    let empty = server.post("/v1/training-runs", submit(json!({}))).await;
    assert_eq!((empty.status, empty.pointers()), (422, vec!["/dataset_id".into(), "/plan/selection/split".into()]));
    assert!(empty.text("/errors/0/detail").contains("pneumonia"));
    server.fill(&dataset, "train", 0, 2).await;
    let selection = json!({"selection": {"split": "test", "metric": "accuracy"}});
    let untested = server.post("/v1/training-runs", submit(selection.clone())).await;
    assert_eq!((untested.status, untested.pointers()), (422, vec!["/plan/selection/split".into()]));
    server.fill(&dataset, "test", 100, 1).await;
    assert_eq!(server.post("/v1/training-runs", submit(selection)).await.status, 202);
    assert_eq!(
        server.post("/v1/training-runs", submit(json!({}))).await.status,
        202,
        "validation images can be split off"
    );
}

#[tokio::test]
async fn a_pretrained_plan_needs_imported_weights_and_an_architecture_with_weights() {
    let server = Server::start().await;
    let dataset = trainable(&server).await;
    let submit = json!({"dataset_id": dataset});
    let response = server.post("/v1/training-runs", submit.clone()).await;
    assert_eq!((response.status, response.pointers()), (422, vec!["/plan/initial_weights".into()]));
    assert!(response.text("/errors/0/detail").contains("weights import"));
    for architecture in ["simple-cnn", "vgg16"] {
        let other = json!({"dataset_id": dataset, "plan": {"architecture": architecture}});
        assert_eq!(server.post("/v1/training-runs", other).await.pointers(), ["/plan/initial_weights"]);
    }
    import_weights(&server).await;
    assert_eq!(server.post("/v1/training-runs", submit).await.status, 202);
}

#[tokio::test]
async fn lists_runs_by_status_and_in_pages() {
    let server = Server::start().await;
    let dataset = trainable(&server).await;
    let ids = [queued(&server, &dataset).await, queued(&server, &dataset).await, queued(&server, &dataset).await];
    runs::claim(&server.state.stores.db, "cpu").await.unwrap().unwrap();
    let running = server.get("/v1/training-runs?status=running").await;
    assert_eq!((running.items(), running.text("/items/0/id")), (1, ids[0].clone()));
    let first = server.get("/v1/training-runs?status=queued&limit=1").await;
    assert_eq!(first.text("/items/0/id"), ids[1]);
    let second = server.get(&format!("/v1/training-runs?status=queued&limit=5&after={}", first.text("/next"))).await;
    assert_eq!((second.items(), second.text("/items/0/id")), (1, ids[2].clone()));
    server.get("/v1/training-runs?status=lost").await.assert_problem(400, "/v1/training-runs");
}

#[tokio::test]
async fn cancelling_a_queued_run_is_immediate_and_idempotent() {
    let server = Server::start().await;
    let run = queued(&server, &trainable(&server).await).await;
    for _ in 0..2 {
        let response = server.post(&format!("/v1/training-runs/{run}/cancel"), json!({})).await;
        assert_eq!((response.status, response.text("/status")), (202, "cancelled".into()));
        assert_eq!(response.header("location"), format!("/v1/training-runs/{run}"));
    }
}

#[tokio::test]
async fn cancelling_a_running_run_is_idempotent() {
    let server = Server::start().await;
    let run = queued(&server, &trainable(&server).await).await;
    runs::claim(&server.state.stores.db, "cpu").await.unwrap().unwrap();
    for _ in 0..2 {
        let response = server.post(&format!("/v1/training-runs/{run}/cancel"), json!({})).await;
        assert_eq!((response.status, response.text("/status")), (202, "cancelling".into()));
    }
}

#[tokio::test]
async fn a_run_that_has_ended_cannot_be_cancelled() {
    let server = Server::start().await;
    let dataset = trainable(&server).await;
    for status in [RunStatus::Succeeded, RunStatus::Failed] {
        let run = ended(&server, &dataset, status).await;
        let path = format!("/v1/training-runs/{run}/cancel");
        let response = server.post(&path, json!({})).await;
        response.assert_problem(409, &path);
        assert!(response.text("/detail").contains(status.as_str()));
    }
    let nowhere = format!("/v1/training-runs/{NOBODY}/cancel");
    server.post(&nowhere, json!({})).await.assert_problem(404, &nowhere);
}

#[tokio::test]
async fn only_a_run_that_has_ended_can_be_deleted() {
    let server = Server::start().await;
    let dataset = trainable(&server).await;
    let waiting = format!("/v1/training-runs/{}", queued(&server, &dataset).await);
    server.delete(&waiting).await.assert_problem(409, &waiting);
    server.post(&format!("{waiting}/cancel"), json!({})).await;
    assert_eq!(server.delete(&waiting).await.status, 204);
    server.get(&waiting).await.assert_problem(404, &waiting);
    server.delete(&waiting).await.assert_problem(404, &waiting);
}

#[tokio::test]
async fn the_data_of_an_active_run_cannot_be_changed() {
    let server = Server::start().await;
    let dataset = trainable(&server).await;
    let run = queued(&server, &dataset).await;
    let place = format!("/v1/datasets/{dataset}");
    server.delete(&place).await.assert_problem(409, &place);
    let split = format!("{place}/split");
    server.post(&split, json!({"seed": 1})).await.assert_problem(409, &split);
    let radiograph = server.get(&format!("{place}/radiographs?limit=1")).await.text("/items/0/id");
    let radiograph = format!("/v1/radiographs/{radiograph}");
    server.delete(&radiograph).await.assert_problem(409, &radiograph);
    server.post(&format!("/v1/training-runs/{run}/cancel"), json!({})).await;
    assert_eq!(server.delete(&radiograph).await.status, 204);
    assert_eq!(server.delete(&place).await.status, 204);
    assert_eq!(server.get(&format!("/v1/training-runs/{run}")).await.status, 200, "a run outlives its data");
}

#[tokio::test]
async fn epochs_are_paged_by_sequence() {
    let server = Server::start().await;
    let run = queued(&server, &trainable(&server).await).await;
    let id: RunId = run.parse().unwrap();
    for sequence in 1..=3 {
        runs::add_epoch(&server.state.stores.db, id, &epoch(sequence)).await.unwrap();
    }
    let path = format!("/v1/training-runs/{run}/epochs");
    let all = server.get(&path).await;
    assert_eq!((all.items(), all.at("/next")), (3, json!(null)));
    assert_eq!((all.at("/items/0/train/accuracy"), all.at("/items/0/data_wait_share")), (json!(0.5), json!(0.01)));
    let first = server.get(&format!("{path}?limit=2")).await;
    assert_eq!((first.items(), first.text("/next")), (2, "2".into()));
    assert_eq!(server.get(&format!("{path}?after=2")).await.at("/items/0/sequence"), json!(3));
    server.get(&format!("{path}?after=last")).await.assert_problem(400, &path);
    let nowhere = format!("/v1/training-runs/{NOBODY}/epochs");
    server.get(&nowhere).await.assert_problem(404, &nowhere);
}

#[tokio::test]
async fn evaluations_have_n_confidence_intervals_and_a_caveat() {
    let server = Server::start().await;
    let run = queued(&server, &trainable(&server).await).await;
    evaluate(&server, run.parse().unwrap()).await;
    let path = format!("/v1/training-runs/{run}/evaluations");
    assert_eq!(server.get(&path).await.items(), 4);
    assert_eq!(server.get(&format!("{path}?stage=2")).await.items(), 2);
    let one = server.get(&format!("{path}?stage=1&split=test")).await;
    assert_eq!((one.items(), one.at("/items/0/n")), (1, json!(24)));
    let item = |pointer: &str| one.at(&format!("/items/0{pointer}"));
    assert_eq!(item("/confusion_matrix"), json!([[8, 1, 1], [2, 5, 3], [0, 0, 4]]));
    assert_eq!((item("/split"), item("/selection_split")), (json!("test"), json!("test")));
    assert_eq!((item("/per_class/normal/recall"), item("/per_class/normal/support")), (json!(0.8), json!(10)));
    for score in ["accuracy", "micro_f1", "macro_f1", "weighted_f1"] {
        let [low, value, high] = ["low", "value", "high"].map(|end| item(&format!("/{score}/{end}")).as_f64().unwrap());
        assert!(low < value && value < high, "{score}: {low} {value} {high}");
    }
    assert!(item("/caveat").as_str().unwrap().contains("optimistic"));
    let nowhere = format!("/v1/training-runs/{NOBODY}/evaluations");
    server.get(&nowhere).await.assert_problem(404, &nowhere);
}

#[tokio::test]
async fn queued_runs_have_a_position_and_no_start_estimate_without_measurements() {
    let server = Server::start().await;
    let dataset = trainable(&server).await;
    let runs = [queued(&server, &dataset).await, queued(&server, &dataset).await, queued(&server, &dataset).await];
    runs::claim(&server.state.stores.db, "cpu").await.unwrap().unwrap();
    let listed = server.get("/v1/training-runs").await;
    for (i, place) in [json!(null), json!(1), json!(2)].into_iter().enumerate() {
        assert_eq!(listed.at(&format!("/items/{i}/queue_position")), place);
        let one = server.get(&format!("/v1/training-runs/{}", runs[i])).await;
        assert_eq!((one.at("/queue_position"), one.at("/status")), (place, listed.at(&format!("/items/{i}/status"))));
        assert_eq!((one.at("/estimated_start"), one.at("/estimated_end")), (json!(null), json!(null)));
    }
    let body = json!({"dataset_id": dataset, "recipe": "simple-cnn"});
    assert_eq!(server.post("/v1/training-runs", body).await.at("/queue_position"), json!(3));
    let gone = server.post(&format!("/v1/training-runs/{}/cancel", runs[1]), json!({})).await;
    assert_eq!(gone.at("/queue_position"), json!(null));
    assert_eq!(server.get(&format!("/v1/training-runs/{}", runs[2])).await.at("/queue_position"), json!(1));
}

/// Uploads radiographs of `(label, split, patient)`.
async fn upload(server: &Server, dataset: &str, rows: &[(&str, &str, Option<&str>)]) {
    for (shade, (label, split, patient)) in (0u8..).zip(rows) {
        let image = png(48, 48, shade);
        let mut parts = vec![Part::Text("label", label), Part::Text("split", split), Part::File("a.png", &image)];
        parts.extend(patient.map(|patient| Part::Text("patient_id", patient)));
        assert_eq!(server.upload(dataset, &parts).await.status, 201);
    }
}

#[tokio::test]
async fn a_run_whose_images_are_all_of_one_patient_is_refused_when_it_is_submitted() {
    let server = Server::start().await;
    let dataset = server.dataset("one patient").await;
    let labels = ["normal", "pneumonia", "COVID-19"].map(|label| (label, "train", Some("p")));
    upload(&server, &dataset, &labels.repeat(4)).await;
    let split = server.post(&format!("/v1/datasets/{dataset}/split"), json!({"validation_fraction": 0.2})).await;
    let warning = split.text("/warnings/0");
    assert!(split.status == 200 && warning.starts_with("all 12 images have the patient id "), "{split:?}");
    let body = json!({"dataset_id": dataset, "recipe": "simple-cnn"});
    let refused = server.post("/v1/training-runs", body).await;
    refused.assert_problem(422, "/v1/training-runs");
    assert_eq!(refused.pointers(), ["/plan/selection/split"]);
    let detail = refused.text("/errors/0/detail");
    assert!(detail.contains("none can be split off its 12 training images"), "{detail}");
}

#[tokio::test]
async fn classes_without_images_in_a_split_are_listed_by_the_split_and_by_the_events_of_a_run() {
    let server = Server::start().await;
    let dataset = server.dataset("one patient a class").await;
    let rows: Vec<_> = ["normal", "pneumonia"].into_iter().map(|label| (label, "train", None)).collect();
    let covid = vec![("COVID-19", "train", Some("p")); 5];
    upload(&server, &dataset, &[rows.repeat(10), covid].concat()).await;
    let fractions = json!({"test_fraction": 0.2, "validation_fraction": 0.2});
    let split = server.post(&format!("/v1/datasets/{dataset}/split"), fractions).await;
    assert!(split.text("/warnings/0").starts_with("all 5 images of COVID-19 have the patient id "), "{split:?}");
    let run = server.post("/v1/training-runs", json!({"dataset_id": dataset, "recipe": "simple-cnn"})).await;
    assert_eq!(run.status, 202, "{run:?}");
    let events = server.get_as(&format!("{}/events", run.header("location")), "application/json").await;
    let messages: Vec<String> = (0..events.items())
        .filter_map(|i| Some(events.at(&format!("/items/{i}/message")).as_str()?.to_owned()))
        .collect();
    for split in ["validation", "test"] {
        let expected =
            format!("the {split} split has no images of COVID-19: recall and F1 there are undefined (support 0)");
        assert!(messages.iter().any(|message| message.starts_with(&expected)), "{messages:?}");
    }
}

#[tokio::test]
async fn a_plan_that_exceeds_the_memory_of_the_device_is_refused_with_the_estimate() {
    let cpu = DeviceInfo {
        name: "cpu".into(),
        backend: "flex".into(),
        description: "a processor".into(),
        driver: None,
        memory_bytes: Some(24 << 30),
        in_use: true,
    };
    let server = Server::with(|state, _| state.training.devices = Arc::from([cpu])).await;
    let dataset = trainable(&server).await;
    let stages = json!([{"image_size": 1024, "steps": [{"scope": "all", "learning_rate": 0.001, "epochs": 1}]}]);
    let plan = |batch_size: u32| json!({"architecture": "resnet50", "batch_size": batch_size, "stages": stages});
    let body = |batch_size| json!({"dataset_id": dataset, "recipe": "resnet50-scratch", "plan": plan(batch_size)});
    let refused = server.post("/v1/training-runs", body(512)).await;
    refused.assert_problem(422, "/v1/training-runs");
    assert_eq!(refused.pointers(), ["/plan/batch_size"]);
    let detail = refused.text("/errors/0/detail");
    assert!(detail.contains("about 935.4 GiB") && detail.contains("24.0 GiB: reduce batch_size"), "{detail}");
    assert_eq!(server.post("/v1/training-runs", body(8)).await.status, 202);
    let one = server.post("/v1/training-runs", body(1)).await;
    assert_eq!(one.pointers(), ["/plan/batch_size"], "batch normalisation over one value");
}

#[tokio::test]
async fn start_estimates_follow_from_the_running_run_and_from_measured_rates() {
    let cpu = DeviceInfo {
        name: "cpu".into(),
        backend: "flex".into(),
        description: "a processor".into(),
        driver: None,
        memory_bytes: None,
        in_use: true,
    };
    let server = Server::with(|state, _| state.training.devices = Arc::from([cpu])).await;
    let dataset = trainable(&server).await;
    let selection = json!({"selection": {"split": "test", "metric": "accuracy"}});
    let body = json!({"dataset_id": dataset, "recipe": "simple-cnn", "plan": selection});
    let running: RunId = server.post("/v1/training-runs", body.clone()).await.text("/id").parse().unwrap();
    let running = runs::get(&server.state.stores.db, running).await.unwrap().unwrap();
    // 24 training and 24 selection images in 100 seconds; this data set has six and three.
    let started_at = Timestamp::now() - SignedDuration::from_secs(1000);
    let measured = Run {
        id: RunId::new(),
        status: RunStatus::Succeeded,
        device: Some("cpu".into()),
        started_at: Some(started_at),
        finished_at: Some(started_at + SignedDuration::from_secs(100)),
        ..running.clone()
    };
    runs::create(&server.state.stores.db, &measured).await.unwrap();
    evaluate(&server, measured.id).await;
    let work = |train, selection| running.plan.cost(ImageCounts { train, selection, all: train + selection });
    let expected = work(6.0, 3.0) / work(24.0, 24.0) * 100.0;

    runs::claim(&server.state.stores.db, "cpu").await.unwrap().unwrap();
    let progress = RunProgress { eta_seconds: Some(3600.0), ..Default::default() };
    runs::set_progress(&server.state.stores.db, running.id, &progress).await.unwrap();
    let first = server.post("/v1/training-runs", body.clone()).await;
    let second = server.post("/v1/training-runs", body).await;
    let seconds = |response: &TestResponse, name: &str| {
        let time: Timestamp = response.text(name).parse().unwrap();
        time.duration_since(Timestamp::now()).as_secs_f64()
    };
    let running = server.get(&format!("/v1/training-runs/{}", running.id)).await;
    assert_eq!(running.at("/estimated_start"), json!(null), "it has begun");
    let free = seconds(&running, "/estimated_end");
    assert!((3500.0..3601.0).contains(&free), "{free}");
    for (response, from) in [(first, 3600.0), (second, 3600.0 + expected)] {
        let [start, end] = ["/estimated_start", "/estimated_end"].map(|name| seconds(&response, name));
        assert!((start - from).abs() < 60.0 && (end - start - expected).abs() < 1.0, "{start} {end} {from} {expected}");
    }
}

#[tokio::test]
async fn the_openapi_document_lists_every_operation_and_its_problems() {
    let description = serde_json::to_value(thorax::http::openapi()).unwrap();
    let operation = &description["paths"]["/v1/training-runs"]["post"];
    assert_eq!(operation["operationId"], "create_training_run");
    let problem = &operation["responses"]["422"]["content"]["application/problem+json"]["schema"]["$ref"];
    assert_eq!(problem, "#/components/schemas/Problem");
    let schemas = &description["components"]["schemas"];
    for name in ["Problem", "NewTrainingRun", "PlanOverrides", "Run", "ScoredEvaluation", "UploadForm"] {
        assert!(schemas[name].is_object(), "{name}");
    }
}

/// A data set with two training and one test image of each class.
async fn trainable(server: &Server) -> String {
    let dataset = server.dataset("trainable").await;
    server.fill(&dataset, "train", 0, 2).await;
    server.fill(&dataset, "test", 100, 1).await;
    dataset
}

async fn queued(server: &Server, dataset: &str) -> String {
    let run = server.post("/v1/training-runs", json!({"dataset_id": dataset, "recipe": "simple-cnn"})).await;
    assert_eq!(run.status, 202, "{run:?}");
    run.text("/id")
}

async fn ended(server: &Server, dataset: &str, status: RunStatus) -> String {
    let run = queued(server, dataset).await;
    runs::claim(&server.state.stores.db, "cpu").await.unwrap().unwrap();
    runs::finish(&server.state.stores.db, run.parse().unwrap(), status, None).await.unwrap();
    run
}

async fn import_weights(server: &Server) {
    let (sha256, variant) = (Sha256::of(b"weights"), BlockVariant::V1);
    let row = Weights { sha256, variant, origin: "a test".into(), byte_length: 7, created_at: Timestamp::now() };
    weights::create(&server.state.stores.db, &row).await.unwrap();
}

fn epoch(sequence: u32) -> EpochRecord {
    let scores = EpochScores { loss: 1.0, accuracy: 0.5, macro_f1: None };
    EpochRecord {
        sequence,
        stage: 1,
        step: 1,
        epoch: sequence,
        train: scores,
        selection: EpochScores { macro_f1: Some(0.4), ..scores },
        learning_rate: 0.01,
        seconds: 2.0,
        images_per_second: 8.0,
        data_wait_share: Some(0.01),
        serving_wait_share: None,
    }
}

/// Records two stages, each with an evaluation on train and on test.
async fn evaluate(server: &Server, run_id: RunId) {
    for stage in [1, 2] {
        let model = model(run_id, stage);
        models::create(&server.state.stores.db, &model, &[]).await.unwrap();
        for split in [Split::Train, Split::Test] {
            evaluations::create(&server.state.stores.db, &evaluation(&model, split)).await.unwrap();
        }
    }
}

fn model(run_id: RunId, stage: u32) -> Model {
    let spec = ModelSpec {
        architecture: Architecture::SimpleCnn,
        block_variant: BlockVariant::V1,
        classes: ClassList::default(),
        image_size: 32,
        normalisation: Normalisation { scale: 1.0, mean: [0.0; 3], std: [1.0; 3] },
        dropout: 0.5,
    };
    Model {
        id: ModelId::new(),
        run_id: Some(run_id),
        stage: Some(stage),
        name: format!("model{stage}"),
        sha256: Sha256::of(b"model"),
        byte_length: 5,
        spec,
        synthetic: false,
        aliases: Vec::new(),
        created_at: Timestamp::now(),
    }
}

fn evaluation(model: &Model, split: Split) -> Evaluation {
    Evaluation {
        id: EvaluationId::new(),
        model_id: model.id,
        run_id: model.run_id,
        stage: model.stage,
        dataset_id: thorax::domain::DatasetId::new(),
        dataset_fingerprint: "f".repeat(64),
        split,
        selection_split: Some(Split::Test),
        classes: ClassList::default(),
        confusion_matrix: ConfusionMatrix::from_rows(vec![vec![8, 1, 1], vec![2, 5, 3], vec![0, 0, 4]]),
        scores: None,
        loss: 0.7,
        seconds: 1.0,
        created_at: Timestamp::now(),
    }
}
