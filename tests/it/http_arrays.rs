//! NumPy arrays over HTTP: exports, byte by byte and as read by NumPy, and imports.

use serde_json::{Value, json};

use crate::{
    fixtures::numpy,
    support::{Part, Server, TestResponse, png},
};

/// A server whose import root is the folder `root`.
async fn server() -> Server {
    Server::with(|state, folder| {
        std::fs::create_dir_all(folder.join("root/set")).unwrap();
        state.intake.import_root = Some(folder.join("root"));
    })
    .await
}

/// Uploads three images of each class to train and one to test. Returns the path of the exports.
async fn filled(server: &Server) -> String {
    let dataset = server.dataset("chests").await;
    server.fill(&dataset, "train", 0, 3).await;
    server.fill(&dataset, "test", 100, 1).await;
    format!("/v1/datasets/{dataset}/exports")
}

/// The data of an array, whose header must have this type and shape.
fn elements<'a>(response: &'a TestResponse, descr: &str, shape: &str) -> &'a [u8] {
    assert_eq!((response.status, response.header("content-type")), (200, "application/octet-stream"), "{response:?}");
    assert_eq!(response.header("content-length"), response.bytes.len().to_string());
    let (header, elements) = response.bytes.split_at(128);
    let expected = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
    assert!(String::from_utf8_lossy(header).contains(&expected), "{}", String::from_utf8_lossy(header));
    elements
}

#[tokio::test]
async fn exported_arrays_contain_the_input_pixels_of_the_network_and_the_labels_in_the_same_order() {
    let server = server().await;
    let exports = filled(&server).await;
    let shown = server.get(&exports.replace("/exports", "/radiographs?split=train")).await;
    let response = server.get(&format!("{exports}/x_train_40.npy?dtype=uint8&channels=1")).await;
    let grey = elements(&response, "|u1", "(9, 40, 40, 1)").to_vec();
    for (i, square) in grey.chunks(1600).enumerate() {
        let id = shown.text(&format!("/items/{i}/id"));
        let resized = server.get(&format!("/v1/radiographs/{id}/image?size=40")).await;
        assert_eq!(image::load_from_memory(&resized.bytes).unwrap().to_luma8().as_raw(), square, "image {i}");
    }
    let response = server.get(&format!("{exports}/x_train_40.npy")).await;
    let floats = elements(&response, "<f4", "(9, 40, 40, 3)");
    let expected = grey.iter().flat_map(|level| [f32::from(*level) / 255.0; 3]).flat_map(f32::to_le_bytes);
    assert!(floats.iter().copied().eq(expected));
    let response = server.get(&format!("{exports}/y_train.npy")).await;
    let labels: Vec<i64> =
        elements(&response, "<i8", "(9,)").as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect();
    assert_eq!(labels, [0, 0, 0, 1, 1, 1, 2, 2, 2]);
    let file = server.get(&format!("{exports}/train_split.txt")).await;
    let classes = ["normal", "pneumonia", "COVID-19"];
    let in_file: Vec<String> =
        String::from_utf8(file.bytes).unwrap().lines().map(|line| line.split(' ').nth(2).unwrap().into()).collect();
    assert_eq!(in_file, labels.iter().map(|at| classes[*at as usize]).collect::<Vec<_>>());
    let empty = server.get(&format!("{exports}/x_validation_64.npy")).await;
    assert!(elements(&empty, "<f4", "(0, 64, 64, 3)").is_empty());
}

#[tokio::test]
async fn rejects_requests_for_arrays_that_do_not_exist() {
    let server = server().await;
    let exports = filled(&server).await;
    for name in
        ["x_train_31.npy", "x_train_1025.npy", "x_train.npy", "x_holdout_64.npy", "y_holdout.npy", "z_train.npy"]
    {
        let path = format!("{exports}/{name}");
        server.get(&path).await.assert_problem(404, &path);
    }
    for (name, query) in [
        ("x_train_64.npy", "dtype=float64"),
        ("x_train_64.npy", "channels=2"),
        ("x_train_64.npy", "channels=many"),
        ("y_train.npy", "dtype=uint8"),
        ("train_split.txt", "channels=1"),
    ] {
        let path = format!("{exports}/{name}");
        server.get(&format!("{path}?{query}")).await.assert_problem(400, &path);
    }
}

#[tokio::test]
async fn exported_arrays_are_imported_pixel_for_pixel() {
    let server = server().await;
    let exports = filled(&server).await;
    for query in ["", "?dtype=uint8&channels=1", "?dtype=uint8"] {
        for split in ["train", "test"] {
            keep(&server, &exports, &format!("x_{split}_48.npy"), query).await;
            keep(&server, &exports, &format!("y_{split}.npy"), "").await;
        }
        let again = server.dataset(&format!("again {query}")).await;
        let import = import(&server, &again).await;
        let counts = (import.at("/created"), import.at("/rejected"));
        assert_eq!(counts, (json!(12), json!(0)), "{import:?}");
        let copies = format!("/v1/datasets/{again}/exports");
        for name in ["x_train_48.npy?dtype=uint8", "x_test_48.npy?dtype=uint8", "y_train.npy", "y_test.npy"] {
            let (first, second) =
                (server.get(&format!("{exports}/{name}")).await, server.get(&format!("{copies}/{name}")).await);
            assert!(first.status == 200 && first.bytes == second.bytes, "{name} {query}");
        }
    }
}

#[tokio::test]
async fn imports_the_largest_of_several_sizes_and_reports_damaged_arrays() {
    let server = server().await;
    let exports = filled(&server).await;
    for side in [32, 64, 48] {
        keep(&server, &exports, &format!("x_train_{side}.npy"), "?dtype=uint8&channels=1").await;
    }
    keep(&server, &exports, "y_train.npy", "").await;
    keep(&server, &exports, "x_test_32.npy", "").await;
    let folder = server.folder.path().join("root/set");
    let mut cut = std::fs::read(folder.join("x_test_32.npy")).unwrap();
    cut.pop();
    std::fs::write(folder.join("x_test_32.npy"), cut).unwrap();
    let again = server.dataset("again").await;
    let import = import(&server, &again).await;
    let counts = (import.text("/status"), import.at("/created"), import.at("/rejected"));
    assert_eq!(counts, ("succeeded".into(), json!(9), json!(3)), "{import:?}");
    let reason_of = |file: &str| {
        let rejections: Vec<Value> = import.at("/rejections").as_array().unwrap().clone();
        rejections.iter().find(|one| one["file"] == file).unwrap()["reason"].as_str().unwrap().to_owned()
    };
    assert!(reason_of("x_train_32.npy").contains("x_train_64.npy") && reason_of("x_train_48.npy").contains("larger"));
    assert!(reason_of("x_test_32.npy").contains("bytes"));
    let rows = server.get(&format!("/v1/datasets/{again}/exports/train_split.txt")).await;
    assert!(rows.bytes.starts_with(b"- x_train_64_000000.png normal\n- x_train_64_000001.png normal\n"), "{rows:?}");
}

#[tokio::test]
async fn reports_labels_that_do_not_match_row_by_row() {
    let server = server().await;
    let exports = filled(&server).await;
    let folder = server.folder.path().join("root/set");
    keep(&server, &exports, "x_train_48.npy", "?dtype=uint8&channels=1").await;
    keep(&server, &exports, "y_train.npy", "").await;
    let whole = std::fs::read(folder.join("y_train.npy")).unwrap();
    let mut wrong = whole.clone();
    wrong[128] = 3;
    wrong[136..144].fill(0xff);
    std::fs::write(folder.join("y_train.npy"), wrong).unwrap();
    let again = server.dataset("again").await;
    let imported = import(&server, &again).await;
    assert_eq!((imported.at("/created"), imported.at("/rejected")), (json!(7), json!(2)), "{imported:?}");
    assert_eq!(imported.text("/rejections/0/file"), "x_train_48.npy[0]");
    assert!(imported.text("/rejections/0/reason").contains("between 0 and 2 (got 3)"));
    assert!(imported.text("/rejections/1/reason").contains("got -1"));
    keep(&server, &exports, "y_test.npy", "").await;
    std::fs::copy(folder.join("y_test.npy"), folder.join("y_train.npy")).unwrap();
    let imported = import(&server, &again).await;
    assert!(imported.text("/rejections/0/reason").contains("9 images, but 3 labels"), "{imported:?}");
    std::fs::remove_file(folder.join("y_train.npy")).unwrap();
    let imported = import(&server, &again).await;
    assert!(imported.text("/rejections/0/reason").contains("y_train.npy"), "{imported:?}");
}

#[cfg(unix)]
#[tokio::test]
async fn an_array_outside_the_folder_is_not_read() {
    let server = server().await;
    let exports = filled(&server).await;
    keep(&server, &exports, "x_train_48.npy", "").await;
    keep(&server, &exports, "y_train.npy", "").await;
    let (inside, outside) =
        (server.folder.path().join("root/set/y_train.npy"), server.folder.path().join("y_train.npy"));
    std::fs::rename(&inside, &outside).unwrap();
    std::os::unix::fs::symlink(&outside, &inside).unwrap();
    let again = server.dataset("again").await;
    let imported = import(&server, &again).await;
    assert_eq!((imported.at("/created"), imported.at("/rejected")), (json!(0), json!(1)), "{imported:?}");
    assert!(imported.text("/rejections/0/reason").contains("outside"));
}

#[tokio::test]
async fn numpy_loads_exported_arrays_and_its_own_arrays_are_imported() {
    let server = server().await;
    let exports = filled(&server).await;
    let folder = server.folder.path().join("root/set");
    keep(&server, &exports, "x_train_48.npy", "").await;
    keep(&server, &exports, "y_train.npy", "").await;
    let script = "\
import numpy, sys
folder = sys.argv[1] + '/'
x, y = numpy.load(folder + 'x_train_48.npy'), numpy.load(folder + 'y_train.npy')
print(x.dtype, x.shape, y.dtype, y.tolist(), 0 <= x.min() < x.max() <= 1)
x[0, 0, 0, :] = [1, 0, 0]
x[1, 0, 0, 0] = numpy.nan
numpy.save(folder + 'x_train_48.npy', x)
numpy.save(folder + 'y_train.npy', numpy.array(['normal', 'pneumonia', 'covid-19'])[y])
numpy.save(folder + 'x_test.npy', (x[:2, :, :, 0] > 2).astype('uint8') + numpy.array([7, 9], 'uint8')[:, None, None])
numpy.save(folder + 'y_test.npy', numpy.array([2, 7], 'uint8'))
numpy.save(folder + 'x_val.npy', numpy.array([{}], dtype=object))
";
    let Some(said) = numpy(script, &[&folder]) else { return };
    assert_eq!(said.trim(), "float32 (9, 48, 48, 3) int64 [0, 0, 0, 1, 1, 1, 2, 2, 2] True");
    let again = server.dataset("again").await;
    let imported = import(&server, &again).await;
    // One training image has a pixel that is NaN, one test image a label that is no class, and object arrays are not read.
    assert_eq!((imported.at("/created"), imported.at("/rejected")), (json!(9), json!(3)), "{imported:?}");
    let reasons = imported.at("/rejections").to_string();
    assert!(["NaN", "got 7", "pickled"].iter().all(|reason| reasons.contains(reason)), "{reasons}");
    let shown = server.get(&format!("/v1/datasets/{again}/distribution")).await;
    let shown = String::from_utf8(shown.bytes).unwrap();
    let cells = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(cells.contains("| train | 2 | 3 | 3 | 8 |") && cells.contains("| test | 0 | 0 | 1 | 1 |"), "{shown}");
    let grey = server.get(&format!("/v1/datasets/{again}/exports/x_train_48.npy?dtype=uint8&channels=1")).await;
    // Red has its weight in luma.
    assert_eq!(elements(&grey, "|u1", "(8, 48, 48, 1)")[0], 76);
}

#[tokio::test]
async fn an_export_aborts_at_an_image_that_cannot_be_read() {
    let mut server = server().await;
    let dataset = server.dataset("chests").await;
    let image = png(48, 48, 1);
    let parts = [Part::Text("label", "normal"), Part::Text("split", "train"), Part::File("a.png", &image)];
    assert_eq!(server.upload(&dataset, &parts).await.status, 201);
    // The stored file is whole, and still cannot be decoded.
    server.state.limits.max_pixels = 100;
    let server = server.again().await;
    let request = axum::http::Request::builder().uri(format!("/v1/datasets/{dataset}/exports/x_train_64.npy"));
    assert!(server.body(request.body(axum::body::Body::empty()).unwrap()).await.is_err(), "the body breaks off");
}

/// Writes an export to the folder of the next import.
async fn keep(server: &Server, exports: &str, name: &str, query: &str) {
    let response = server.get(&format!("{exports}/{name}{query}")).await;
    assert_eq!(response.status, 200, "{response:?}");
    std::fs::write(server.folder.path().join("root/set").join(name), response.bytes).unwrap();
}

/// Imports the folder `set` and waits for the end.
async fn import(server: &Server, dataset: &str) -> TestResponse {
    let started = server.post(&format!("/v1/datasets/{dataset}/imports"), json!({"path": "set"})).await;
    assert_eq!(started.status, 202, "{started:?}");
    server.settle().await;
    server.get(started.header("location")).await
}
