//! Phantoms with planted copies, in a database of their own.

use image::{
    ExtendedColorType, ImageEncoder,
    codecs::{
        jpeg::JpegEncoder,
        png::{CompressionType, FilterType, PngEncoder},
    },
};
use tempfile::TempDir;

use super::*;
use crate::{
    dataset::{
        Added, NewRadiograph, PatientIds, add, leakage,
        phantom::{self, Appearance},
    },
    domain::LeakageKind,
    imaging::{GreyImage, Limits},
    store::{Blobs, Dataset},
};

const LIMITS: Limits = Limits { max_pixels: 1_000_000 };

struct Shelf {
    _dir: TempDir,
    db: Db,
    blobs: Blobs,
    dataset: Dataset,
}

impl Shelf {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (db, blobs) = (Db::open(dir.path()).await.unwrap(), Blobs::open(dir.path()).unwrap());
        let dataset = Dataset { synthetic: true, ..Dataset::new("planted") };
        store::datasets::create(&db, &dataset).await.unwrap();
        Self { _dir: dir, db, blobs, dataset }
    }

    async fn add(&self, bytes: Vec<u8>, split: Split) -> RadiographId {
        let new = NewRadiograph { bytes, file_name: "x".into(), split: Some(split), ..NewRadiograph::default() };
        let added = add(&self.db, &self.blobs, &self.dataset, new, &LIMITS, &PatientIds::new(*b"a key")).await.unwrap();
        match added {
            Added::Created(radiograph) => radiograph.id,
            Added::Duplicate(there) => panic!("{there:?} is there already"),
        }
    }

    async fn found(&self) -> Duplicates {
        duplicates(&self.db, self.dataset.id).await.unwrap()
    }
}

fn jpeg(image: &GreyImage, quality: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let encoder = JpegEncoder::new_with_quality(&mut bytes, quality);
    encoder.write_image(&image.pixels, image.width, image.height, ExtendedColorType::L8).unwrap();
    bytes
}

fn darker(image: &GreyImage) -> GreyImage {
    let pixels = image.pixels.iter().map(|grey| (f32::from(*grey) * 0.7) as u8 + 20).collect();
    GreyImage { pixels, ..image.clone() }
}

fn mirrored(image: &GreyImage) -> GreyImage {
    let rows = image.pixels.chunks(image.width as usize);
    GreyImage { pixels: rows.flat_map(|row| row.iter().rev().copied()).collect(), ..image.clone() }
}

#[tokio::test]
async fn planted_copies_are_found_and_phantoms_of_other_patients_are_not() {
    let shelf = Shelf::new().await;
    let mut phantoms = Vec::new();
    for phantom in phantom::series(5, 120, 192) {
        phantoms.push((shelf.add(imaging::encode_png(&phantom.image), Split::Train).await, phantom.image));
    }
    assert_eq!(shelf.found().await.groups, [], "no phantom looks like another");
    assert_eq!(leakage(&shelf.db, shelf.dataset.id).await.unwrap(), []);

    let smaller = imaging::resize_square(&phantoms[0].1, 128);
    let across = shelf.add(imaging::encode_png(&smaller), Split::Test).await;
    let within = shelf.add(jpeg(&phantoms[1].1, 60), Split::Train).await;
    let turned = shelf.add(imaging::encode_png(&mirrored(&phantoms[2].1)), Split::Validation).await;
    let third = shelf.add(jpeg(&darker(&phantoms[1].1), 80), Split::Train).await;
    let found = shelf.found().await;
    assert_eq!((found.compared, found.featureless, found.unseen), (124, 0, 0));
    let mut groups: Vec<_> = found.groups.iter().map(|group| (group.splits.len(), group.members.clone())).collect();
    groups.iter_mut().for_each(|(_, members)| members.sort());
    groups.sort();
    let mut expected = vec![
        (2, vec![phantoms[0].0, across]),
        (1, vec![phantoms[1].0, within, third]),
        (2, vec![phantoms[2].0, turned]),
    ];
    expected.sort();
    assert_eq!(groups, expected);
    assert!(found.groups.iter().all(|group| group.likeness > 0.9 && !group.identical), "{found:?}");
    let mirrored = found.groups.iter().filter(|group| group.mirrored).map(|group| group.members.contains(&turned));
    assert_eq!(mirrored.collect::<Vec<_>>(), [true]);
    let leaking = leakage(&shelf.db, shelf.dataset.id).await.unwrap();
    assert_eq!(leaking, [LeakageKind::DuplicateAcrossSplits.finding(2)]);
}

#[tokio::test]
async fn the_same_pixels_in_another_container_are_identical() {
    let shelf = Shelf::new().await;
    let image = phantom::draw(Appearance::Covid19, 3, 96);
    shelf.add(imaging::encode_png(&image), Split::Test).await;
    // The same without compression: other bytes.
    let mut bytes = Vec::new();
    PngEncoder::new_with_quality(&mut bytes, CompressionType::Uncompressed, FilterType::NoFilter)
        .write_image(&image.pixels, image.width, image.height, ExtendedColorType::L8)
        .unwrap();
    shelf.add(bytes, Split::Validation).await;
    let groups = shelf.found().await.groups;
    assert_eq!(groups.len(), 1);
    assert!(groups[0].identical && groups[0].splits == [Split::Validation, Split::Test], "{groups:?}");
}

#[tokio::test]
async fn images_without_detail_are_counted_and_never_alike() {
    let shelf = Shelf::new().await;
    for shade in 0..3 {
        let flat = GreyImage { width: 40, height: 40, pixels: vec![shade; 1600] };
        shelf.add(imaging::encode_png(&flat), Split::Train).await;
    }
    let found = shelf.found().await;
    assert_eq!((found.groups.len(), found.compared, found.featureless), (0, 0, 3));
}

#[test]
fn bands_find_every_pair_of_near_hashes_that_comparing_all_finds() {
    use rand::{Rng, SeedableRng};
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let mut hashes: Vec<[u8; 32]> = (0..200).map(|_| random.random()).collect();
    for near in 0..100 {
        let mut hash = hashes[near];
        (0..random.random_range(0..40))
            .for_each(|_| hash[random.random_range(0..32)] ^= 1 << random.random_range(0..8));
        hashes.push(hash);
    }
    hashes.sort();
    hashes.dedup();
    let looks: Vec<_> = hashes
        .iter()
        .map(|hash| HashedRadiograph { id: RadiographId::new(), split: None, hash: Some(*hash) })
        .collect();
    let mut found: Vec<_> =
        near_pairs(&looks).iter().filter(|near| !near.mirrored).map(|near| (near.one, near.other)).collect();
    found.sort_unstable();
    let all = (0..looks.len()).flat_map(|one| (one + 1..looks.len()).map(move |other| (one, other)));
    let near =
        |(one, other): &(usize, usize)| bits_between(&words(&hashes[*one]), &words(&hashes[*other])) <= MOST_BITS;
    let expected: Vec<_> = all.filter(near).collect();
    assert!(expected.len() > 30);
    assert_eq!(found, expected);
}

#[test]
fn more_near_pairs_than_details_are_kept_are_all_compared() {
    use rand::{Rng, SeedableRng};
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(2);
    let plane: Vec<u8> = (0..64 * 64).map(|_| random.random()).collect();
    let other: Vec<u8> = (0..64 * 64).map(|_| random.random()).collect();
    let count = 2 * DETAILS_AT_HAND + 3;
    let looks: Vec<_> =
        (0..count).map(|_| HashedRadiograph { id: RadiographId::new(), split: None, hash: None }).collect();
    // Every other image is the one picture, the rest the other.
    let planes = looks.iter().enumerate().map(|(at, look)| (look.id, [&plane, &other][at % 2].clone())).collect();
    let mut verified = Verified::new(&looks, planes);
    for at in 1..count {
        verified.compare(Near { bits: 0, one: at - 1, other: at, mirrored: false });
        verified.compare(Near { bits: 0, one: at % 2, other: at, mirrored: false });
    }
    let sizes: Vec<usize> = verified.groups().iter().map(|group| group.members.len()).collect();
    assert_eq!(sizes, [DETAILS_AT_HAND + 2, DETAILS_AT_HAND + 1]);
}
