//! Broken data folders: a database that is missing, foreign, damaged or locked, a disk that is full, files that are lost, permissions that are
//! too wide; and identifiers that must not stay behind.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Output,
    thread,
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;

use crate::{
    durable::SmallDisk,
    fixtures::skip_unsupported,
    http_dicom::{PLANTED, found_below, radiograph},
    operating::{noise, serving_folder},
    process::{PATIENCE, Running, succeeds, thorax, with_phantoms},
    support::{Part, Server, dicom, model, multipart, png},
};

const NO_DRAIN: (&str, &str) = ("THORAX_DRAIN_SECONDS", "0");

/// The output of a command that fails.
fn fails(folder: &Path, arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = thorax(folder).args(arguments).output().unwrap();
    assert_eq!(status.code(), Some(1), "{}", String::from_utf8_lossy(&stdout));
    String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned()
}

/// All files below a folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files_below(&path)) } else { found.push(path) }
    }
    found
}

fn move_database(data: &Path, to: &Path) {
    for path in files_below(data) {
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.starts_with("thorax.sqlite") {
            fs::rename(&path, to.join(name)).unwrap();
        }
    }
}

/// A connection of another program.
async fn database(folder: &TempDir) -> SqliteConnection {
    SqliteConnectOptions::new().filename(folder.path().join("data/thorax.sqlite")).connect().await.unwrap()
}

async fn execute(connection: &mut SqliteConnection, sql: &str) {
    sqlx::query(AssertSqlSafe(sql.to_owned())).execute(connection).await.unwrap();
}

fn make_old(path: &Path) {
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(3 * 24 * 3600)).unwrap();
}

#[test]
fn refuses_a_folder_whose_database_is_missing_and_removes_nothing() {
    let folder = with_phantoms();
    let data = folder.path().join("data");
    let aside = folder.path().join("aside");
    fs::create_dir(&aside).unwrap();
    move_database(&data, &aside);
    let before = files_below(&data).len();
    for command in [&["serve"][..], &["import", "--dataset", "phantoms", "phantoms"]] {
        let message = fails(folder.path(), command);
        assert!(message.contains("restore thorax.sqlite from a backup"), "{message}");
        assert!(message.contains("move blobs out"), "{message}");
    }
    fs::write(data.join("thorax.sqlite"), "").unwrap();
    assert!(fails(folder.path(), &["serve"]).contains("restore thorax.sqlite"), "an empty file is no database");
    fs::remove_file(data.join("thorax.sqlite")).unwrap();
    assert!(fails(folder.path(), &["doctor"]).contains("there is no database"));
    assert_eq!(files_below(&data).iter().filter(|path| !path.ends_with("server.lock")).count(), before);
    // As the message says.
    fs::rename(data.join("blobs"), aside.join("blobs")).unwrap();
    Running::start(folder.path(), &[NO_DRAIN]).end("-TERM");
}

#[test]
fn a_foreign_database_removes_no_file_until_it_is_adopted() {
    let (folder, other) = (with_phantoms(), with_phantoms());
    let (data, foreign) = (folder.path().join("data"), other.path().join("data"));
    let cache = data.join("cache/01890a5d-ac96-774b-bcce-b302099a8057");
    let checkpoints = data.join("runs/01890a5d-ac96-774b-bcce-b302099a8057");
    for left in [&cache, &checkpoints] {
        fs::create_dir_all(left).unwrap();
        fs::write(left.join("some.file"), "content").unwrap();
    }
    let blob = data.join("blobs/ab").join("c".repeat(62));
    fs::write(&blob, "an image that only the right database names").unwrap();
    make_old(&blob);
    let aside = folder.path().join("aside");
    fs::create_dir(&aside).unwrap();
    move_database(&data, &aside);
    move_database(&foreign, &data);
    let mut server = Running::start(folder.path(), &[NO_DRAIN]);
    assert_eq!(server.get("/v1/datasets").0, 200);
    // A sweep takes milliseconds, as the end of this test shows.
    thread::sleep(Duration::from_secs(2));
    assert!(server.end("-TERM").success());
    let log = server.standard_error();
    assert!(log.contains("belongs to another data folder") && log.contains("thorax doctor --adopt"), "{log}");
    assert!(cache.is_dir() && checkpoints.is_dir() && blob.is_file());
    succeeds(thorax(folder.path()).args(["doctor", "--adopt"]));
    let server = Running::start(folder.path(), &[NO_DRAIN]);
    let began = Instant::now();
    while blob.exists() {
        assert!(began.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(50));
    }
    assert!(!cache.exists() && !checkpoints.exists());
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_database_is_read_but_not_written_and_predictions_are_served() {
    let folder = serving_folder();
    let file = folder.path().join("data/thorax.sqlite");
    let mut connection = database(&folder).await;
    let page: i64 = sqlx::query_scalar("select rootpage from sqlite_schema where name = 'predictions_by_feedback'")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    let mut bytes = fs::read(&file).unwrap();
    let start = (page as usize - 1) * 4096;
    bytes[start..start + 4096].fill(0xa5);
    fs::write(&file, &bytes).unwrap();
    let mut server = Running::start(folder.path(), &[NO_DRAIN]);
    let (status, readiness) = server.get("/health/ready");
    assert_eq!(status, 503);
    assert!(readiness["detail"].as_str().unwrap().contains("damaged"), "{readiness}");
    assert_eq!(server.predict(&png(48, 48, 1)).0, 200);
    assert_eq!(server.get("/v1/models").0, 200);
    let (status, refused) = server.send("POST", "/v1/datasets", r#"{"name": "new"}"#);
    assert_eq!(status, 503, "{refused}");
    assert!(refused["detail"].as_str().unwrap().contains("restore it from a backup"), "{refused}");
    let (_, _, metrics) = server.exchange("GET", "/metrics", &[], b"");
    let metrics = String::from_utf8(metrics).unwrap();
    assert!(metrics.contains("\nthorax_database_damaged 1"), "{metrics}");
    assert!(server.end("-TERM").success());
    assert_eq!(fs::read(&file).unwrap(), bytes, "nothing is written");
    assert!(server.standard_error().contains("the database is damaged"));
    assert!(fails(folder.path(), &["doctor"]).contains("the database is damaged: restore"));
    // Where nothing can be read the server refuses to start, with the same advice.
    bytes[..100].fill(0xa5);
    fs::write(&file, &bytes).unwrap();
    let refused = fails(folder.path(), &["serve"]);
    assert!(refused.contains("is damaged") && refused.contains("Restore thorax.sqlite"), "{refused}");
}

#[test]
fn only_the_owner_can_read_the_data_folder_and_wider_permissions_are_warned_about() {
    let folder = serving_folder();
    let mut server = Running::start(folder.path(), &[NO_DRAIN]);
    let data = folder.path().join("data");
    assert_eq!(server.predict(&png(48, 48, 1)).0, 200);
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    let files = files_below(&data);
    for name in ["thorax.sqlite", "thorax.sqlite-wal", "thorax.sqlite-shm", "data-folder.json"] {
        assert!(files.iter().any(|path| path.ends_with(name)), "{name}: {files:?}");
    }
    assert!(files.iter().any(|path| path.starts_with(data.join("blobs"))));
    for path in &files {
        assert_eq!(mode(path) & 0o077, 0, "{}", path.display());
    }
    assert!(server.end("-TERM").success());
    assert!(!server.standard_error().contains("chmod"));
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).unwrap();
    let mut server = Running::start(folder.path(), &[NO_DRAIN]);
    assert!(server.end("-TERM").success());
    let log = server.standard_error();
    assert!(log.contains("its mode is 755") && log.contains("chmod -R go= "), "{log}");
}

#[test]
fn no_identifier_of_a_patient_is_logged_at_any_level() {
    let folder = serving_folder();
    let mut server = Running::start(folder.path(), &[NO_DRAIN, ("THORAX_LOG", "trace")]);
    let file = dicom::file(radiograph(0));
    let study = PLANTED[6];
    let part = b"--b\r\ncontent-type: application/dicom\r\n\r\n";
    let related = [&part[..], &file, b"\r\n--b--\r\n"].concat();
    let content_type = [("content-type", "multipart/related; type=\"application/dicom\"; boundary=b")];
    let (status, ..) = server.exchange("POST", &format!("/dicomweb/studies/{study}"), &content_type, &related);
    assert_eq!(status, 200);
    let of_other = [&part[..], &dicom::file(radiograph(1)), b"\r\n--b--\r\n"].concat();
    let cut = server.exchange("POST", &format!("/dicomweb/studies/{study}.1"), &content_type, &of_other);
    assert_eq!(cut.0, 409);
    for path in ["/dicomweb/studies/{}/series", "/wado/{}", "/dicomweb/studies/{}"] {
        let (status, _, body) = server.exchange("GET", &path.replace("{}", study), &[], b"");
        assert!(status == 404 || status == 405, "{path}: {status}");
        let shows = String::from_utf8_lossy(&body).contains(study);
        assert!(!shows || path.starts_with("/wado"), "{path}");
    }
    let (_, dataset) = server.send("POST", "/v1/datasets", r#"{"name": "uploads"}"#);
    let uploads = format!("/v1/datasets/{}/radiographs", dataset["id"].as_str().unwrap());
    let damaged = &file[..file.len() / 2];
    for (name, bytes) in
        [("Zyxwander.dcm", &file[..]), ("Zyxwander-MRN-774411.png", &png(48, 48, 1)), ("ACC-990017", damaged)]
    {
        let (content_type, body) = multipart(&[Part::Text("patient_id", "MRN-774411"), Part::File(name, bytes)]);
        server.exchange("POST", &uploads, &[("content-type", content_type.as_str())], &body);
    }
    for bytes in [&file[..], damaged] {
        server.exchange("POST", "/v1/predictions", &[("content-type", "application/dicom")], bytes);
    }
    for (method, path) in [
        ("PUT", "/v1/predictions/Zyxwander_24.png"),
        ("DELETE", "/v1/datasets/Zyxwander20.dcm"),
        ("GET", "/v1/imports/MRN-774411.png"),
        ("GET", "/v1/datasets/01890a5d-ac96-774b-bcce-b302099a8057/exports/Zyxwander.npy"),
        ("PUT", "/v1/models/aliases/Zyxwander"),
        ("POST", "/v2/models/Zyxwander/infer"),
        ("GET", "/v1/Zyxwander"),
        ("GET", "/static/Zyxwander.js"),
        ("GET", "/docs/Zyxwander.js"),
        ("ZYXWANDER", "/v1/datasets"),
    ] {
        let (status, ..) = server.exchange(method, path, &[("content-type", "application/json")], b"{}");
        assert!((400..500).contains(&status), "{method} {path}: {status}");
    }
    assert!(server.end("-TERM").success());
    let log = server.standard_error();
    assert!(log.contains("path=\"/v1/predictions/{id}\""), "{log}");
    assert!(log.contains("DEBUG") && log.contains("/dicomweb/studies/{study}"), "it logs requests and debug messages");
    for text in PLANTED {
        let line = log.lines().find(|line| line.to_lowercase().contains(&text.to_lowercase()));
        assert_eq!(line, None, "{text}");
    }
}

#[test]
fn deleted_names_leave_the_files_of_the_data_folder() {
    const NAMES: [&str; 3] = ["Qwyzander-Holm", "Vexhilde-Marn", "Oldname-Rusk"];
    let folder = tempfile::tempdir().unwrap();
    let server = Running::start(folder.path(), &[NO_DRAIN, ("THORAX_KEEP_FILE_NAMES", "true")]);
    let (_, dataset) = server.send("POST", "/v1/datasets", &json!({"name": NAMES[0]}).to_string());
    let dataset = format!("/v1/datasets/{}", dataset["id"].as_str().unwrap());
    for shade in 0..40 {
        let name = format!("{}-{shade}.png", NAMES[1]);
        let image = png(48, 48, shade);
        let (content_type, body) = multipart(&[Part::Text("source", NAMES[2]), Part::File(&name, &image)]);
        let path = format!("{dataset}/radiographs");
        assert_eq!(server.exchange("POST", &path, &[("content-type", content_type.as_str())], &body).0, 201);
    }
    let data = folder.path().join("data");
    assert_eq!(NAMES.map(|name| found_below(&data, &[name]).is_empty()), [false; 3], "they are stored at first");
    assert_eq!(server.send("DELETE", &dataset, "").0, 204);
    let began = Instant::now();
    loop {
        let found = found_below(&data, &NAMES);
        if found.is_empty() {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{found:?}");
        thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_full_disk_refuses_writes_with_the_reason_and_serves_predictions_also_after_a_restart() {
    let folder = serving_folder();
    let Some(disk) = SmallDisk::under(&folder.path().join("data")) else {
        skip_unsupported("no file system can be mounted here");
        return;
    };
    let mut server = Running::start(folder.path(), &[NO_DRAIN]);
    let (status, ready) = server.get("/health/ready");
    assert_eq!(status, 200);
    assert!(ready["warnings"][0].as_str().unwrap().contains("MiB free"), "before anything fails: {ready}");
    let (_, dataset) = server.send("POST", "/v1/datasets", r#"{"name": "uploads"}"#);
    let uploads = format!("/v1/datasets/{}/radiographs", dataset["id"].as_str().unwrap());
    let upload = |server: &Running| {
        let (content_type, body) = multipart(&[Part::File("a.png", &noise(256))]);
        let (status, _, body) = server.exchange("POST", &uploads, &[("content-type", content_type.as_str())], &body);
        (status, serde_json::from_slice::<Value>(&body).unwrap())
    };
    // A data set with a long description fills the write-ahead log within a few attempts.
    let create = |server: &Running, at: usize| {
        let body = json!({"name": format!("set {at} of {}", server.address), "description": "x".repeat(180)});
        server.send("POST", "/v1/datasets", &body.to_string())
    };
    let assert_full = |server: &Running| {
        disk.fill();
        let (status, refused) = upload(server);
        assert_eq!((status, &refused["type"]), (507, &json!("/problems/insufficient-storage")), "{refused}");
        assert!(refused["detail"].as_str().unwrap().contains("disk"), "{refused}");
        let refused = (0..500).map(|at| create(server, at)).find(|(status, _)| *status != 201).unwrap();
        assert_eq!((refused.0, &refused.1["type"]), (507, &json!("/problems/insufficient-storage")), "{refused:?}");
        assert_eq!(server.predict(&png(48, 48, 1)).0, 200);
        assert_eq!(server.get("/health/ready").0, 200);
        let (_, _, metrics) = server.exchange("GET", "/metrics", &[], b"");
        let metrics = String::from_utf8(metrics).unwrap();
        let free = metrics.lines().find_map(|line| line.strip_prefix("thorax_disk_free_bytes ")).unwrap();
        assert!(free.parse::<f64>().unwrap() < 1e6, "{free}");
    };
    assert_full(&server);
    for signal in ["-TERM", "-KILL"] {
        server.end(signal);
        disk.fill();
        server = Running::start(folder.path(), &[NO_DRAIN]);
        assert_full(&server);
    }
    disk.free();
    assert_eq!(upload(&server).0, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_locked_by_another_program_is_503_after_a_bounded_wait() {
    let folder = serving_folder();
    let server = Running::start(folder.path(), &[NO_DRAIN]);
    // It answers once it has looked for interrupted imports, which needs the lock.
    assert_eq!(server.get("/health/ready").0, 200);
    let mut other = database(&folder).await;
    execute(&mut other, "begin immediate").await;
    thread::scope(|scope| {
        for name in ["one", "two", "three"] {
            let server = &server;
            scope.spawn(move || {
                let began = Instant::now();
                let body = json!({ "name": name }).to_string();
                let headers = [("content-type", "application/json")];
                let (status, head, body) = server.exchange("POST", "/v1/datasets", &headers, body.as_bytes());
                let body = String::from_utf8_lossy(&body);
                assert_eq!(status, 503, "{body}");
                assert!(
                    head.contains("\r\nretry-after: 5") && body.contains("locked by another program"),
                    "{head} {body}"
                );
                assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
            });
        }
        let began = Instant::now();
        assert_eq!(server.predict(&png(48, 48, 1)).0, 200);
        assert!(began.elapsed() < Duration::from_secs(5), "predictions do not wait: {:?}", began.elapsed());
    });
    let message = fails(folder.path(), &["import", "--dataset", "more", "."]);
    assert!(message.contains("locked by another program") && !message.contains("(code"), "{message}");
    execute(&mut other, "rollback").await;
    assert_eq!(server.send("POST", "/v1/datasets", r#"{"name": "one"}"#).0, 201);
    let recorded =
        server.wait_for("/v1/predictions", |listed| listed["items"].as_array().is_some_and(|items| !items.is_empty()));
    assert_eq!(recorded["items"].as_array().unwrap().len(), 1, "it waited for the lock");
}

#[tokio::test]
async fn uploading_a_file_again_mends_a_lost_or_damaged_blob_and_no_path_is_shown() {
    let server = Server::start().await;
    server.promote(model::small(32, 1)).await;
    let dataset = server.dataset("chests").await;
    let texted = dicom::file(radiograph(0));
    for (name, bytes) in [("a.png", &png(48, 48, 1)), ("b.dcm", &texted)] {
        let parts = [Part::File(name, bytes)];
        let created = server.upload(&dataset, &parts).await;
        let id = created.text("/items/0/radiograph/id");
        let hash: thorax::domain::Sha256 = created.text("/items/0/radiograph/sha256").try_into().unwrap();
        let path = server.state.stores.blobs.path(&hash);
        let image = format!("/v1/radiographs/{id}/image");
        let whole = server.get(&image).await.bytes;
        for damage in ["lost", "truncated", "of the same length"] {
            match damage {
                "lost" => fs::remove_file(&path).unwrap(),
                "truncated" => fs::write(&path, &whole[..whole.len() / 2]).unwrap(),
                _ => {
                    let mut altered = whole.clone();
                    let middle = whole.len() / 2;
                    altered[middle..middle + 4].iter_mut().for_each(|byte| *byte ^= 0x5a);
                    fs::write(&path, altered).unwrap();
                }
            }
            let root = server.folder.path().to_str().unwrap();
            let failed = server.get(&image).await;
            assert_eq!(failed.status, 500, "{damage}");
            assert!(!String::from_utf8_lossy(&failed.bytes).contains(root), "{failed:?}");
            let job = server.post("/v1/prediction-jobs", json!({ "dataset_id": dataset })).await;
            assert_eq!(job.status, 202, "{job:?}");
            server.settle().await;
            let results = server.get(&format!("{}/results", job.header("location"))).await;
            let text = String::from_utf8_lossy(&results.bytes).into_owned();
            assert!(text.contains("upload the same file again") && !text.contains(root), "{text}");
            let again = server.upload(&dataset, &parts).await;
            assert_eq!((again.status, again.text("/items/0/status")), (201, "duplicate".into()), "{again:?}");
            assert_eq!(server.get(&image).await.bytes, whole, "{damage}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_ahead_at_the_start_deletes_no_prediction() {
    let folder = serving_folder();
    let mut server = Running::start(folder.path(), &[NO_DRAIN]);
    assert_eq!(server.predict(&png(48, 48, 1)).0, 200);
    assert!(server.end("-TERM").success());
    // The folder was used last in January 2024, so to it the clock is years ahead.
    let mut connection = database(&folder).await;
    execute(&mut connection, "update data_folder set seen_at = '2024-01-20T12:00:00.000000000Z'").await;
    execute(
        &mut connection,
        "update predictions set id = '018cf000-0000' || substr(id, 14), created_at = '2024-01-09T12:00:00Z'",
    )
    .await;
    connection.close().await.unwrap();
    fs::remove_file(folder.path().join("data/data-folder.json")).unwrap();
    let mut server = Running::start(folder.path(), &[NO_DRAIN]);
    let (_, listed) = server.get("/v1/predictions");
    assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{listed}");
    assert!(server.end("-TERM").success());
    let log = server.standard_error();
    assert!(log.contains("the clock is more than a week ahead"), "{log}");
    // The same prediction, once the time is believed.
    let mut connection = database(&folder).await;
    execute(&mut connection, "update data_folder set seen_at = strftime('%Y-%m-%dT%H:%M:%SZ', 'now')").await;
    connection.close().await.unwrap();
    let server = Running::start(folder.path(), &[NO_DRAIN]);
    server.wait_for("/v1/predictions", |listed| listed["items"] == json!([]));
}

#[test]
fn with_record_before_each_response_has_a_record_after_a_kill_and_temporary_files_are_swept() {
    let folder = serving_folder();
    let mut server = Running::start(folder.path(), &[NO_DRAIN, ("THORAX_RECORD", "before")]);
    let answered: Vec<String> = thread::scope(|scope| {
        let clients = (0..4u8).map(|client| {
            let server = &server;
            let predict = move |at| server.predict(&png(48, 48, 50 * client + at)).1["id"].as_str().unwrap().to_owned();
            scope.spawn(move || (0..25).map(predict).collect::<Vec<_>>())
        });
        let clients: Vec<_> = clients.collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    server.end("-KILL");
    let data = folder.path().join("data");
    let kept = data.join("cache/notes.grey");
    let stale =
        ["patient.key.77", "data-folder.json.77.partial", "cache/01890a5d-ac96-774b-bcce-b302099a8057/.tmpx.partial"];
    for path in stale.iter().map(|name| data.join(name)).chain([kept.clone()]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "half").unwrap();
        make_old(&path);
    }
    let server = Running::start(folder.path(), &[NO_DRAIN]);
    assert_eq!(answered.len(), 100);
    for id in &answered {
        assert_eq!(server.get(&format!("/v1/predictions/{id}")).0, 200, "{id}");
    }
    assert!(stale.iter().all(|name| !data.join(name).exists()) && kept.exists());
}

#[test]
fn doctor_reports_what_is_lost_and_its_exit_code_says_whether_something_is() {
    let folder = with_phantoms();
    let data = folder.path().join("data");
    let healthy = thorax(folder.path()).args(["doctor", "--hash"]).output().unwrap();
    let report = String::from_utf8(healthy.stdout).unwrap();
    assert!(healthy.status.success() && report.contains("ok: the database is intact"), "{report}");
    let blob = files_below(&data.join("blobs")).remove(0);
    fs::remove_file(&blob).unwrap();
    fs::set_permissions(&data, fs::Permissions::from_mode(0o750)).unwrap();
    let report = fails(folder.path(), &["doctor", "--low-disk-bytes", "18446744073709551615"]);
    assert!(report.contains("error: image") && report.contains("its file is missing"), "{report}");
    assert!(report.contains("warning: the data folder can be read"), "{report}");
    assert!(report.contains("warning: the disk of the data folder has"), "{report}");
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused_by_name() {
    let folder = with_phantoms();
    let mut connection = database(&folder).await;
    let columns = "select 99999999999999, 'later', installed_on, success, checksum, execution_time";
    let insert = format!("insert into _sqlx_migrations {columns} from _sqlx_migrations limit 1");
    execute(&mut connection, &insert).await;
    connection.close().await.unwrap();
    for command in [&["serve"][..], &["import", "--dataset", "phantoms", "phantoms"], &["runs", "list"], &["doctor"]] {
        let message = fails(folder.path(), command);
        assert!(message.contains("newer version of Thorax") && message.contains("use that version"), "{message}");
        assert!(!message.contains("migration 9"), "{message}");
    }
}

#[test]
fn a_database_that_is_replaced_under_a_running_server_is_not_written_to() {
    let folder = serving_folder();
    let data = folder.path().join("data");
    let aside = folder.path().join("aside");
    fs::create_dir(&aside).unwrap();
    let mut server = Running::start(folder.path(), &[NO_DRAIN]);
    assert_eq!(server.send("POST", "/v1/datasets", r#"{"name": "one"}"#).0, 201);
    let file = data.join("thorax.sqlite");
    fs::rename(&file, aside.join("thorax.sqlite")).unwrap();
    fs::copy(aside.join("thorax.sqlite"), &file).unwrap();
    for name in ["two", "three"] {
        let (status, refused) = server.send("POST", "/v1/datasets", &json!({ "name": name }).to_string());
        assert_eq!(status, 503, "{refused}");
        assert!(refused["detail"].as_str().unwrap().contains("removed or replaced"), "{refused}");
    }
    let (status, readiness) = server.get("/health/ready");
    assert_eq!(status, 503);
    let detail = readiness["detail"].as_str().unwrap();
    assert!(detail.contains("removed or replaced") && detail.contains("Predictions are served"), "{readiness}");
    assert_eq!(server.predict(&png(48, 48, 1)).0, 200);
    assert!(server.end("-TERM").success());
    let log = server.standard_error();
    let lines = log.lines().filter(|line| line.contains("ERROR") && line.contains("thorax.sqlite was removed"));
    assert!(lines.count() >= 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_patient_key_is_not_replaced_while_ids_are_hashed_with_it() {
    let folder = with_phantoms();
    let key = folder.path().join("data/patient.key");
    let first = fs::read(&key).unwrap();
    fs::remove_file(&key).unwrap();
    for command in [&["serve"][..], &["import", "--dataset", "more", "phantoms"], &["doctor"]] {
        let message = fails(folder.path(), command);
        assert!(message.contains("restore patient.key from a backup or set THORAX_PATIENT_KEY"), "{message}");
        assert!(!key.exists(), "{command:?}");
    }
    let mut connection = database(&folder).await;
    let datasets: i64 = sqlx::query_scalar("select count(*) from datasets").fetch_one(&mut connection).await.unwrap();
    assert_eq!(datasets, 1, "the import created no data set");
    connection.close().await.unwrap();
    Running::start(folder.path(), &[NO_DRAIN, ("THORAX_PATIENT_KEY", "of the operator")]).end("-TERM");
    assert!(!key.exists(), "the operator's key is not stored");
    succeeds(thorax(folder.path()).args(["doctor", "--adopt"]));
    assert_ne!(fs::read(&key).unwrap(), first);
    Running::start(folder.path(), &[NO_DRAIN]).end("-TERM");
}

#[test]
fn doctor_names_a_folder_that_is_no_data_folder() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("empty")).unwrap();
    for name in ["mistyped", "empty"] {
        let message = fails(folder.path(), &["doctor", "--data-dir", name]);
        assert!(message.contains(&format!("no data folder at {name}: set it with --data-dir")), "{message}");
        assert!(!message.contains("backup"), "{message}");
    }
    assert!(!folder.path().join("mistyped").exists());
}
