//! Evaluations that a client requests, as jobs, and evaluations by groups.

use axum::extract::FromRef;
use serde_json::{Value, json};
use thorax::service::PredictionJobs;

use crate::{
    http_prediction_jobs::ended,
    support::{Part, Server, assert_close, model, png},
};

const CHAMPION: &str = "/v1/models/champion/evaluations";
const UNKNOWN: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

async fn upload(server: &Server, dataset: &str, shade: u8, fields: &[(&str, &str)]) -> String {
    let image = png(48, 48, shade);
    let mut parts: Vec<Part<'_>> = fields.iter().map(|(name, value)| Part::Text(name, value)).collect();
    parts.push(Part::File("a.png", &image));
    let response = server.upload(dataset, &parts).await;
    assert_eq!(response.text("/items/0/status"), "created", "{response:?}");
    response.text("/items/0/radiograph/id")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_is_evaluated_on_another_data_set_like_by_predictions() {
    let server = Server::start().await;
    let model = server.promote(model::small(32, 1)).await;
    let dataset = server.dataset("external").await;
    server.fill(&dataset, "train", 0, 1).await;
    server.fill(&dataset, "test", 100, 3).await;
    upload(&server, &dataset, 250, &[("split", "test")]).await;
    let body = json!({"dataset_id": dataset, "split": "test", "group_by": ["format", "size"]});
    let job = ended(&server, &server.post(CHAMPION, body).await).await;
    assert_eq!((job.text("/status"), job.at("/total"), job.at("/answered")), ("succeeded".into(), json!(9), json!(9)));
    let id = job.text("/evaluation/id");
    let evaluation = server.get(&format!("/v1/evaluations/{id}")).await;
    assert_eq!((evaluation.text("/model_id"), evaluation.text("/split")), (model.clone(), "test".into()));
    assert_eq!((evaluation.at("/run_id"), evaluation.at("/selection_split")), (Value::Null, Value::Null));
    assert_eq!(evaluation.at("/scores/accuracy/n"), json!(9), "the image without a label is not evaluated");
    assert_eq!(evaluation.at("/scores/accuracy/patients"), json!(9));
    let current = server.get(&format!("/v1/datasets/{dataset}")).await.text("/fingerprint");
    assert_eq!(evaluation.text("/dataset_fingerprint"), current);
    let listed = server.get(&format!("/v1/models/{model}/evaluations")).await;
    assert_eq!((listed.items(), listed.text("/items/0/id")), (1, id.clone()));

    let outcomes = server.get(&format!("/v1/evaluations/{id}/outcomes")).await;
    assert_eq!(outcomes.items(), 9);
    let mut right = 0;
    for at in 0..9 {
        let radiograph =
            server.get(&format!("/v1/radiographs/{}", outcomes.text(&format!("/items/{at}/radiograph_id")))).await;
        assert_eq!(radiograph.text("/sha256"), outcomes.text(&format!("/items/{at}/sha256")));
        assert_eq!(radiograph.text("/label"), outcomes.text(&format!("/items/{at}/truth")));
        let image = server.get(&format!("/v1/radiographs/{}/image", radiograph.text("/id"))).await.bytes;
        let alone = server.request("POST", "/v1/predictions", "image/png", image).await;
        assert_close(&outcomes.at(&format!("/items/{at}/probabilities")), &alone.at("/probabilities"));
        right += u64::from(radiograph.text("/label") == alone.text("/prediction"));
    }
    assert_eq!(evaluation.at("/scores/accuracy/value"), json!(right as f64 / 9.0));
    let correct = server.get(&format!("/v1/evaluations/{id}/outcomes?correct=true")).await;
    let wrong = server.get(&format!("/v1/evaluations/{id}/outcomes?correct=false")).await;
    assert_eq!((correct.items() as u64, wrong.items() as u64), (right, 9 - right));
    assert!(
        (0..wrong.items())
            .all(|at| { wrong.at(&format!("/items/{at}/truth")) != wrong.at(&format!("/items/{at}/predicted")) })
    );

    let groups = server.get(&format!("/v1/evaluations/{id}/groups")).await;
    assert_eq!((groups.text("/items/0/by"), groups.text("/items/1/by")), ("format".into(), "size".into()));
    assert_eq!((groups.at("/items/0/groups/0/value"), groups.at("/items/0/groups/0/n")), (json!("png"), json!(9)));
    assert_eq!(groups.at("/items/1/groups/0/value"), json!("32 to 63 px"));
    assert_eq!((groups.at("/items/0/groups/0/small"), groups.at("/items/0/accuracy_gap")), (json!(true), Value::Null));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stored_evaluation_is_grouped_by_source_with_the_gap_between_large_groups() {
    let server = Server::start().await;
    server.promote(model::small(32, 1)).await;
    let dataset = server.dataset("external").await;
    for at in 0..42_u8 {
        let (label, source) =
            (["normal", "pneumonia", "COVID-19"][usize::from(at % 3)], ["a", "b"][usize::from(at % 2)]);
        upload(&server, &dataset, at * 5, &[("label", label), ("source", source), ("split", "test")]).await;
    }
    let few = upload(&server, &dataset, 251, &[("label", "normal"), ("source", "c"), ("split", "test")]).await;
    upload(&server, &dataset, 253, &[("label", "normal"), ("split", "test")]).await;
    let job = ended(&server, &server.post(CHAMPION, json!({"dataset_id": dataset, "split": "test"})).await).await;
    let path = format!("/v1/evaluations/{}/groups", job.text("/evaluation/id"));
    let groups = server.get(&format!("{path}?by=source")).await;
    let row = |at: usize| ["value", "n", "small"].map(|field| groups.at(&format!("/items/0/groups/{at}/{field}")));
    let expected = [
        [json!("a"), json!(21), json!(false)],
        [json!("b"), json!(21), json!(false)],
        [json!("c"), json!(1), json!(true)],
        [Value::Null, json!(1), json!(true)],
    ];
    assert_eq!([0, 1, 2, 3].map(row), expected);
    let gap = |field: &str| groups.at(&format!("/items/0/accuracy_gap/{field}"));
    let accuracy = |at: usize| groups.at(&format!("/items/0/groups/{at}/scores/accuracy/value")).as_f64().unwrap();
    assert!((gap("value").as_f64().unwrap() - (accuracy(0) - accuracy(1)).abs()).abs() < 1e-12);
    assert!(gap("low").as_f64() <= gap("value").as_f64() && gap("value").as_f64() <= gap("high").as_f64());
    assert_eq!(gap("ranked_groups"), json!(2));
    // A radiograph that was deleted has no attributes any more.
    assert_eq!(server.delete(&format!("/v1/radiographs/{few}")).await.status, 204);
    let groups = server.get(&format!("{path}?by=source")).await;
    assert_eq!((groups.at("/items/0/groups/2/value"), groups.at("/items/0/groups/2/n")), (Value::Null, json!(2)));
    let response = server.get(&path).await;
    assert_eq!((response.status, response.items()), (200, 0), "the request named no attribute");
    assert_eq!(server.get(&format!("{path}?by=shoe_size")).await.status, 400);
    let unknown = format!("/v1/evaluations/{UNKNOWN}/groups");
    server.get(&format!("{unknown}?by=source")).await.assert_problem(404, &unknown);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refuses_evaluations_that_are_impossible() {
    let server = Server::start().await;
    let model = server.promote(model::small(32, 1)).await;
    let dataset = server.dataset("empty").await;
    let path = format!("/v1/models/{model}/evaluations");
    let pointers = async |body: Value| {
        let response = server.post(&path, body).await;
        (response.status, response.pointers())
    };
    assert_eq!(pointers(json!({"dataset_id": UNKNOWN, "split": "test"})).await, (422, vec!["/dataset_id".into()]));
    assert_eq!(pointers(json!({"dataset_id": dataset, "split": "test"})).await, (422, vec!["/split".into()]));
    assert_eq!(pointers(json!({"dataset_id": dataset, "split": "all"})).await.0, 422);
    assert_eq!(pointers(json!({"dataset_id": dataset, "split": "test", "group_by": ["shoe_size"]})).await.0, 422);
    for name in ["nobody", UNKNOWN] {
        let path = format!("/v1/models/{name}/evaluations");
        server.post(&path, json!({"dataset_id": dataset, "split": "test"})).await.assert_problem(404, &path);
    }
    let body = json!({"name": "two", "classes": ["normal", "tuberculosis"]});
    let other = server.post("/v1/datasets", body).await.text("/id");
    let response = server.post(&path, json!({"dataset_id": other, "split": "test"})).await;
    assert_eq!((response.status, response.pointers()), (422, vec!["/dataset_id".into()]));
    assert!(response.text("/errors/0/detail").contains("tuberculosis"), "{response:?}");
    assert_eq!(server.get("/v1/prediction-jobs").await.items(), 0);
}

/// The data set lacks a class of the model, whose scores are undefined.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn classes_without_images_have_undefined_scores() {
    let server = Server::start().await;
    server.promote(model::small(32, 1)).await;
    let body = json!({"name": "two", "classes": ["normal", "COVID-19"]});
    let dataset = server.post("/v1/datasets", body).await.text("/id");
    upload(&server, &dataset, 10, &[("label", "normal"), ("split", "test")]).await;
    upload(&server, &dataset, 90, &[("label", "COVID-19"), ("split", "test")]).await;
    let job = ended(&server, &server.post(CHAMPION, json!({"dataset_id": dataset, "split": "test"})).await).await;
    let evaluation = server.get(&format!("/v1/evaluations/{}", job.text("/evaluation/id"))).await;
    assert_eq!(evaluation.at("/classes"), json!(["normal", "pneumonia", "COVID-19"]));
    let recall = evaluation.at("/scores/per_class/pneumonia/recall");
    assert_eq!((&recall["value"], &recall["n"]), (&Value::Null, &json!(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_evaluation_resumes_and_is_stored_once() {
    let server = Server::start().await;
    let model = server.promote(model::small(32, 1)).await;
    let dataset = server.dataset("external").await;
    server.fill(&dataset, "test", 0, 20).await;
    let created = server.post(CHAMPION, json!({"dataset_id": dataset, "split": "test"})).await;
    server.state.lifecycle.shutdown.cancel();
    server.settle().await;
    let again = server.again().await;
    let job = again.get(created.header("location")).await;
    assert!(job.at("/finished_at").is_null(), "the job was interrupted: {}", job.json());
    let path = format!("/v1/evaluations/{}", job.text("/evaluation/id"));
    again.get(&path).await.assert_problem(404, &path);
    PredictionJobs::from_ref(&again.state).resume().await.unwrap();
    let job = ended(&again, &created).await;
    assert_eq!((job.text("/status"), job.at("/answered")), ("succeeded".into(), json!(60)));
    assert_eq!(again.get(&path).await.at("/scores/accuracy/n"), json!(60));
    PredictionJobs::from_ref(&again.state).resume().await.unwrap();
    again.settle().await;
    assert_eq!(again.get(&format!("/v1/models/{model}/evaluations")).await.items(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queued_evaluation_is_cancelled_and_one_of_changed_data_fails() {
    let server = Server::start().await;
    let model = server.promote(model::small(32, 1)).await;
    let dataset = server.dataset("external").await;
    server.fill(&dataset, "test", 0, 20).await;
    let body = json!({"dataset_id": dataset, "split": "test"});
    let [changed, cancelled] = [server.post(CHAMPION, body.clone()).await, server.post(CHAMPION, body).await];
    // No job works on while the data set changes.
    server.state.lifecycle.shutdown.cancel();
    server.settle().await;
    let again = server.again().await;
    upload(&again, &dataset, 250, &[("label", "normal"), ("split", "train")]).await;
    assert_eq!(again.delete(cancelled.header("location")).await.status, 204);
    PredictionJobs::from_ref(&again.state).resume().await.unwrap();
    let job = ended(&again, &changed).await;
    assert_eq!((job.text("/status"), job.text("/error").contains("data set changed")), ("failed".into(), true));
    again.settle().await;
    assert_eq!(again.get(&format!("/v1/models/{model}/evaluations")).await.items(), 0);
}
