//! Radiographs are stored once for each content, and listed with filters and pages.

use super::*;
use crate::store::fixtures;

async fn insert(
    db: &Db,
    radiograph: &Radiograph,
    extras: RadiographExtras<'_>,
) -> Result<Option<Radiograph>, StoreError> {
    Ok(insert_all(db, &[(radiograph, extras)]).await?.remove(0))
}

#[tokio::test]
async fn returns_a_radiograph_as_stored() {
    let (_dir, db) = fixtures::db().await;
    let dataset = fixtures::stored_dataset(&db).await;
    let full = fixtures::stored_radiograph(&db, &dataset, "full").await;
    let bare = Radiograph {
        label: None,
        patient_id: None,
        source: None,
        view: None,
        split: None,
        grey_range: None,
        synthetic: false,
        ..fixtures::radiograph(&dataset, "bare")
    };
    insert(&db, &bare, RadiographExtras::default()).await.unwrap();
    for stored in [full, bare] {
        assert_eq!(get(&db, stored.id).await.unwrap().as_ref(), Some(&stored));
        assert_eq!(find(&db, dataset.id, &stored.sha256).await.unwrap(), Some(stored));
    }
    assert_eq!(get(&db, RadiographId::new()).await.unwrap(), None);
}

#[tokio::test]
async fn inserting_the_same_content_again_returns_the_first_radiograph_unchanged() {
    let (_dir, db) = fixtures::db().await;
    let dataset = fixtures::stored_dataset(&db).await;
    let first = fixtures::stored_radiograph(&db, &dataset, "a").await;
    let second = Radiograph { label: Some("pneumonia".into()), ..fixtures::radiograph(&dataset, "a") };
    assert_eq!(insert(&db, &second, RadiographExtras::default()).await.unwrap(), Some(first.clone()));
    assert_eq!(all(&db, dataset.id).await.unwrap(), [first]);
}

#[tokio::test]
async fn concurrent_uploads_of_the_same_content_create_one_radiograph() {
    let (_dir, db) = fixtures::db().await;
    let dataset = fixtures::stored_dataset(&db).await;
    let same: Vec<_> = (0..8).map(|_| fixtures::radiograph(&dataset, "same")).collect();
    let inserts = futures_util::future::join_all(
        same.iter().map(|radiograph| insert(&db, radiograph, RadiographExtras::default())),
    )
    .await;
    assert_eq!(inserts.into_iter().filter(|existing| existing.as_ref().unwrap().is_none()).count(), 1);
    assert_eq!(all(&db, dataset.id).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_radiograph_needs_its_data_set() {
    let (_dir, db) = fixtures::db().await;
    let orphan = fixtures::radiograph(&fixtures::dataset("never stored"), "a");
    assert!(matches!(insert(&db, &orphan, RadiographExtras::default()).await, Err(StoreError::Gone)));
}

#[tokio::test]
async fn filters_combine_and_pages_follow_each_other() {
    let (_dir, db) = fixtures::db().await;
    let dataset = fixtures::stored_dataset(&db).await;
    for i in 0..12_u8 {
        let mut radiograph = fixtures::radiograph(&dataset, &i.to_string());
        radiograph.split = [Some(Split::Train), Some(Split::Test), None][usize::from(i % 3)];
        radiograph.label = (i % 2 == 0).then(|| "normal".into());
        radiograph.source = (i < 6).then(|| "rsna".into());
        insert(&db, &radiograph, RadiographExtras::default()).await.unwrap();
    }
    let names = async |filter: RadiographFilter, page: Page| -> Vec<String> {
        let items = list(&db, dataset.id, &filter, &page).await.unwrap();
        items.into_iter().map(|radiograph| radiograph.file_name).collect()
    };
    let train = RadiographFilter { split: Some(Split::Train), ..Default::default() };
    assert_eq!(names(train.clone(), fixtures::first_page()).await, ["0.png", "3.png", "6.png", "9.png"]);
    let normal = RadiographFilter { label: Some("normal".into()), ..train.clone() };
    assert_eq!(names(normal.clone(), fixtures::first_page()).await, ["0.png", "6.png"]);
    let rsna = RadiographFilter { source: Some("rsna".into()), ..normal };
    assert_eq!(names(rsna, fixtures::first_page()).await, ["0.png"]);
    assert_eq!(names(RadiographFilter::default(), fixtures::first_page()).await.len(), 12);

    let first = list(&db, dataset.id, &train, &Page { limit: 2, after: None }).await.unwrap();
    let after = Some(first[1].id.to_string());
    assert_eq!(names(train, Page { limit: 2, after }).await, ["6.png", "9.png"]);
}

#[tokio::test]
async fn labelled_radiographs_have_label_and_split_and_are_ordered_by_hash() {
    let (_dir, db) = fixtures::db().await;
    let dataset = fixtures::stored_dataset(&db).await;
    for content in ["a", "b", "c", "d"] {
        fixtures::stored_radiograph(&db, &dataset, content).await;
    }
    insert(&db, &Radiograph { label: None, ..fixtures::radiograph(&dataset, "e") }, RadiographExtras::default())
        .await
        .unwrap();
    insert(&db, &Radiograph { split: None, ..fixtures::radiograph(&dataset, "f") }, RadiographExtras::default())
        .await
        .unwrap();
    let found = labelled(&db, dataset.id).await.unwrap();
    assert_eq!(found.len(), 4);
    assert!(found.is_sorted_by_key(|radiograph| radiograph.sha256.clone()));
    assert_eq!(all(&db, dataset.id).await.unwrap().len(), 6);
}

#[tokio::test]
async fn a_patch_changes_only_its_fields() {
    let (_dir, db) = fixtures::db().await;
    let dataset = fixtures::stored_dataset(&db).await;
    let before = fixtures::stored_radiograph(&db, &dataset, "a").await;
    let changes = RadiographPatch {
        label: Some("COVID-19".into()),
        view: Some("AP".into()),
        split: Some(Split::Test),
        ..Default::default()
    };
    let after = patch(&db, before.id, &changes).await.unwrap().unwrap();
    let expected = Radiograph { label: changes.label, view: changes.view, split: changes.split, ..before };
    assert_eq!(after, expected);
    assert_eq!(get(&db, expected.id).await.unwrap(), Some(expected));
    assert_eq!(patch(&db, RadiographId::new(), &RadiographPatch::default()).await.unwrap(), None);
}

#[tokio::test]
async fn assigns_splits_and_ignores_deleted_radiographs() {
    let (_dir, db) = fixtures::db().await;
    let dataset = fixtures::stored_dataset(&db).await;
    let a = fixtures::stored_radiograph(&db, &dataset, "a").await.id;
    let b = fixtures::stored_radiograph(&db, &dataset, "b").await.id;
    let splits = [(a, Split::Validation), (b, Split::Test), (RadiographId::new(), Split::Train)];
    assign_splits(&db, &splits).await.unwrap();
    assert_eq!(get(&db, a).await.unwrap().unwrap().split, Some(Split::Validation));
    assert_eq!(get(&db, b).await.unwrap().unwrap().split, Some(Split::Test));
}

#[tokio::test]
async fn a_row_that_this_version_cannot_read_is_an_error() {
    let (_dir, db) = fixtures::db().await;
    let dataset = fixtures::stored_dataset(&db).await;
    let radiograph = fixtures::stored_radiograph(&db, &dataset, "a").await;
    sqlx::query("update radiographs set sha256 = upper(sha256)").execute(db.write().unwrap()).await.unwrap();
    assert!(matches!(get(&db, radiograph.id).await, Err(StoreError::Row(_))));
}

#[tokio::test]
async fn hashes_patient_ids_of_an_earlier_version_once() {
    let (_dir, db) = fixtures::db().await;
    let dataset = fixtures::stored_dataset(&db).await;
    for (content, patient) in [("a", "p1"), ("b", "p1"), ("c", "already a hash"), ("d", "of today")] {
        let radiograph = Radiograph { patient_id: Some(patient.into()), ..fixtures::radiograph(&dataset, content) };
        insert(&db, &radiograph, RadiographExtras::default()).await.unwrap();
    }
    let mut tx = db.begin().await.unwrap();
    let earlier = "update radiographs set patient_id_hashed = 0 where patient_id <> 'of today'";
    sqlx::query(earlier).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let hash = || hash_patient_ids(&db, |patient| format!("hash of {patient}"), |patient| patient == "already a hash");
    assert_eq!((hash().await.unwrap(), hash().await.unwrap()), (3, 0));
    let mut patients: Vec<_> = all(&db, dataset.id).await.unwrap().into_iter().map(|r| r.patient_id.unwrap()).collect();
    patients.sort();
    assert_eq!(patients, ["already a hash", "hash of p1", "hash of p1", "of today"]);
}
