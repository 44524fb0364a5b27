//! Images that a data set has already, sent again with other values, through HTTP.

use serde_json::json;

use crate::support::{Part, Server, TestResponse, png};

#[tokio::test]
async fn a_duplicate_upload_names_the_fields_that_differ_and_changes_nothing() {
    let server = Server::start().await;
    let dataset = server.dataset("chests").await;
    let image = png(48, 48, 1);
    let upload = async |fields: &[(&str, &str)]| {
        let mut parts = vec![Part::File("a.png", &image)];
        parts.extend(fields.iter().map(|(name, text)| Part::Text(name, text)));
        server.upload(&dataset, &parts).await
    };
    let first = [("label", "normal"), ("split", "train"), ("patient_id", "p-1"), ("view", "PA")];
    let stored = upload(&first).await;
    assert_eq!((stored.status, stored.text("/items/0/status")), (201, "created".into()));
    assert!(stored.at("/items/0/differs").is_null());
    let differs = |response: &TestResponse| {
        assert_eq!(response.text("/items/0/status"), "duplicate", "{response:?}");
        assert_eq!(response.at("/items/0/radiograph"), stored.at("/items/0/radiograph"));
        response.at("/items/0/differs")
    };
    assert!(differs(&upload(&first).await).is_null());
    assert!(differs(&upload(&[]).await).is_null(), "what is not sent does not differ");
    assert!(differs(&upload(&[("label", "NORMAL"), ("source", "elsewhere")]).await).is_null());
    assert_eq!(differs(&upload(&[("label", "pneumonia")]).await), json!(["label"]));
    let other = [("view", "AP"), ("patient_id", "p-2"), ("split", "test"), ("label", "COVID-19")];
    assert_eq!(differs(&upload(&other).await), json!(["label", "split", "patient_id", "view"]));

    // Bytes with the same stored image: its copy with a text that is not stored.
    let comment = [&17_u32.to_be_bytes()[..], b"tEXtComment\0of a test"].concat();
    let checksum = crc32fast::hash(&comment[4..]).to_be_bytes();
    let copy = [&image[..33], &comment, &checksum, &image[33..]].concat();
    let parts = [Part::File("b.png", &copy), Part::Text("label", "pneumonia")];
    assert_eq!(differs(&server.upload(&dataset, &parts).await), json!(["label"]));
}

#[tokio::test]
async fn an_import_lists_and_counts_images_that_differ_from_the_data_set() {
    let server = Server::with(|state, folder| {
        let set = folder.join("root/set");
        std::fs::create_dir_all(set.join("train")).unwrap();
        for number in 1..=3 {
            std::fs::write(set.join(format!("train/{number}.png")), png(48, 48, number)).unwrap();
        }
        std::fs::write(
            set.join("train_split.txt"),
            "p1 1.png normal here\np2 2.png normal here\np3 3.png pneumonia here\n",
        )
        .unwrap();
        state.intake.import_root = Some(folder.join("root"));
    })
    .await;
    let dataset = server.dataset("chests").await;
    let import = async || {
        let started = server.post(&format!("/v1/datasets/{dataset}/imports"), json!({"path": "set"})).await;
        server.settle().await;
        server.get(started.header("location")).await
    };
    let known =
        server.upload(&dataset, &[Part::File("2.png", &png(48, 48, 2)), Part::Text("label", "pneumonia")]).await;
    let ended = import().await;
    assert_eq!(ended.text("/status"), "succeeded", "{ended:?}");
    let counts = |response: &TestResponse| {
        ["/created", "/duplicates", "/conflicting", "/rejected"].map(|count| response.at(count))
    };
    assert_eq!(counts(&ended), [2, 1, 1, 0].map(|count| json!(count)));
    let id = known.text("/items/0/radiograph/id");
    let differs = ["label", "split", "patient_id"];
    let conflict = json!({"file": "train_split.txt", "line": 2, "radiograph_id": id, "differs": differs});
    assert_eq!(ended.at("/conflicts"), json!([conflict]));
    let unchanged = server.get(&format!("/v1/radiographs/{id}")).await;
    assert_eq!((unchanged.text("/label"), unchanged.at("/split")), ("pneumonia".into(), json!(null)));

    // A split that was changed since differs as well; the rest does not.
    let others = server.get(&format!("/v1/datasets/{dataset}/radiographs?split=train")).await;
    let moved = format!("/v1/radiographs/{}", others.text("/items/0/id"));
    assert_eq!(server.patch(&moved, json!({"split": "test"})).await.status, 200);
    let again = import().await;
    assert_eq!(counts(&again), [0, 3, 2, 0].map(|count| json!(count)), "{again:?}");
}
