//! Promotion gate and history of aliases over HTTP.

use jiff::Timestamp;
use serde_json::{Value, json};
use thorax::{
    domain::{ClassList, ConfusionMatrix, EvaluationId, Split},
    store::{self, Evaluation},
};

use crate::support::{Server, TestResponse, model};

const CHAMPION: &str = "/v1/models/aliases/champion";
const NOBODY: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

/// A server with a data set and a champion that classifies `right` of ten test images correctly.
async fn with_champion(right: u64) -> (Server, String, String) {
    let server = Server::start().await;
    let dataset = server.dataset("judged").await;
    server.fill(&dataset, "test", 1, 1).await;
    let champion = server.promote(model::small(32, 1)).await;
    evaluate(&server, &dataset, &champion, right).await;
    (server, dataset, champion)
}

async fn uploaded(server: &Server, seed: u64) -> String {
    server.request("POST", "/v1/models", "application/octet-stream", model::small(32, seed)).await.text("/id")
}

/// Records an evaluation: `right` of ten images of the first class are classified correctly, the others as the second class.
async fn evaluate(server: &Server, dataset: &str, model: &str, right: u64) {
    let db = &server.state.stores.db;
    let model = store::models::get(db, model.parse().unwrap()).await.unwrap().unwrap();
    let dataset_id = dataset.parse().unwrap();
    let evaluation = Evaluation {
        id: EvaluationId::new(),
        model_id: model.id,
        run_id: None,
        stage: None,
        dataset_id,
        dataset_fingerprint: store::datasets::fingerprint(db, dataset_id).await.unwrap(),
        split: Split::Test,
        selection_split: Some(Split::Validation),
        classes: ClassList::default(),
        confusion_matrix: ConfusionMatrix::from_rows(vec![vec![right, 10 - right, 0], vec![0; 3], vec![0; 3]]),
        scores: None,
        loss: 1.0 - right as f64 / 20.0,
        seconds: 1.0,
        created_at: Timestamp::now(),
    };
    store::evaluations::create(db, &evaluation).await.unwrap();
}

async fn put(server: &Server, model: &str, require: Value) -> TestResponse {
    let body = json!({ "model_id": model, "require": require }).to_string();
    server.request("PUT", CHAMPION, "application/json", body.into()).await
}

fn gate(dataset: &str, metric: &str) -> Value {
    json!({ "metric": metric, "not_worse_than": "champion", "dataset_id": dataset, "split": "test" })
}

#[tokio::test]
async fn a_worse_model_is_not_promoted_and_the_response_compares_both() {
    let (server, dataset, champion) = with_champion(7).await;
    let worse = uploaded(&server, 2).await;
    evaluate(&server, &dataset, &worse, 6).await;
    for (metric, scores) in [("accuracy", (0.6, 0.7)), ("loss", (0.7, 0.65))] {
        let refused = put(&server, &worse, gate(&dataset, metric)).await;
        refused.assert_problem(409, CHAMPION);
        let comparison = refused.at("/comparison");
        let score = |of: &str| comparison[of]["score"].as_f64().unwrap();
        assert!((score("candidate") - scores.0).abs() < 1e-9 && (score("reference") - scores.1).abs() < 1e-9);
        assert_eq!(
            (&comparison["reference"]["model_id"], &comparison["candidate"]["n"]),
            (&json!(champion), &json!(10))
        );
        assert_eq!(comparison["paired"], Value::Null, "no outcomes were kept");
    }
    assert_eq!(server.get(CHAMPION).await.text("/id"), champion);
}

#[tokio::test]
async fn a_model_passes_with_an_equal_score_or_without_a_reference_model() {
    let (server, dataset, _) = with_champion(7).await;
    let equal = uploaded(&server, 2).await;
    evaluate(&server, &dataset, &equal, 7).await;
    assert_eq!(put(&server, &equal, gate(&dataset, "macro_f1")).await.status, 200);
    assert_eq!(server.get(CHAMPION).await.text("/id"), equal);
    let mut require = gate(&dataset, "accuracy");
    require["not_worse_than"] = json!("canary");
    assert_eq!(put(&server, &equal, require).await.status, 200, "no canary yet");
}

#[tokio::test]
async fn the_gate_uses_the_newest_evaluation_on_the_current_data() {
    let (server, dataset, champion) = with_champion(7).await;
    let other = uploaded(&server, 2).await;
    let missing = put(&server, &other, gate(&dataset, "accuracy")).await;
    missing.assert_problem(409, CHAMPION);
    assert!(missing.text("/detail").contains("no evaluation"), "{missing:?}");
    evaluate(&server, &dataset, &other, 3).await;
    evaluate(&server, &dataset, &other, 8).await;
    assert_eq!(put(&server, &other, gate(&dataset, "accuracy")).await.status, 200);
    server.fill(&dataset, "test", 40, 1).await;
    put(&server, &champion, gate(&dataset, "accuracy")).await.assert_problem(409, CHAMPION);
    assert_eq!(server.get(CHAMPION).await.text("/id"), other);
}

#[tokio::test]
async fn rejects_a_gate_with_unknown_names() {
    let (server, dataset, champion) = with_champion(7).await;
    for (field, value, pointer) in [
        ("not_worse_than", NOBODY, "/require/not_worse_than"),
        ("not_worse_than", "No Alias", "/require/not_worse_than"),
        ("dataset_id", NOBODY, "/require/dataset_id"),
    ] {
        let mut require = gate(&dataset, "accuracy");
        require[field] = json!(value);
        let refused = put(&server, &champion, require).await;
        refused.assert_problem(422, CHAMPION);
        assert_eq!(refused.pointers(), [pointer]);
    }
    let mut unknown = gate(&dataset, "accuracy");
    unknown["metric"] = json!("beauty");
    assert_eq!(put(&server, &champion, unknown).await.status, 422);
}

#[tokio::test]
async fn an_alias_lists_its_history() {
    let (server, _, first) = with_champion(7).await;
    let second = uploaded(&server, 2).await;
    let body = json!({ "model_id": second }).to_string();
    assert_eq!(server.request("PUT", CHAMPION, "application/json", body.into()).await.status, 200);
    let history = format!("{CHAMPION}/history");
    let newest = server.get(&format!("{history}?limit=1")).await;
    assert_eq!((newest.items(), newest.text("/items/0/model_id")), (1, second));
    let rest = server.get(&format!("{history}?after={}", newest.text("/next"))).await;
    assert_eq!((rest.items(), rest.text("/items/0/model_id"), rest.at("/next")), (1, first, Value::Null));
    assert_eq!(server.get("/v1/models/aliases/nobody/history").await.items(), 0);
    for cursor in ["9223372036854775808", "1.5", "newest"] {
        server.get(&format!("{history}?after={cursor}")).await.assert_problem(400, &history);
    }
}
