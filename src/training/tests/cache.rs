//! The cache of decoded images: the same numbers with and without it, and what happens when it is not what it should be.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    sync::atomic::{AtomicUsize, Ordering},
};

use super::*;
use crate::imaging::{self, Limits};

/// Where the squares begin, and the bytes of one with its checksum.
const HEADER: usize = 256;
const RECORD: usize = (SIDE * SIDE + 4) as usize;

#[test]
fn a_second_run_reads_no_image_and_gives_the_same_numbers_and_the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(SimpleCnn, &[&[(Head, 1e-3, 1), (All, 1e-3, 2)]]);
    let (first_job, first_reads) = counted(job(plan.clone()));
    let (second_job, second_reads) = counted(job(plan));
    let (first, second) = (run_in(folder.path(), first_job).unwrap(), run_in(folder.path(), second_job).unwrap());
    assert_eq!((reads(&first_reads), reads(&second_reads)), (16, 0));
    assert_eq!(losses(&first), losses(&second));
    assert!(first.stages[0].bytes == second.stages[0].bytes, "another model");
    assert_eq!(first.caches[0].origin, CacheOrigin::Made { damage: None });
    let ImageCache { side, images, bytes, ref origin, .. } = second.caches[0];
    assert_eq!((side, images, origin), (SIDE, 16, &CacheOrigin::Reused));
    assert_eq!(fs::metadata(only_file(folder.path())).unwrap().len(), bytes);
    assert_eq!(bytes as usize, HEADER + 16 * RECORD);
}

#[test]
fn other_labels_splits_and_seeds_find_the_same_images() {
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
fn a_batch_is_what_decoding_and_resizing_its_images_in_memory_gives() {
    let folder = tempfile::tempdir().unwrap();
    let mut job = TrainingJob { cache: folder.path().into(), ..job(plan(SimpleCnn, &[&[(All, 1e-3, 1)]])) };
    // The same image twice in a set: neither place is another's.
    job.samples[7].key = job.samples[2].key.clone();
    let batches = vec![vec![15, 0, 7], vec![2], vec![9, 8, 3, 1]];
    for side in [SIDE, 24] {
        let expected: Vec<Vec<Vec<u8>>> = batches.iter().map(|batch| in_memory(&job, batch, side)).collect();
        for _fresh_then_reused in 0..2 {
            let mut told = Told::default();
            let images = images::Images::open(&mut Session::new(&job, &mut told), side).unwrap();
            let mut feed = images.feed(&batches);
            for expected in &expected {
                assert_eq!(feed.next_input().unwrap().views(), *expected);
            }
        }
    }
}

#[test]
fn a_file_that_is_not_what_it_should_be_is_made_anew_and_the_observer_is_told_why() {
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
        ("two images in each other's place", "checksum", swapped(&whole)),
        ("the end cut off", "bytes", whole[..whole.len() - 1].to_vec()),
        ("something behind the end", "bytes", [&whole[..], b"x"].concat()),
        ("a header of other images", "header", changed(&whole, 70)),
        ("another file altogether", "header", encode_png(&disc(1)).repeat(20)),
        ("nothing in it", "early", Vec::new()),
    ];
    for (damage, word, bytes) in damages {
        fs::write(&path, bytes).unwrap();
        let (job, count) = counted(one_epoch());
        let told = run_in(folder.path(), job).unwrap();
        let CacheOrigin::Made { damage: Some(why) } = &told.caches[0].origin else {
            panic!("{damage} was not noticed")
        };
        assert!(why.contains(word), "{damage}: {why}");
        assert_eq!((reads(&count), losses(&told)), (16, losses(&first)), "{damage}");
        assert!(fs::read(only_file(folder.path())).unwrap() == whole, "after {damage} the file is not as it was");
    }
}

#[test]
fn damage_in_the_middle_of_a_stage_ends_the_run_and_names_the_file() {
    type Damage = fn(&File);
    let damages: [(&str, Damage); 2] = [
        ("checksum", |file| file.write_all_at(b"*", (HEADER + 7) as u64).unwrap()),
        ("early", |file| file.set_len((HEADER + RECORD) as u64).unwrap()),
    ];
    for (word, damage) in damages {
        let folder = tempfile::tempdir().unwrap();
        let job = TrainingJob { cache: folder.path().into(), ..job(plan(SimpleCnn, &[&[(All, 1e-3, 1)]])) };
        let mut told = Told::default();
        let images = images::Images::open(&mut Session::new(&job, &mut told), SIDE).unwrap();
        let path = only_file(folder.path());
        damage(&File::options().write(true).open(&path).unwrap());
        let error = images.feed(&[(0..16).collect()]).next_input().err().unwrap();
        assert!(matches!(error, TrainingError::Cache { .. }), "{error}");
        let error = error.to_string();
        assert!(error.contains(word) && error.contains(path.to_str().unwrap()), "{error}");
    }
}

#[test]
fn another_set_of_images_makes_a_file_of_its_own_and_the_old_ones_go_at_every_side() {
    let folder = tempfile::tempdir().unwrap();
    let mut two_sides = plan(SimpleCnn, &[&[(All, 1e-3, 1)], &[(All, 1e-3, 1)]]);
    two_sides.stages[1].image_size = 40;
    let told = run_in(folder.path(), job(two_sides)).unwrap();
    assert_eq!(told.caches.iter().map(|cache| cache.side).collect::<Vec<_>>(), [SIDE, 40]);
    let old = files(folder.path());
    assert_eq!(old.len(), 2, "{old:?}");
    fs::write(folder.path().join(".tmpold.partial"), "of a killed process").unwrap();
    fs::write(folder.path().join("notes.txt"), "of somebody").unwrap();

    let (mut fewer, count) = counted(job(plan(SimpleCnn, &[&[(All, 1e-3, 1)]])));
    fewer.samples.pop();
    run_in(folder.path(), fewer).unwrap();
    assert_eq!(reads(&count), 15);
    let new = files(folder.path());
    assert_eq!(new.len(), 2, "{new:?}");
    assert!(!old.contains(&new[0]) && new[1].ends_with("notes.txt"), "{old:?}, {new:?}");
}

#[test]
fn a_stop_while_the_cache_is_made_or_checked_leaves_no_half_file() {
    let folder = tempfile::tempdir().unwrap();
    let stopped_after = |patience| {
        let mut told = Told { patience: Some(patience), ..Told::default() };
        let job = job(plan(SimpleCnn, &[&[(All, 1e-3, 1)]]));
        let outcome = train(TrainingJob { cache: folder.path().into(), ..job }, &mut told);
        assert!(matches!(outcome, Err(TrainingError::Stopped)), "{outcome:?}");
        (files(folder.path()).len(), told.caches.len())
    };
    for patience in 0..16 {
        assert_eq!(stopped_after(patience), (0, 0), "stopped at image {patience}");
    }
    assert_eq!(stopped_after(16), (1, 1), "made and kept, stopped before the first batch");
    assert_eq!(stopped_after(0), (1, 0), "stopped before the check");
    assert_eq!(stopped_after(1), (1, 1), "stopped after the check");
}

#[test]
fn an_image_that_cannot_be_read_ends_the_run_as_ever_and_leaves_no_half_file() {
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
fn a_folder_that_cannot_be_had_ends_the_run_with_the_cause() {
    let folder = tempfile::tempdir().unwrap();
    let in_the_way = folder.path().join("file");
    fs::write(&in_the_way, "not a folder").unwrap();
    for cache in [in_the_way.clone(), in_the_way.join("below")] {
        let error = run_in(&cache, job(plan(SimpleCnn, &[&[(All, 1e-3, 1)]]))).err().unwrap();
        assert!(matches!(&error, TrainingError::Cache { path, .. } if path.starts_with(&cache)), "{error}");
        assert!(error.to_string().contains("Not a directory"), "{error}");
    }
}

/// The job, and how many images it has read.
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

fn losses(told: &Told) -> Vec<(u64, u64)> {
    told.epochs.iter().map(|epoch| (epoch.train.loss.to_bits(), epoch.selection.loss.to_bits())).collect()
}

/// The squares without a cache.
fn in_memory(job: &TrainingJob, batch: &[usize], side: u32) -> Vec<Vec<u8>> {
    let square = |&sample: &usize| {
        let bytes = (job.read)(&job.samples[sample]).unwrap();
        imaging::resize_square(&imaging::decode(&bytes, &Limits { max_pixels: job.max_pixels }).unwrap().1, side).pixels
    };
    batch.iter().map(square).collect()
}

fn changed(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1;
    bytes
}

/// What is in a folder, in order.
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
