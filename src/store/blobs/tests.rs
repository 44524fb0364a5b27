//! Blobs are durable and verified, and a row never names a missing one.

use std::{
    fs::FileTimes,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime},
};

use tempfile::TempDir;

use super::*;
use crate::store::{Dataset, Db, Radiograph, RadiographExtras, datasets, fixtures, models, radiographs, weights};

const NO_GRACE: Duration = Duration::ZERO;

async fn put(blobs: &Blobs, bytes: &[u8]) -> Sha256 {
    blobs.put(bytes.to_vec()).await.unwrap().sha256().clone()
}

#[tokio::test]
async fn returns_stored_bytes_under_their_hash_also_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let hash = put(&Blobs::open(dir.path()).unwrap(), b"a radiograph").await;
    assert_eq!(hash, Sha256::of(b"a radiograph"));
    let blobs = Blobs::open(dir.path()).unwrap();
    assert_eq!(blobs.get(&hash).await.unwrap(), b"a radiograph");
    assert_eq!(std::fs::read(blobs.path(&hash)).unwrap(), b"a radiograph");
    assert!(blobs.path(&hash).starts_with(dir.path().join("blobs").join(&hash.as_str()[..2])));
}

#[tokio::test]
async fn storing_the_same_bytes_concurrently_leaves_one_file_and_no_temporary_one() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path()).unwrap();
    let puts = futures_util::future::join_all((0..8).map(|_| blobs.put(vec![7; 100_000]))).await;
    let hash = Sha256::of(&[7; 100_000]);
    assert!(puts.into_iter().all(|put| *put.unwrap().sha256() == hash));
    let folder = blobs.path(&hash).parent().unwrap().to_owned();
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 1);
    assert_eq!(blobs.get(&hash).await.unwrap(), vec![7; 100_000]);
}

#[tokio::test]
async fn refuses_a_damaged_blob_and_storing_it_again_repairs_it() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path()).unwrap();
    let hash = put(&blobs, b"weights").await;
    std::fs::write(blobs.path(&hash), b"weighty").unwrap();
    let error = blobs.get(&hash).await.unwrap_err().to_string();
    assert!(error.contains("corrupt") && error.contains(hash.as_str()), "{error}");
    put(&blobs, b"weights").await;
    assert_eq!(blobs.get(&hash).await.unwrap(), b"weights");
}

/// Two data sets; the first has a radiograph with the bytes that a test uploads into the second.
struct Race {
    dir: TempDir,
    db: Db,
    blobs: Blobs,
    old: Radiograph,
    new: Radiograph,
}

impl Race {
    async fn start() -> Self {
        let (dir, db) = fixtures::db().await;
        let blobs = Blobs::open(dir.path()).unwrap();
        let (first, second) = (fixtures::stored_dataset(&db).await, fixtures::dataset("second"));
        datasets::create(&db, &second).await.unwrap();
        put(&blobs, b"shared").await;
        let old = fixtures::stored_radiograph(&db, &first, "shared").await;
        let new = fixtures::radiograph(&second, "shared");
        Self { dir, db, blobs, old, new }
    }

    async fn insert(&self) {
        let rows = [(&self.new, RadiographExtras::default())];
        assert_eq!(radiographs::insert_all(&self.db, &rows).await.unwrap(), [None]);
    }

    async fn delete(&self) {
        assert!(radiographs::delete(&self.db, self.old.id).await.unwrap());
    }

    /// Sweeps as another process does: with locks of its own.
    async fn sweep(&self, grace: Duration) -> SweepReport {
        Blobs::open(self.dir.path()).unwrap().sweep(&self.db, grace).await.unwrap()
    }

    async fn is_stored(&self) -> bool {
        self.blobs.get(&self.new.sha256).await.is_ok()
    }
}

/// `P`ut and `I`nsert of an upload, deletion of the other `R`ow, and `S`weeps, in every order.
#[tokio::test]
async fn a_row_keeps_its_blob_in_every_order_of_upload_deletion_and_sweep() {
    for order in ["PIRS", "PRIS", "RPIS", "PRSI", "RPSI", "RSPI", "PSIRS", "PSRSI", "SPRSI", "RSPSI", "PRSIS"] {
        let race = Race::start().await;
        let mut stored = None;
        for step in order.chars() {
            match step {
                'P' => stored = Some(race.blobs.put(b"shared".to_vec()).await.unwrap()),
                'I' => {
                    race.insert().await;
                    drop(stored.take());
                }
                'R' => race.delete().await,
                _ => drop(race.sweep(NO_GRACE).await),
            }
        }
        assert!(race.is_stored().await, "{order}");
        assert_eq!(race.sweep(NO_GRACE).await, SweepReport::default(), "{order}");
    }
}

#[tokio::test]
async fn a_sweep_passes_over_a_folder_in_which_a_writer_is_busy() {
    let race = Race::start().await;
    race.delete().await;
    let stored = race.blobs.put(b"shared".to_vec()).await.unwrap();
    assert_eq!(race.sweep(NO_GRACE).await, SweepReport { removed: 0, busy: 1 });
    drop(stored);
    assert_eq!(race.sweep(NO_GRACE).await, SweepReport { removed: 1, busy: 0 });
    assert!(!race.is_stored().await);
}

#[tokio::test]
async fn a_sweep_waits_for_a_transaction_that_outlives_its_writers_lock() {
    let race = Race::start().await;
    race.delete().await;
    let mut tx = race.db.begin().await.unwrap();
    // Like an upload whose client disconnects during the commit: the lock is released, but the row is still inserted.
    radiographs::insert_in(&mut tx, &race.new, RadiographExtras::default()).await.unwrap();
    let (blobs, db) = (race.blobs.clone(), Db::open(race.dir.path()).await.unwrap());
    let sweep = tokio::spawn(async move { blobs.sweep(&db, NO_GRACE).await.unwrap() });
    tokio::time::sleep(Duration::from_millis(100)).await;
    tx.commit().await.unwrap();
    assert_eq!(sweep.await.unwrap(), SweepReport::default());
    assert!(race.is_stored().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_keep_their_blobs_while_uploads_deletions_and_sweeps_run_concurrently() {
    let race = Race::start().await;
    let dataset = datasets::get(&race.db, race.new.dataset_id).await.unwrap().unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let sweeping = {
        // Another process: pools and locks of its own.
        let (blobs, db) = (Blobs::open(race.dir.path()).unwrap(), Db::open(race.dir.path()).await.unwrap());
        let done = Arc::clone(&done);
        tokio::spawn(async move {
            let mut removed = 0;
            while !done.load(Ordering::Relaxed) {
                removed += blobs.sweep(&db, NO_GRACE).await.unwrap().removed;
            }
            removed
        })
    };
    for round in 0..50 {
        let radiograph = fixtures::radiograph(&dataset, "shared");
        let stored = race.blobs.put(b"shared".to_vec()).await.unwrap();
        radiographs::insert_all(&race.db, &[(&radiograph, RadiographExtras::default())]).await.unwrap();
        drop(stored);
        assert!(race.is_stored().await, "round {round}");
        assert!(radiographs::delete(&race.db, radiograph.id).await.unwrap());
        if round == 0 {
            race.delete().await;
        }
    }
    done.store(true, Ordering::Relaxed);
    sweeping.await.unwrap();
}

fn age(path: &Path, age: Duration) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_times(FileTimes::new().set_modified(SystemTime::now() - age)).unwrap();
}

#[tokio::test]
async fn a_sweep_spares_young_blobs_and_storing_a_blob_again_makes_it_young() {
    let race = Race::start().await;
    race.delete().await;
    assert_eq!(race.sweep(BLOB_GRACE).await, SweepReport::default());
    let path = race.blobs.path(&race.new.sha256);
    age(&path, BLOB_GRACE + Duration::from_secs(1));
    put(&race.blobs, b"shared").await;
    assert_eq!(race.sweep(BLOB_GRACE).await, SweepReport::default());
    age(&path, BLOB_GRACE + Duration::from_secs(1));
    assert_eq!(race.sweep(BLOB_GRACE).await, SweepReport { removed: 1, busy: 0 });
}

#[tokio::test]
async fn a_sweep_removes_orphans_and_temporary_files_and_nothing_else() {
    let (dir, db) = fixtures::db().await;
    let blobs = Blobs::open(dir.path()).unwrap();
    let dataset: Dataset = fixtures::stored_dataset(&db).await;
    let model = fixtures::model(None);
    models::create(&db, &model, &[]).await.unwrap();
    weights::create(&db, &fixtures::weights("keras")).await.unwrap();
    let mut named = Vec::new();
    for content in ["radiograph", "weights", "keras"] {
        named.push(put(&blobs, content.as_bytes()).await);
    }
    fixtures::stored_radiograph(&db, &dataset, "radiograph").await;
    // More than one batch, all in one folder.
    let folder = dir.path().join("blobs/ab");
    for orphan in 0..250 {
        std::fs::write(folder.join(format!("{orphan:062x}")), "orphan").unwrap();
    }
    std::fs::write(folder.join(format!("{:062x}#1", 7)), "unfinished").unwrap();
    let foreign = folder.join("notes.txt");
    std::fs::write(&foreign, "not ours").unwrap();

    assert_eq!(blobs.sweep(&db, NO_GRACE).await.unwrap(), SweepReport { removed: 251, busy: 0 });
    for hash in &named {
        assert!(blobs.get(hash).await.is_ok(), "{hash}");
    }
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
    assert!(foreign.is_file());
}
