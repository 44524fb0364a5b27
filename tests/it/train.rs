//! `thorax train`: the same runs and models as with a server, and its errors.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

use crate::process::{Running, succeeds, thorax, with_phantoms};

/// Two stages of a small network, the second with a range test.
fn plan(epochs: u32) -> Value {
    let step = json!({"scope": "all", "learning_rate": 1e-3, "epochs": epochs});
    let tested =
        json!({"scope": "all", "learning_rate": 1e-3, "epochs": 1, "range_test": {"from": 1e-5, "batches": 20}});
    json!({"stages": [{"image_size": 32, "steps": [step]}, {"image_size": 48, "steps": [tested]}]})
}

fn train(folder: &Path, plan: &Value) -> Command {
    std::fs::write(folder.join("plan.json"), plan.to_string()).unwrap();
    let mut command = thorax(folder);
    command.args(["train", "--dataset", "phantoms", "--recipe", "simple-cnn", "--seed", "0", "--plan", "plan.json"]);
    command
}

fn said(output: Output) -> (bool, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

/// Status, losses and model hashes of the last run.
fn outcome(server: &Running) -> (Value, Vec<Value>, Vec<Value>) {
    let (_, runs) = server.get("/v1/training-runs");
    let run = runs["items"].as_array().unwrap().last().unwrap().clone();
    let id = run["id"].as_str().unwrap();
    let (_, epochs) = server.get(&format!("/v1/training-runs/{id}/epochs"));
    let losses = epochs["items"].as_array().unwrap().iter().map(|epoch| epoch["train"]["loss"].clone()).collect();
    let (_, models) = server.get("/v1/models");
    let models = models["items"].as_array().unwrap().iter().filter(|model| model["run_id"] == run["id"]);
    (run["status"].clone(), losses, models.map(|model| model["sha256"].clone()).collect())
}

#[test]
fn train_leaves_the_same_rows_and_models_as_a_server() {
    let folder = with_phantoms();
    let (succeeded, shown, logged) = said(train(folder.path(), &plan(2)).args(["--name", "by hand"]).output().unwrap());
    assert!(succeeded, "{logged}");
    for line in ["name      by hand", "status    succeeded", "stage"] {
        assert!(shown.contains(line), "{line} is not in {shown}");
    }
    for line in ["epoch 2 of 2: training loss", "the range test", "stage 2: model", "succeeded"] {
        assert!(logged.contains(line), "{line} is not in {logged}");
    }
    let server = Running::start(folder.path(), &[]);
    let by_hand = outcome(&server);
    let id = server.submit("simple-cnn", &plan(2));
    let run = server.wait_for(&format!("/v1/training-runs/{id}"), |run| run["status"] == "succeeded");
    assert_eq!(outcome(&server), by_hand);
    assert_eq!((by_hand.1.len(), by_hand.2.len()), (3, 2));
    let (_, tests) = server.get(&format!("/v1/training-runs/{id}/range-tests"));
    let test = &tests["items"][0];
    assert_eq!((&test["stage"], &test["step"], &test["planned"]), (&json!(2), &json!(1), &json!(1e-3)));
    let curve = test["curve"].as_array().unwrap();
    assert_eq!(curve[0]["learning_rate"], json!(1e-5));
    assert!(curve.iter().any(|point| point["learning_rate"] == test["chosen"]), "{run} {tests}");
}

#[test]
fn an_interrupted_run_resumes_and_ends_like_an_undisturbed_one() {
    let folder = with_phantoms();
    let plan = plan(60);
    let mut process = train(folder.path(), &plan).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(process.stderr.take().unwrap()).lines().map(Result::unwrap);
    let first = lines.find(|line| line.contains("epoch 2 of 60")).unwrap();
    assert!(first.contains("training loss"), "{first}");
    succeeds(Command::new("kill").args(["-INT", &process.id().to_string()]));
    let rest: Vec<String> = lines.collect();
    assert!(!process.wait().unwrap().success());
    let hint = rest.last().unwrap();
    let id = hint.split("--resume ").nth(1).unwrap().split('`').next().unwrap();
    let (succeeded, shown, logged) = said(thorax(folder.path()).args(["train", "--resume", id]).output().unwrap());
    assert!(succeeded && shown.contains("succeeded"), "{logged}");
    assert!(!logged.contains("epoch 2 of 60"), "it started again from epoch 1: {logged}");
    let resumed = outcome(&Running::start(folder.path(), &[]));
    assert!(said(train(folder.path(), &plan).output().unwrap()).0);
    assert_eq!(outcome(&Running::start(folder.path(), &[])), resumed);
}

#[test]
fn trains_only_the_requested_stages() {
    let folder = with_phantoms();
    let (succeeded, _, logged) = said(train(folder.path(), &plan(1)).args(["--stages", "2"]).output().unwrap());
    assert!(succeeded && logged.contains("stage 1 of 1 (48 px)"), "{logged}");
}

#[test]
fn rejects_runs_that_cannot_be_trained_with_the_reason() {
    let folder = with_phantoms();
    let wrong = json!({"batch_size": 0, "mixup": -1});
    let cases: [(&[&str], Value, &str); 9] = [
        (&["--stages", "3"], plan(1), "from 1 to 2, the stages of the plan (got 3)"),
        (&["--stages", "0"], plan(1), "(got 0)"),
        (&["--stages", "1,1"], plan(1), "(got 1 twice in 1,1)"),
        (&["--stages", "2,1"], plan(1), "(got 2 before 1 in 2,1)"),
        (&["--stages", "1,2,1"], plan(1), "(got 2 before 1 in 1,2,1)"),
        (&["--stages", ""], plan(1), "invalid value '' for '--stages"),
        (&["--recipe", "resnet"], json!({}), "--recipe: there is no such recipe"),
        (&[], wrong.clone(), "--plan plan.json: batch_size: must be between 1 and 512"),
        (&[], wrong, "--plan plan.json: mixup"),
    ];
    for (arguments, plan, expected) in cases {
        std::fs::write(folder.path().join("plan.json"), plan.to_string()).unwrap();
        let mut command = thorax(folder.path());
        command.args(["train", "--dataset", "phantoms", "--plan", "plan.json"]).args(arguments);
        if !arguments.contains(&"--recipe") {
            command.args(["--recipe", "simple-cnn"]);
        }
        let (succeeded, _, logged) = said(command.output().unwrap());
        assert!(!succeeded && logged.contains(expected), "{arguments:?}: {logged}");
    }
    std::fs::write(folder.path().join("plan.json"), "{\"batch_size\": 8,}").unwrap();
    let broken =
        thorax(folder.path()).args(["train", "--dataset", "phantoms", "--plan", "plan.json"]).output().unwrap();
    let output = said(broken).2;
    assert!(output.contains("--plan plan.json: not a JSON object") && output.contains("line 1 column"), "{output}");
    let nothing = thorax(folder.path()).args(["train", "--dataset", "nothing"]).output().unwrap();
    assert!(said(nothing).2.contains("data set \"nothing\" not found"));
    let _server = Running::start(folder.path(), &[]);
    let (succeeded, _, logged) = said(train(folder.path(), &plan(1)).output().unwrap());
    assert!(!succeeded && logged.contains("is in use by another thorax server"), "{logged}");
}

#[test]
fn a_run_without_its_splits_names_the_command_that_assigns_them() {
    let folder = with_phantoms();
    let path = folder.path().join("phantoms");
    // One folder per class, without splits.
    for class in ["normal", "pneumonia", "COVID-19"] {
        std::fs::create_dir_all(folder.path().join("unsplit").join(class)).unwrap();
    }
    for image in std::fs::read_dir(path.join("train")).unwrap() {
        let image = image.unwrap();
        let name = image.file_name().into_string().unwrap();
        let class = ["normal", "pneumonia", "COVID-19"].into_iter().find(|class| name.contains(class)).unwrap();
        std::fs::copy(image.path(), folder.path().join("unsplit").join(class).join(&name)).unwrap();
    }
    succeeds(thorax(folder.path()).args(["import", "--dataset", "two words", "unsplit"]));
    let train = |arguments: &[&str]| {
        let mut command = thorax(folder.path());
        said(
            command
                .args(["train", "--dataset", "two words", "--recipe", "simple-cnn"])
                .args(arguments)
                .output()
                .unwrap(),
        )
    };
    let (succeeded, _, output) = train(&[]);
    assert!(!succeeded && output.contains("`thorax dataset split \"two words\""), "{output}");
    for foreign in ["POST", "GET", "/plan", "/dataset_id"] {
        assert!(!output.contains(foreign), "{foreign}: {output}");
    }
    // What the message says helps.
    succeeds(thorax(folder.path()).args(["dataset", "split", "two words", "--validation-fraction", "0.3"]));
    std::fs::write(folder.path().join("plan.json"), plan(1).to_string()).unwrap();
    let (succeeded, shown, output) = train(&["--plan", "plan.json", "--stages", "1"]);
    assert!(succeeded, "{output}");
    // Scores have their intervals, as in the responses of the server.
    let scores = shown.lines().find(|line| line.contains("validation") && line.contains("COVID-19")).unwrap();
    let intervals = scores.matches("–").count();
    assert!(intervals >= 3 && shown.contains("95 % confidence intervals"), "{shown}");
}

#[test]
fn options_of_a_command_are_accepted_before_and_after_it() {
    let folder = with_phantoms();
    let data = folder.path().join("data");
    let data = data.to_str().unwrap();
    let empty = tempfile::tempdir().unwrap();
    let list = |arguments: &[&str]| {
        let mut command = thorax(empty.path());
        said(command.env_remove("THORAX_DATA_DIR").args(arguments).output().unwrap())
    };
    let behind = list(&["dataset", "distribution", "phantoms", "--data-dir", data, "--log", "error"]);
    assert!(behind.0, "{behind:?}");
    assert_eq!(list(&["--data-dir", data, "--log", "error", "dataset", "distribution", "phantoms"]), behind);
    assert_eq!(list(&["--log=error", "dataset", "distribution", "phantoms", "--data-dir", data]), behind);
    // An option that the command does not have is still refused.
    let refused = list(&["--listen", "127.0.0.1:0", "runs", "list"]);
    assert!(!refused.0 && refused.2.contains("--listen"), "{refused:?}");
}
