//! The cache of decoded images: it does not change the numbers, and damaged files are detected.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    sync::atomic::{AtomicUsize, Ordering},
};

use super::*;
use crate::imaging::{self, Limits};

/// Size of the header, and of an image with its checksum, in bytes.
const HEADER: usize = 256;
const RECORD: usize = (SIDE * SIDE + 4) as usize;

#[test]
fn a_second_run_reads_no_image_and_gives_the_same_metrics_and_model() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(SimpleCnn, &[&[(Head, 1e-3, 1), (All, 1e-3, 2)]]);
    let (first_job, first_reads) = counted(job(plan.clone()));
    let (second_job, second_reads) = counted(job(plan));
    let (first, second) = (run_in(folder.path(), first_job).unwrap(), run_in(folder.path(), second_job).unwrap());
    assert_eq!((reads(&first_reads), reads(&second_reads)), (16, 0));
    assert_eq!(losses(&first), losses(&second));
    assert!(first.stages[0].bytes == second.stages[0].bytes, "another model");
    assert_eq!(first.caches[0].origin, CacheOrigin::Created { damage: None });
    let ImageCache { side, images, bytes, ref origin, .. } = second.caches[0];
    assert_eq!((side, images, origin), (SIDE, 16, &CacheOrigin::Reused));
    assert_eq!(fs::metadata(only_file(folder.path())).unwrap().len(), bytes);
    assert_eq!(bytes as usize, HEADER + 16 * RECORD);
}

#[test]
fn the_cache_is_reused_for_other_labels_splits_and_seeds() {
    let folder = tempfile::tempdir().unwrap();
    let one_epoch = || job(plan(SimpleCnn, &[&[(All, 1e-3, 1)]]));
    run_in(folder.path(), one_epoch()).unwrap();
    let (mut other, other_reads) = counted(TrainingJob { seed: 2, ..one_epoch() });
    other.samples.reverse();
    for sample in &mut other.samples {
        sample.class = 1 - sample.class;
        sample.split = if sample.split == Split::Test { Split::Validation } else { sample.split };
    }
    run_in(folder.path(), other).unwrap();
    assert_eq!(reads(&other_reads), 0);
}

#[test]
fn a_cached_batch_equals_decoding_and_resizing_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let mut job = TrainingJob { cache: folder.path().into(), ..job(plan(SimpleCnn, &[&[(All, 1e-3, 1)]])) };
    // The same image twice in the set.
    job.samples[7].key = job.samples[2].key.clone();
    let batches = vec![vec![15, 0, 7], vec![2], vec![9, 8, 3, 1]];
    for side in [SIDE, 24] {
        let expected: Vec<Vec<Vec<u8>>> = batches.iter().map(|batch| in_memory(&job, batch, side)).collect();
        for _fresh_then_reused in 0..2 {
            let mut recorded = RecordingObserver::default();
            let images = cached_images::CachedImages::open(&mut Session::new(&job, &mut recorded), side).unwrap();
            let mut loader = images.loader(&batches);
            for expected in &expected {
                assert_eq!(loader.next_batch().unwrap().views(), *expected);
            }
        }
    }
}

#[test]
fn a_damaged_file_is_created_again_and_the_reason_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let one_epoch = || job(plan(SimpleCnn, &[&[(All, 1e-3, 1)]]));
    let first = run_in(folder.path(), one_epoch()).unwrap();
    let path = only_file(folder.path());
    let whole = fs::read(&path).unwrap();
    let swapped = |bytes: &[u8]| {
        let (one, two) = bytes[HEADER..HEADER + 2 * RECORD].split_at(RECORD);
        [&bytes[..HEADER], two, one, &bytes[HEADER + 2 * RECORD..]].concat()
    };
    let damages: [(&str, &str, Vec<u8>); 8] = [
        ("a changed bit", "checksum", changed(&whole, HEADER + 3 * RECORD + 5)),
        ("a changed checksum", "checksum", changed(&whole, HEADER + RECORD - 1)),
        ("two swapped images", "checksum", swapped(&whole)),
        ("a truncated file", "bytes", whole[..whole.len() - 1].to_vec()),
        ("extra bytes at the end", "bytes", [&whole[..], b"x"].concat()),
        ("the header of another image set", "header", changed(&whole, 70)),
        ("a file of another format", "header", encode_png(&disc(1)).repeat(20)),
        ("an empty file", "early", Vec::new()),
    ];
    for (damage, word, bytes) in damages {
        fs::write(&path, bytes).unwrap();
        let (job, count) = counted(one_epoch());
        let recorded = run_in(folder.path(), job).unwrap();
        let CacheOrigin::Created { damage: Some(why) } = &recorded.caches[0].origin else {
            panic!("{damage} was not detected")
        };
        assert!(why.contains(word), "{damage}: {why}");
        assert_eq!((reads(&count), losses(&recorded)), (16, losses(&first)), "{damage}");
        assert!(fs::read(only_file(folder.path())).unwrap() == whole, "after {damage} the file was not restored");
    }
}

#[test]
fn damage_during_a_stage_ends_the_run_and_names_the_file() {
    type Damage = fn(&File);
    let damages: [(&str, Damage); 2] = [
        ("checksum", |file| file.write_all_at(b"*", (HEADER + 7) as u64).unwrap()),
        ("early", |file| file.set_len((HEADER + RECORD) as u64).unwrap()),
    ];
    for (word, damage) in damages {
        let folder = tempfile::tempdir().unwrap();
        let job = TrainingJob { cache: folder.path().into(), ..job(plan(SimpleCnn, &[&[(All, 1e-3, 1)]])) };
        let mut recorded = RecordingObserver::default();
        let images = cached_images::CachedImages::open(&mut Session::new(&job, &mut recorded), SIDE).unwrap();
        let path = only_file(folder.path());
        damage(&File::options().write(true).open(&path).unwrap());
        let error = images.loader(&[(0..16).collect()]).next_batch().err().unwrap();
        assert!(matches!(error, TrainingError::Cache { .. }), "{error}");
        let error = error.to_string();
        assert!(error.contains(word) && error.contains(path.file_name().unwrap().to_str().unwrap()), "{error}");
    }
}

#[test]
fn another_image_set_replaces_the_files_of_the_previous_one_at_all_sizes() {
    let folder = tempfile::tempdir().unwrap();
    let mut two_sides = plan(SimpleCnn, &[&[(All, 1e-3, 1)], &[(All, 1e-3, 1)]]);
    two_sides.stages[1].image_size = 40;
    let recorded = run_in(folder.path(), job(two_sides)).unwrap();
    assert_eq!(recorded.caches.iter().map(|cache| cache.side).collect::<Vec<_>>(), [SIDE, 40]);
    let old = files(folder.path());
    assert_eq!(old.len(), 2, "{old:?}");
    fs::write(folder.path().join(".tmpold.partial"), "left by a killed process").unwrap();
    fs::write(folder.path().join("notes.txt"), "unrelated").unwrap();

    let (mut fewer, count) = counted(job(plan(SimpleCnn, &[&[(All, 1e-3, 1)]])));
    fewer.samples.pop();
    run_in(folder.path(), fewer).unwrap();
    assert_eq!(reads(&count), 15);
    let new = files(folder.path());
    assert_eq!(new.len(), 2, "{new:?}");
    assert!(!old.contains(&new[0]) && new[1].ends_with("notes.txt"), "{old:?}, {new:?}");
}

#[test]
fn a_stop_while_the_cache_is_created_or_verified_leaves_no_partial_file() {
    let folder = tempfile::tempdir().unwrap();
    let stopped_after = |stop_after| {
        let mut recorded = RecordingObserver { stop_after: Some(stop_after), ..RecordingObserver::default() };
        let job = job(plan(SimpleCnn, &[&[(All, 1e-3, 1)]]));
        let outcome = train(TrainingJob { cache: folder.path().into(), ..job }, &mut recorded);
        assert!(matches!(outcome, Err(TrainingError::Stopped)), "{outcome:?}");
        (files(folder.path()).len(), recorded.caches.len())
    };
    for stop_after in 0..16 {
        assert_eq!(stopped_after(stop_after), (0, 0), "stopped at image {stop_after}");
    }
    assert_eq!(stopped_after(16), (1, 1), "created, then stopped before the first batch");
    assert_eq!(stopped_after(0), (1, 0), "stopped before verification");
    assert_eq!(stopped_after(1), (1, 1), "stopped after verification");
}

#[test]
fn an_unreadable_image_ends_the_run_and_leaves_no_partial_file() {
    let folder = tempfile::tempdir().unwrap();
    let mut job = job(plan(SimpleCnn, &[&[(All, 1e-3, 1)]]));
    let read = job.read;
    job.read =
        Arc::new(move |sample| if sample.key == "test-3" { Err(std::io::Error::other("gone")) } else { read(sample) });
    let error = run_in(folder.path(), job).err().unwrap();
    assert!(matches!(&error, TrainingError::Image { key, problem } if key == "test-3" && problem == "gone"), "{error}");
    assert_eq!(files(folder.path()), <[PathBuf; 0]>::default());
}

#[test]
fn an_unusable_cache_folder_ends_the_run_with_the_cause() {
    let folder = tempfile::tempdir().unwrap();
    let blocking_file = folder.path().join("file");
    fs::write(&blocking_file, "not a folder").unwrap();
    for cache in [blocking_file.clone(), blocking_file.join("below")] {
        let error = run_in(&cache, job(plan(SimpleCnn, &[&[(All, 1e-3, 1)]]))).err().unwrap();
        assert!(matches!(&error, TrainingError::Cache { path, .. } if path.starts_with(&cache)), "{error}");
        assert!(error.to_string().contains("Not a directory"), "{error}");
    }
}

/// The job with a counter of the images it reads.
fn counted(job: TrainingJob) -> (TrainingJob, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let (counter, read) = (count.clone(), job.read);
    let read: ReadImage = Arc::new(move |sample| {
        counter.fetch_add(1, Ordering::SeqCst);
        read(sample)
    });
    (TrainingJob { read, ..job }, count)
}

fn reads(count: &AtomicUsize) -> usize {
    count.load(Ordering::SeqCst)
}

fn losses(recorded: &RecordingObserver) -> Vec<(u64, u64)> {
    recorded.epochs.iter().map(|epoch| (epoch.train.loss.to_bits(), epoch.selection.loss.to_bits())).collect()
}

/// The images of a batch, decoded and resized without a cache.
fn in_memory(job: &TrainingJob, batch: &[usize], side: u32) -> Vec<Vec<u8>> {
    let image = |&sample: &usize| {
        let bytes = (job.read)(&job.samples[sample]).unwrap();
        imaging::resize_square(&imaging::decode(&bytes, &Limits { max_pixels: job.max_pixels }).unwrap().1, side).pixels
    };
    batch.iter().map(image).collect()
}

fn changed(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1;
    bytes
}

/// The paths in a folder, sorted.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn only_file(folder: &Path) -> PathBuf {
    let mut files = files(folder);
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}
