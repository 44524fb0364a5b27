//! Training options of a plan, and the preview of a recipe's augmentation, over HTTP.

use serde_json::{Value, json};

use crate::support::Server;

const NOBODY: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

#[tokio::test]
async fn a_preview_shows_a_radiograph_and_its_augmentations_by_seed() {
    let server = Server::start().await;
    let dataset = trainable(&server).await;
    let radiograph = server.get(&format!("/v1/datasets/{dataset}/radiographs?limit=1")).await.text("/items/0/id");
    let path = "/v1/recipes/covid-resnet-original/preview";
    let sheet = server.get(&format!("{path}?radiograph={radiograph}")).await;
    assert_eq!((sheet.status, sheet.header("content-type")), (200, "image/png"));
    let sheet = image::load_from_memory(&sheet.bytes).unwrap().into_luma8();
    assert_eq!(sheet.dimensions(), (4 * 229 + 3 * 4, 3 * 229 + 2 * 4));
    let one = server.get(&format!("{path}?radiograph={radiograph}&count=1")).await;
    let one = image::load_from_memory(&one.bytes).unwrap().into_luma8();
    assert_eq!(one.dimensions(), (2 * 229 + 4, 229));
    let usual = server.get(&format!("/v1/radiographs/{radiograph}/image?size=229")).await;
    let original = image::load_from_memory(&usual.bytes).unwrap().into_luma8();
    let part = |sheet: &image::GrayImage, left| image::imageops::crop_imm(sheet, left, 0, 229, 229).to_image();
    assert!(part(&one, 0) == original && part(&sheet, 0) == original, "the original comes first");
    assert!(
        part(&one, 233) != original && part(&one, 233) == part(&sheet, 233),
        "a longer sheet begins with the same images"
    );
    let other = server.get(&format!("{path}?radiograph={radiograph}&count=1&seed=1")).await;
    let other = image::load_from_memory(&other.bytes).unwrap().into_luma8();
    assert!(part(&other, 0) == original && part(&other, 233) != part(&one, 233), "another seed changes otherwise");
}

#[tokio::test]
async fn rejects_a_preview_with_missing_or_invalid_parameters() {
    let server = Server::start().await;
    let radiograph = |name: &str, query: &str| (format!("/v1/recipes/{name}/preview"), query.to_owned());
    let cases = [
        (404, radiograph("none", &format!("radiograph={NOBODY}"))),
        (404, radiograph("covid-resnet-original", &format!("radiograph={NOBODY}"))),
        (422, radiograph("covid-resnet", &format!("radiograph={NOBODY}"))),
        (400, radiograph("covid-resnet-original", "")),
        (400, radiograph("covid-resnet-original", "radiograph=7")),
        (400, radiograph("covid-resnet-original", &format!("radiograph={NOBODY}&count=0"))),
    ];
    for (status, (path, query)) in cases {
        server.get(&format!("{path}?{query}")).await.assert_problem(status, &path);
    }
}

#[tokio::test]
async fn plan_overrides_set_the_training_options_and_invalid_ones_are_named() {
    let server = Server::start().await;
    let dataset = trainable(&server).await;
    let submit = |plan: Value| json!({"dataset_id": dataset, "recipe": "simple-cnn", "plan": plan});
    let step = json!({
        "scope": "all", "learning_rate": 0.01, "epochs": 2, "layer_decay": 0.5, "schedule": {"kind": "one_cycle"},
        "early_stopping": {"patience": 2}, "range_test": {"batches": 30}
    });
    let plan = json!({
        "class_weights": "balanced", "sampling": "balanced", "label_smoothing": 0.1, "mixup": 0.2,
        "augmentation": {"rotation_degrees": 15, "vertical_flip": true}, "weight_averaging": {"decay": 0.99},
        "early_stopping": {"patience": 5, "min_delta": 0.001}, "stages": [{"image_size": 32, "steps": [step]}]
    });
    let run = server.post("/v1/training-runs", submit(plan)).await;
    assert_eq!(run.status, 202, "{run:?}");
    let stored = server.get(run.header("location")).await;
    assert_eq!((stored.at("/plan/augmentation/vertical_flip"), stored.at("/plan/mixup")), (json!(true), json!(0.2)));
    let step = |field: &str| stored.at(&format!("/plan/stages/0/steps/0/{field}"));
    assert_eq!((step("schedule/start_divisor"), step("early_stopping/min_delta")), (json!(25.0), json!(0.0)));
    assert_eq!((step("layer_decay"), step("range_test/from")), (json!(0.5), json!(1e-7)));

    let wrong = json!({
        "class_weights": "heavy", "label_smoothing": 0.9, "mixup": -1, "augmentation": {"zoom": 2},
        "weight_averaging": {"decay": 1}, "early_stopping": {"patience": 0},
        "stages": [{"image_size": 32, "steps": [
            {"scope": "head", "learning_rate": 0.01, "epochs": 1, "layer_decay": 0.5, "schedule": {"kind": "sudden"}},
            {"scope": "all", "learning_rate": 0.01, "epochs": 1, "schedule": {"kind": "cosine", "final_fraction": 2}}
        ]}]
    });
    let mut pointers = server.post("/v1/training-runs", submit(wrong)).await.pointers();
    pointers.sort();
    let expected = [
        "/plan/augmentation/zoom",
        "/plan/class_weights",
        "/plan/early_stopping/patience",
        "/plan/label_smoothing",
        "/plan/mixup",
        "/plan/stages/0/steps/0/layer_decay",
        "/plan/stages/0/steps/0/schedule/kind",
        "/plan/stages/0/steps/1/schedule/final_fraction",
        "/plan/weight_averaging/decay",
    ];
    assert_eq!(pointers, expected);
}

/// A data set with two training images of each class.
async fn trainable(server: &Server) -> String {
    let dataset = server.dataset("trainable").await;
    server.fill(&dataset, "train", 0, 2).await;
    dataset
}
