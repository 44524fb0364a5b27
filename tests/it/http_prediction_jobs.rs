//! Prediction jobs over HTTP.

use std::{io::Write, time::Duration};

use axum::extract::FromRef;
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use thorax::{domain::Sha256, service::PredictionJobs};

use crate::support::{Server, TestResponse, assert_close, model, png};

const JOBS: &str = "/v1/prediction-jobs";
const PREDICTIONS: &str = "/v1/predictions";
const NDJSON: &str = "application/x-ndjson";
const NOBODY: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

/// Waits for the end of the job and returns it.
pub async fn ended(server: &Server, created: &TestResponse) -> TestResponse {
    assert_eq!(created.status, 202, "{created:?}");
    let path = created.header("location").to_owned();
    for _ in 0..600 {
        let job = server.get(&path).await;
        if job.at("/finished_at").is_string() {
            return job;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{:?} did not end", server.get(&path).await);
}

async fn lines(server: &Server, job: &TestResponse) -> Vec<Value> {
    let response = server.get_as(&format!("{JOBS}/{}/results", job.text("/id")), NDJSON).await;
    assert_eq!((response.status, response.header("content-type")), (200, NDJSON));
    response
        .bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

async fn send(server: &Server, media_type: &str, archive: Vec<u8>) -> TestResponse {
    server.request("POST", JOBS, media_type, archive).await
}

fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, *content).unwrap();
    }
    archive.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, content) in files {
        archive.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(content).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_scores_a_data_set_like_single_predictions() {
    let server = Server::start().await;
    server.promote(model::small(32, 1)).await;
    let dataset = server.dataset("drawn").await;
    server.fill(&dataset, "train", 0, 3).await;
    server.fill(&dataset, "test", 100, 2).await;
    let job = ended(&server, &server.post(JOBS, json!({"dataset_id": dataset, "split": "test"})).await).await;
    assert_eq!((job.text("/status"), job.at("/total"), job.at("/answered")), ("succeeded".into(), json!(6), json!(6)));
    assert_eq!((job.at("/failed"), job.at("/fraction"), job.at("/error")), (json!(0), json!(1.0), Value::Null));
    assert!(job.at("/images_per_second").as_f64().unwrap() > 0.0 && job.text("/notice").contains("research"));
    let lines = lines(&server, &job).await;
    assert_eq!(lines.len(), 6);
    for (at, line) in lines.iter().enumerate() {
        let radiograph = server.get(&format!("/v1/radiographs/{}", line["radiograph_id"].as_str().unwrap())).await;
        assert_eq!((&line["sequence"], &line["label"]), (&json!(at), &radiograph.at("/label")));
        assert_eq!((&line["sha256"], radiograph.text("/split")), (&radiograph.at("/sha256"), "test".into()));
        let image = server.get(&format!("/v1/radiographs/{}/image", radiograph.text("/id"))).await.bytes;
        let alone = server.request("POST", PREDICTIONS, "image/png", image).await;
        assert_eq!(line["prediction"], alone.at("/prediction"));
        assert_close(&line["probabilities"], &alone.at("/probabilities"));
    }
    let csv = server.get_as(&format!("{JOBS}/{}/results", job.text("/id")), "text/csv").await;
    let text = String::from_utf8(csv.bytes).unwrap();
    let mut rows = text.lines();
    let head = "sequence,radiograph_id,file_name,sha256,label,prediction,normal,pneumonia,COVID-19,problem";
    assert_eq!(rows.next(), Some(head));
    for (row, line) in rows.by_ref().zip(&lines) {
        let fields: Vec<&str> = row.split(',').collect();
        assert_eq!(
            (fields[1], fields[5]),
            (line["radiograph_id"].as_str().unwrap(), line["prediction"].as_str().unwrap())
        );
        assert!((fields[6].parse::<f64>().unwrap() - line["probabilities"]["normal"].as_f64().unwrap()).abs() < 1e-6);
    }
    assert_eq!(text.lines().count(), 7);
    assert_eq!(server.get(PREDICTIONS).await.items(), 6, "only the predictions that clients requested");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn archives_of_each_kind_are_scored_and_then_deleted() {
    let server = Server::start().await;
    server.promote(model::small(32, 1)).await;
    let other = server.request("POST", "/v1/models", "application/octet-stream", model::small(48, 2)).await.text("/id");
    let (first, second) = (png(48, 48, 1), png(48, 48, 2));
    let files: [(&str, &[u8]); 4] =
        [("a.png", &first), ("folder/broken.png", b"no image"), ("__MACOSX/a.png", &first), ("folder/b.png", &second)];
    let archives = [
        ("application/zip", zip(&files)),
        ("application/x-tar", tar(&files)),
        ("application/gzip", gzip(&tar(&files))),
    ];
    for (media_type, archive) in archives {
        let job = ended(&server, &send(&server, media_type, archive).await).await;
        assert_eq!((job.text("/status"), job.at("/total")), ("succeeded".into(), json!(3)));
        assert_eq!((job.at("/answered"), job.at("/failed")), (json!(2), json!(1)));
        let lines = lines(&server, &job).await;
        let names: Vec<&Value> = lines.iter().map(|line| &line["file_name"]).collect();
        assert_eq!(names, ["file-0.png", "file-1", "file-2.png"]);
        assert!(
            lines[1]["problem"].as_str().unwrap().contains("PNG") && lines[1]["prediction"].is_null(),
            "{}",
            lines[1]
        );
        // Rows are identified by position and content, also those without a prediction.
        let hashes: Vec<String> = [&first[..], b"no image", &second].map(|file| Sha256::of(file).to_string()).into();
        assert!(lines.iter().zip(&hashes).all(|(line, hash)| line["sha256"] == json!(hash)), "{lines:?}");
        let alone = server.request("POST", PREDICTIONS, "image/png", second.clone()).await;
        assert_close(&lines[2]["probabilities"], &alone.at("/probabilities"));
    }
    // With a model that is not loaded.
    let archive = zip(&files);
    let submitted = server.request("POST", &format!("{JOBS}?model={other}"), "application/zip", archive).await;
    let job = ended(&server, &submitted).await;
    let by_other = server.request("POST", &format!("{PREDICTIONS}?model={other}"), "image/png", first).await;
    assert_eq!(job.text("/model_id"), other);
    assert_close(&lines(&server, &job).await[0]["probabilities"], &by_other.at("/probabilities"));
    server.settle().await;
    let left = std::fs::read_dir(server.folder.path().join("data/jobs")).unwrap().count();
    assert_eq!(left, 0, "archives are removed");
    assert_eq!(server.get(JOBS).await.items(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_job_resumes_after_its_last_result() {
    let server = Server::start().await;
    server.promote(model::small(32, 1)).await;
    let images: Vec<Vec<u8>> = (0..40).map(|shade| png(48, 48, shade)).collect();
    let names: Vec<String> = (0..40).map(|at| format!("{at:02}.png")).collect();
    let files: Vec<(&str, &[u8])> = names.iter().zip(&images).map(|(name, image)| (name.as_str(), &**image)).collect();
    let dataset = server.dataset("drawn").await;
    server.fill(&dataset, "train", 0, 4).await;
    let first = start_long_job(&server).await;
    let submitted =
        [send(&server, "application/zip", zip(&files)).await, server.post(JOBS, json!({"dataset_id": dataset})).await];
    assert_eq!(submitted.each_ref().map(|job| job.text("/status")), ["queued", "queued"]);
    let again = restarted_without(server, &first).await;
    // Part of the job was done before, and a stray file is left in the folder.
    let [archive, radiographs] = submitted.each_ref().map(|job| job.text("/id").parse().unwrap());
    let (filter, page) = (Default::default(), thorax::store::Page { limit: 3, after: None });
    let dataset = dataset.parse().unwrap();
    let first = thorax::store::radiographs::list(&again.state.stores.db, dataset, &filter, &page).await.unwrap();
    let of_archive = [0, 1, 2].map(|at| before(at, None));
    let of_dataset = [0, 1, 2].map(|at| before(at, Some(first[at as usize].id)));
    for (job, done) in [(archive, of_archive), (radiographs, of_dataset)] {
        assert!(thorax::store::prediction_jobs::append(&again.state.stores.db, job, &done).await.unwrap());
    }
    std::fs::write(again.folder.path().join("data/jobs/nobodys.archive"), b"left behind").unwrap();
    PredictionJobs::from_ref(&again.state).resume().await.unwrap();
    for job in &submitted {
        let job = ended(&again, job).await;
        assert_eq!(job.text("/status"), "succeeded", "{}", job.json());
        let lines = lines(&again, &job).await;
        let sequences: Vec<u64> = lines.iter().map(|line| line["sequence"].as_u64().unwrap()).collect();
        assert_eq!(sequences, (0..job.at("/total").as_u64().unwrap()).collect::<Vec<_>>());
        assert_eq!(lines[2]["problem"], json!("done before"));
        assert!(lines[3..].iter().all(|line| line["problem"].is_null() && line["prediction"].is_string()));
        if job.at("/dataset_id").is_null() {
            assert_eq!(lines[3]["file_name"], json!("file-3.png"));
        }
    }
    again.settle().await;
    assert_eq!(std::fs::read_dir(again.folder.path().join("data/jobs")).unwrap().count(), 0);
}

/// Starts a job that delays the others. Returns its path.
async fn start_long_job(server: &Server) -> String {
    let image = png(48, 48, 200);
    let names: Vec<String> = (0..20_000).map(|at| format!("{at}.png")).collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &*image)).collect();
    let job = send(server, "application/x-tar", tar(&files)).await;
    assert_eq!(job.status, 202, "{job:?}");
    job.header("location").to_owned()
}

/// Stops the server in the middle of its first job and starts it again without that job.
async fn restarted_without(server: Server, first: &str) -> Server {
    server.state.lifecycle.shutdown.cancel();
    server.settle().await;
    let again = server.again().await;
    assert_eq!(again.get(first).await.text("/status"), "running", "the job was interrupted");
    assert_eq!(again.delete(first).await.status, 204);
    again
}

fn before(sequence: u64, radiograph_id: Option<thorax::domain::RadiographId>) -> thorax::store::JobResult {
    thorax::store::JobResult {
        sequence,
        radiograph_id,
        file_name: "a file".into(),
        sha256: None,
        label: None,
        prediction: None,
        probabilities: None,
        problem: Some("done before".into()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serves_clients_while_a_job_runs_and_a_job_can_be_cancelled() {
    let server = Server::start().await;
    server.promote(model::resnet(64, 1)).await;
    let image = png(48, 48, 1);
    let names: Vec<String> = (0..2000).map(|at| format!("{at}.png")).collect();
    let files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &*image)).collect();
    let long = send(&server, "application/x-tar", tar(&files)).await;
    let short = send(&server, "application/zip", zip(&files[..2])).await;
    let path = long.header("location").to_owned();
    for _ in 0..600 {
        if server.get(&path).await.at("/answered").as_u64() > Some(0) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for _ in 0..5 {
        assert_eq!(server.request("POST", PREDICTIONS, "image/png", image.clone()).await.status, 200);
    }
    let running = server.get(&path).await;
    assert_eq!((running.text("/status"), running.at("/eta_seconds").is_number()), ("running".into(), true));
    assert!(lines(&server, &running).await.len() < 2000, "what there is so far");
    assert_eq!(server.get(short.header("location")).await.text("/status"), "queued", "one at a time");
    assert_eq!(server.delete(&path).await.status, 204);
    server.delete(&path).await.assert_problem(404, &path);
    assert_eq!(ended(&server, &short).await.text("/status"), "succeeded");
    server.get(&format!("{path}/results")).await.assert_problem(404, &format!("{path}/results"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejects_jobs_that_cannot_be_scored() {
    let server = Server::start().await;
    let dataset = server.dataset("empty").await;
    let of = |dataset: &str| json!({"dataset_id": dataset});
    server.post(JOBS, of(&dataset)).await.assert_problem(503, JOBS);
    server.promote(model::small(32, 1)).await;
    let pointers = async |body: Value| {
        let response = server.post(JOBS, body).await;
        (response.status, response.pointers())
    };
    assert_eq!(pointers(of(&dataset)).await, (422, vec!["/dataset_id".into()]));
    assert_eq!(pointers(of(NOBODY)).await, (422, vec!["/dataset_id".into()]));
    server.fill(&dataset, "train", 0, 1).await;
    assert_eq!(pointers(json!({"dataset_id": dataset, "split": "test"})).await, (422, vec!["/split".into()]));
    assert_eq!(server.post(JOBS, json!({"dataset_id": dataset, "model": "nobody"})).await.status, 404);
    assert_eq!(server.post(JOBS, json!({"dataset_id": dataset, "speed": 7})).await.status, 422);
    for bytes in [b"no archive".to_vec(), Vec::new(), zip(&[]), tar(&[(".hidden", b"x")])] {
        send(&server, "application/zip", bytes).await.assert_problem(422, JOBS);
    }
    send(&server, "image/png", png(48, 48, 1)).await.assert_problem(415, JOBS);
    assert_eq!(server.get(JOBS).await.items(), 0);
    assert_eq!(std::fs::read_dir(server.folder.path().join("data/jobs")).unwrap().count(), 0, "nothing is left");
    let path = format!("{JOBS}/{NOBODY}");
    server.get(&path).await.assert_problem(404, &path);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_model_was_deleted_fails_with_the_reason() {
    let server = Server::start().await;
    server.promote(model::small(32, 1)).await;
    let other = server.request("POST", "/v1/models", "application/octet-stream", model::small(32, 2)).await;
    let first = start_long_job(&server).await;
    let submitted = server
        .request(
            "POST",
            &format!("{JOBS}?model={}", other.text("/id")),
            "application/zip",
            zip(&[("a.png", &png(48, 48, 1))]),
        )
        .await;
    let again = restarted_without(server, &first).await;
    assert_eq!(again.delete(other.header("location")).await.status, 204);
    PredictionJobs::from_ref(&again.state).resume().await.unwrap();
    let job = ended(&again, &submitted).await;
    assert_eq!((job.text("/status"), job.text("/error").contains("model was removed")), ("failed".into(), true));
}
