//! DICOM over HTTP: uploads, imports, predictions, and de-identification.

use std::path::Path;

use dicom_core::{DataElement, PrimitiveValue, Tag, VR, value::DataSetSequence};
use dicom_dictionary_std::{tags, uids};
use dicom_object::InMemDicomObject;
use serde_json::{Value, json};
use thorax::store::{Attributes, attributes};

use crate::support::{
    MAX_UPLOAD_BYTES, Part, Server, TestResponse,
    dicom::{file, number, text},
    model, png,
};

/// Planted identifiers, which must not be stored. None is part of another word that the program stores.
pub const PLANTED: [&str; 14] = [
    "Zyxwander",
    "Quirinus",
    "MRN-774411",
    "OTHERID-5150",
    "19331107",
    "1.2.826.0.1.3680043.8.498.7001",
    "1.2.826.0.1.3680043.8.498.7002",
    "1.2.826.0.1.3680043.8.498.7003",
    "ACC-990017",
    "Spital-Oberwald",
    "Dr-Referrer",
    "Dr-Operator",
    "Lindenweg-12",
    "private-remark",
];

/// A generated frontal radiograph with 12 bits: dark lungs next to a bright spine on black.
pub fn radiograph(shade: u16) -> InMemDicomObject {
    let grey = |at: usize| {
        let (x, y) = (at % 64, at / 64);
        let lung = (16..38).contains(&y) && ((12..26).contains(&x) || (38..52).contains(&x));
        let body = (4..60).contains(&x);
        shade
            + if !body {
                0
            } else if lung {
                600
            } else {
                2500 + (x % 5) as u16
            }
    };
    let pixels: Vec<u16> = (0..64 * 64).map(grey).collect();
    let nested = InMemDicomObject::from_element_iter([text(tags::PATIENT_ID, VR::LO, "OTHERID-5150")]);
    InMemDicomObject::from_element_iter([
        text(tags::SOP_CLASS_UID, VR::UI, uids::COMPUTED_RADIOGRAPHY_IMAGE_STORAGE),
        text(tags::SOP_INSTANCE_UID, VR::UI, PLANTED[5]),
        text(tags::STUDY_INSTANCE_UID, VR::UI, PLANTED[6]),
        text(tags::SERIES_INSTANCE_UID, VR::UI, PLANTED[7]),
        text(tags::ACCESSION_NUMBER, VR::SH, "ACC-990017"),
        text(tags::MODALITY, VR::CS, "CR"),
        text(tags::INSTITUTION_NAME, VR::LO, "Spital-Oberwald"),
        text(tags::REFERRING_PHYSICIAN_NAME, VR::PN, "Dr-Referrer"),
        text(tags::OPERATORS_NAME, VR::PN, "Dr-Operator"),
        text(tags::MANUFACTURER_MODEL_NAME, VR::LO, "9000"),
        text(tags::PATIENT_NAME, VR::PN, "Zyxwander^Quirinus"),
        text(tags::PATIENT_ID, VR::LO, "MRN-774411"),
        text(tags::PATIENT_BIRTH_DATE, VR::DA, "19331107"),
        text(tags::PATIENT_SEX, VR::CS, "F"),
        text(tags::PATIENT_AGE, VR::AS, "093Y"),
        text(tags::PATIENT_ADDRESS, VR::LO, "Lindenweg-12"),
        text(tags::VIEW_POSITION, VR::CS, "PA"),
        DataElement::new(tags::OTHER_PATIENT_I_DS_SEQUENCE, VR::SQ, DataSetSequence::from(vec![nested])),
        text(Tag(0x0011, 0x0010), VR::LO, "SOMEONE"),
        text(Tag(0x0011, 0x1001), VR::LT, "private-remark"),
        number(tags::SAMPLES_PER_PIXEL, 1),
        text(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2"),
        number(tags::ROWS, 64),
        number(tags::COLUMNS, 64),
        number(tags::BITS_ALLOCATED, 16),
        number(tags::BITS_STORED, 12),
        number(tags::HIGH_BIT, 11),
        number(tags::PIXEL_REPRESENTATION, 0),
        text(tags::WINDOW_CENTER, VR::DS, "2048"),
        text(tags::WINDOW_WIDTH, VR::DS, "4096"),
        DataElement::new(tags::PIXEL_DATA, VR::OW, PrimitiveValue::U16(pixels.into())),
    ])
}

/// Replaces an element; the value is encoded in the character set of the object.
pub fn put_bytes(object: &mut InMemDicomObject, tag: Tag, value: &[u8]) {
    let padded = [value, if value.len() % 2 == 1 { b" " } else { b"" }].concat();
    object.put(DataElement::new(tag, VR::UN, PrimitiveValue::U8(padded.into())));
}

fn changed(tag: Tag, vr: VR, value: &str) -> Vec<u8> {
    let mut object = radiograph(0);
    object.put(DataElement::new(tag, vr, PrimitiveValue::from(value)));
    file(object)
}

/// Planted texts that are found in files below the folder, with the names of the files.
pub fn found_below(folder: &Path, planted: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(found_below(&path, planted));
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let holds = |text: &str| bytes.windows(text.len()).any(|window| window.eq_ignore_ascii_case(text.as_bytes()));
        found.extend(planted.iter().filter(|text| holds(text)).map(|text| format!("{text} in {}", path.display())));
    }
    found
}

async fn upload(server: &Server, dataset: &str, name: &str, bytes: &[u8]) -> TestResponse {
    server.upload(dataset, &[Part::File(name, bytes), Part::Text("label", "normal")]).await
}

#[tokio::test]
async fn no_patient_identifier_reaches_the_data_folder() {
    let server = Server::start().await;
    let dataset = server.dataset("chests").await;
    let planted = file(radiograph(0));
    assert_eq!(PLANTED.iter().filter(|text| planted.windows(text.len()).any(|w| w == text.as_bytes())).count(), 14);
    let response = upload(&server, &dataset, "zyxwander MRN-774411.dcm", &planted).await;
    assert_eq!((response.status, response.text("/items/0/status")), (201, "created".into()), "{response:?}");
    let texted = [&png(64, 64, 1)[..33], &text_chunk("Zyxwander"), &png(64, 64, 1)[33..], b"Quirinus"].concat();
    assert_eq!(upload(&server, &dataset, "a.png", &texted).await.text("/items/0/status"), "created");
    let refused = upload(&server, &dataset, "ct", &changed(tags::MODALITY, VR::CS, "CT")).await;
    assert_eq!(refused.status, 422);
    server.request("POST", "/v1/predictions", "application/dicom", planted).await;
    server.state.stores.db.close().await;
    assert_eq!(found_below(server.folder.path(), &PLANTED), Vec::<String>::new());
    // The search finds a text that is there.
    assert!(!found_below(server.folder.path(), &["radiograph-"]).is_empty());
}

fn text_chunk(text: &str) -> Vec<u8> {
    let content = [b"tEXtAuthor\0", text.as_bytes()].concat();
    let mut checksum = flate2::Crc::new();
    checksum.update(&content);
    [&(content.len() as u32 - 4).to_be_bytes()[..], &content, &checksum.sum().to_be_bytes()].concat()
}

#[tokio::test]
async fn stores_a_dicom_as_greyscale_png_with_the_allowed_attributes() {
    let server = Server::start().await;
    let dataset = server.dataset("chests").await;
    let bytes = file(radiograph(0));
    let response = upload(&server, &dataset, "one.dcm", &bytes).await;
    let stored = response.at("/items/0/radiograph");
    let wanted = json!({
        "view": "PA", "age_years": 90, "sex": "F", "photometric_interpretation": "MONOCHROME2",
        "pixel_spacing_mm": null, "manufacturer_model": "9000"
    });
    assert_eq!((&stored["dicom"], &stored["flags"]), (&wanted, &json!([])));
    assert_eq!(
        (&stored["format"], &stored["view"], &stored["file_name"]),
        (&json!("png"), &json!("PA"), &json!(format!("radiograph-{}.dcm", &stored["sha256"].as_str().unwrap()[..12])))
    );
    assert_eq!(stored["patient_id"], json!(server.state.intake.patient_ids.stored("MRN-774411")));
    let place = format!("/v1/radiographs/{}", stored["id"].as_str().unwrap());
    assert_eq!(server.get(&place).await.json(), stored);
    let image = server.get(&format!("{place}/image")).await;
    assert_eq!(image.header("content-type"), "image/png");
    let image = image::load_from_memory(&image.bytes).unwrap();
    assert_eq!((image.width(), image.color()), (64, image::ColorType::L16));
}

#[tokio::test]
async fn detects_duplicates_of_the_uploaded_and_of_the_stored_file() {
    let server = Server::start().await;
    let dataset = server.dataset("chests").await;
    let bytes = file(radiograph(0));
    let first = upload(&server, &dataset, "one.dcm", &bytes).await;
    let id = first.text("/items/0/radiograph/id");
    let stored = server.get(&format!("/v1/radiographs/{id}/image")).await.bytes;
    let renamed = changed(tags::PATIENT_NAME, VR::PN, "Another");
    for again in [bytes, stored, renamed] {
        let again = upload(&server, &dataset, "again", &again).await;
        assert_eq!(
            (again.text("/items/0/status"), again.text("/items/0/radiograph/id")),
            ("duplicate".into(), id.clone())
        );
    }
    let texted = [&png(64, 64, 9)[..33], &text_chunk("someone"), &png(64, 64, 9)[33..]].concat();
    let statuses = [texted.clone(), texted, png(64, 64, 9)];
    for (bytes, wanted) in statuses.iter().zip(["created", "duplicate", "duplicate"]) {
        assert_eq!(upload(&server, &dataset, "x.png", bytes).await.text("/items/0/status"), wanted);
    }
}

#[tokio::test]
async fn flags_quality_problems_and_rejects_files_that_are_not_radiographs() {
    let server = Server::start().await;
    let dataset = server.dataset("chests").await;
    let path = format!("/v1/datasets/{dataset}/radiographs");
    for (tag, vr, value, reason) in [
        (tags::MODALITY, VR::CS, "CT", "the modality must be"),
        (tags::SOP_CLASS_UID, VR::UI, uids::CT_IMAGE_STORAGE, "not a radiograph"),
        (tags::NUMBER_OF_FRAMES, VR::IS, "3", "several frames"),
    ] {
        let refused = upload(&server, &dataset, "x", &changed(tag, vr, value)).await;
        refused.assert_problem(422, &path);
        assert!(refused.text("/detail").contains(reason), "{refused:?}");
    }
    let lateral = upload(&server, &dataset, "x", &changed(tags::VIEW_POSITION, VR::CS, "LL")).await;
    assert_eq!(lateral.at("/items/0/radiograph/flags"), json!(["lateral_view"]));
    let other = server.dataset("others").await;
    let negative = changed(tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME1");
    let negative = upload(&server, &other, "x", &negative).await;
    assert_eq!(negative.at("/items/0/radiograph/flags"), json!(["photographic_negative"]));
}

#[tokio::test]
async fn a_data_set_rejects_the_flags_that_it_is_configured_to_reject() {
    let server = Server::start().await;
    let made = server.post("/v1/datasets", json!({ "name": "frontal", "refuse": ["lateral_view"] })).await;
    assert_eq!((made.status, made.at("/refuse")), (201, json!(["lateral_view"])), "{made:?}");
    let dataset = made.text("/id");
    let refused = upload(&server, &dataset, "x", &changed(tags::VIEW_POSITION, VR::CS, "LL")).await;
    refused.assert_problem(422, &format!("/v1/datasets/{dataset}/radiographs"));
    assert!(refused.text("/detail").contains("lateral view"), "{refused:?}");
    assert_eq!(upload(&server, &dataset, "x", &file(radiograph(0))).await.status, 201);
    assert_eq!(server.get(&format!("/v1/datasets/{dataset}/radiographs")).await.items(), 1);
    let unknown = server.post("/v1/datasets", json!({ "name": "other", "refuse": ["sideways"] })).await;
    unknown.assert_problem(422, "/v1/datasets");
    assert_eq!(unknown.pointers(), ["/refuse/0"]);
}

#[tokio::test]
async fn the_report_contains_age_and_sex_from_dicom_files() {
    let server = Server::start().await;
    let dataset = server.dataset("chests").await;
    upload(&server, &dataset, "x", &file(radiograph(0))).await;
    let known = attributes::of_dataset(&server.state.stores.db, dataset.parse().unwrap()).await.unwrap();
    let wanted = Attributes {
        view: Some("PA".into()),
        age_years: Some(90),
        sex: Some("female".into()),
        ..Attributes::default()
    };
    assert_eq!(known.into_values().collect::<Vec<_>>(), [wanted]);
}

/// A STOW-RS request with these parts.
pub async fn push(server: &Server, path: &str, parts: &[Vec<u8>]) -> TestResponse {
    let mut body = Vec::new();
    for part in parts {
        body.extend_from_slice(b"--edge\r\nContent-Type: application/dicom\r\n\r\n");
        body.extend_from_slice(part);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--edge--\r\n");
    server.request("POST", path, "multipart/related; type=\"application/dicom\"; boundary=edge", body).await
}

#[tokio::test]
async fn a_push_is_stored_without_label_and_returns_the_response_of_the_standard() {
    let server = Server::start().await;
    let pushed = push(&server, "/dicomweb/studies", &[file(radiograph(0)), file(radiograph(9))]).await;
    assert_eq!((pushed.status, pushed.header("content-type")), (200, "application/dicom+json"), "{pushed:?}");
    let stored = pushed.at("/00081199/Value");
    assert_eq!(stored.as_array().map(Vec::len), Some(2));
    assert_eq!(stored[0]["00081155"], json!({ "vr": "UI", "Value": [PLANTED[5]] }));
    assert_eq!(stored[0]["00081150"]["Value"][0], json!(uids::COMPUTED_RADIOGRAPHY_IMAGE_STORAGE));
    assert_eq!(stored[0]["00081196"]["Value"][0], json!(0xb006));
    assert!(pushed.at("/00081198").is_null() && pushed.at("/0008119A").is_null());
    let dataset = server.get("/v1/datasets").await.text("/items/0/id");
    let listed = server.get(&format!("/v1/datasets/{dataset}/radiographs")).await;
    assert_eq!((listed.items(), listed.at("/items/0/label")), (2, Value::Null), "{listed:?}");
    // A repeated push stores nothing new and reports success.
    let again = push(&server, &format!("/dicomweb/studies/{}", PLANTED[6]), &[file(radiograph(0))]).await;
    assert_eq!(again.status, 200);
    assert_eq!(server.get(&format!("/v1/datasets/{dataset}/radiographs")).await.items(), 2);
    server.state.stores.db.close().await;
    assert_eq!(found_below(server.folder.path(), &PLANTED), Vec::<String>::new());
}

#[tokio::test]
async fn a_push_names_each_instance_that_cannot_be_stored_with_the_reason() {
    let server = Server::start().await;
    let ct = changed(tags::SOP_CLASS_UID, VR::UI, uids::CT_IMAGE_STORAGE);
    let mixed = push(&server, "/dicomweb/studies", &[ct.clone(), file(radiograph(0)), b"no DICOM".to_vec()]).await;
    assert_eq!(mixed.status, 202, "{mixed:?}");
    assert_eq!(mixed.at("/00081198/Value/0/00081197/Value/0"), json!(0x0122));
    assert_eq!(mixed.at("/00081198/Value/0/00081150/Value/0"), json!(uids::CT_IMAGE_STORAGE));
    assert_eq!(mixed.at("/0008119A/Value"), json!([{ "00081197": { "vr": "US", "Value": [0xc000] } }]));
    assert_eq!(mixed.at("/00081199/Value").as_array().map(Vec::len), Some(1));
    let none = push(&server, "/dicomweb/studies", &[ct]).await;
    assert_eq!((none.status, none.header("content-type")), (409, "application/dicom+json"));
    let elsewhere = push(&server, "/dicomweb/studies/1.2.3", &[file(radiograph(5))]).await;
    assert_eq!((elsewhere.status, elsewhere.at("/00081198/Value/0/00081197/Value/0")), (409, json!(0xa900)));
    push(&server, "/dicomweb/studies", &[]).await.assert_problem(400, "/dicomweb/studies");
    // The type must be quoted, but many clients do not quote it.
    for accepted in [
        "multipart/related; type=application/dicom; boundary=edge",
        "multipart/related;boundary=edge;type=application/dicom;transfer-syntax=*",
        "Multipart/Related; TYPE=\"application/dicom\"; boundary=\"edge\"",
        "multipart/related; boundary=edge",
    ] {
        let part =
            [&b"--edge\r\nContent-Type: application/dicom\r\n\r\n"[..], &file(radiograph(0)), b"\r\n--edge--\r\n"];
        let pushed = server.request("POST", "/dicomweb/studies", accepted, part.concat()).await;
        assert_eq!(pushed.status, 200, "{accepted}: {pushed:?}");
    }
    for wrong in
        ["multipart/form-data; boundary=edge", "multipart/related; type=\"application/dicom+json\"; boundary=edge", ""]
    {
        let refused = server.request("POST", "/dicomweb/studies", wrong, b"--edge--".to_vec()).await;
        refused.assert_problem(415, "/dicomweb/studies");
    }
}

#[tokio::test]
async fn a_truncated_or_oversized_push_reports_what_is_stored() {
    let server = Server::start().await;
    let whole = file(radiograph(0));
    let head = b"--edge\r\nContent-Type: application/dicom\r\n\r\n";
    let content_type = "multipart/related; type=\"application/dicom\"; boundary=edge";
    let cut = [&head[..], &whole, b"\r\n", head, &whole[..whole.len() / 2]].concat();
    let response = server.request("POST", "/dicomweb/studies", content_type, cut).await;
    assert_eq!(
        (response.status, response.at("/00081199/Value").as_array().map(Vec::len)),
        (202, Some(1)),
        "{response:?}"
    );
    assert_eq!(response.at("/0008119A/Value/0/00081197/Value/0"), json!(0xc000));
    let nothing = server.request("POST", "/dicomweb/studies", content_type, head.to_vec()).await;
    nothing.assert_problem(400, "/dicomweb/studies");
    let large = push(&server, "/dicomweb/studies", &[whole, vec![0; MAX_UPLOAD_BYTES + 1]]).await;
    assert_eq!((large.status, large.at("/0008119A/Value/0/00081197/Value/0")), (202, json!(0xa700)), "{large:?}");
}

#[tokio::test]
async fn a_push_needs_the_admin_key_if_one_is_set() {
    let server = Server::with(|state, _| state.access.admin_key = Some("a-key-of-the-tests".into())).await;
    push(&server, "/dicomweb/studies", &[file(radiograph(0))]).await.assert_problem(401, "/dicomweb/studies");
}

#[tokio::test]
async fn imports_dicom_files_whatever_their_names() {
    let server = Server::with(|state, folder| {
        let class = folder.join("root/set/normal");
        std::fs::create_dir_all(&class).unwrap();
        std::fs::write(class.join("a.dcm"), file(radiograph(1))).unwrap();
        std::fs::write(class.join("IM000001"), file(radiograph(2))).unwrap();
        std::fs::write(class.join("bare"), &file(radiograph(3))[128..]).unwrap();
        std::fs::write(class.join("ct"), changed(tags::MODALITY, VR::CS, "CT")).unwrap();
        state.intake.import_root = Some(folder.join("root"));
    })
    .await;
    let dataset = server.dataset("chests").await;
    let started = server.post(&format!("/v1/datasets/{dataset}/imports"), json!({"path": "set"})).await;
    server.state.lifecycle.tasks.close();
    server.state.lifecycle.tasks.wait().await;
    let ended = server.get(started.header("location")).await;
    assert_eq!((ended.at("/created"), ended.at("/rejected")), (json!(3), json!(1)), "{ended:?}");
    assert!(ended.text("/rejections/0/reason").contains("got \"CT\""));
}

#[tokio::test]
async fn a_prediction_of_a_dicom_has_warnings_and_equals_that_of_the_stored_image() {
    let server = Server::start().await;
    server.promote(model::small(32, 1)).await;
    let lateral = changed(tags::VIEW_POSITION, VR::CS, "LL");
    let dataset = server.dataset("chests").await;
    let kept = upload(&server, &dataset, "x", &lateral).await.text("/items/0/radiograph/id");
    let stored = server.get(&format!("/v1/radiographs/{kept}/image")).await.bytes;
    let of_file = server.request("POST", "/v1/predictions", "application/dicom", lateral).await;
    assert_eq!((of_file.status, of_file.text("/warnings/0/flag")), (200, "lateral_view".into()), "{of_file:?}");
    assert!(of_file.text("/warnings/0/detail").contains("lateral"));
    let of_stored = server.request("POST", "/v1/predictions", "image/png", stored).await;
    assert_eq!(of_file.at("/probabilities"), of_stored.at("/probabilities"));
    assert_eq!(of_stored.at("/warnings"), json!([]));
    let ct = changed(tags::MODALITY, VR::CS, "CT");
    server.request("POST", "/v1/predictions", "application/dicom", ct).await.assert_problem(422, "/v1/predictions");
}
