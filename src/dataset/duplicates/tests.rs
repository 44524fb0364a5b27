//! Detection of planted copies among synthetic phantoms.

use image::{
    ExtendedColorType, ImageEncoder,
    codecs::png::{CompressionType, FilterType, PngEncoder},
};
use jpeg_encoder::{ColorType, Encoder};
use tempfile::TempDir;

use super::*;
use crate::{
    dataset::{AddOutcome, NewRadiograph, PatientIds, add, leakage},
    domain::LeakageKind,
    imaging::{
        GreyImage, Limits,
        phantom::{self, Appearance},
    },
    store::{Blobs, Dataset},
};

const LIMITS: Limits = Limits { max_pixels: 1_000_000 };

struct Fixture {
    _dir: TempDir,
    db: Db,
    blobs: Blobs,
    dataset: Dataset,
}

impl Fixture {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (db, blobs) = (Db::open(dir.path()).await.unwrap(), Blobs::open(dir.path()).unwrap());
        let dataset = Dataset { synthetic: true, ..Dataset::new("planted") };
        store::datasets::create(&db, &dataset).await.unwrap();
        Self { _dir: dir, db, blobs, dataset }
    }

    async fn add(&self, bytes: Vec<u8>, split: Split) -> RadiographId {
        let new = NewRadiograph { bytes: bytes.into(), split: Some(split), ..NewRadiograph::default() };
        let added = add(&self.db, &self.blobs, &self.dataset, new, &LIMITS, &PatientIds::new(*b"a key")).await.unwrap();
        match added {
            AddOutcome::Created(radiograph) => radiograph.id,
            AddOutcome::Duplicate(there, _) => panic!("{there:?} is already stored"),
        }
    }

    async fn duplicates(&self) -> Duplicates {
        duplicates(&self.db, self.dataset.id).await.unwrap()
    }
}

fn jpeg(image: &GreyImage, quality: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let encoder = Encoder::new(&mut bytes, quality);
    encoder.encode(&image.pixels, image.width as u16, image.height as u16, ColorType::Luma).unwrap();
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
async fn planted_copies_are_found_without_false_positives() {
    let fixture = Fixture::new().await;
    let mut phantoms = Vec::new();
    for phantom in phantom::series(5, 120, 192) {
        phantoms.push((fixture.add(imaging::encode_png(&phantom.image), Split::Train).await, phantom.image));
    }
    assert_eq!(fixture.duplicates().await.groups, [], "distinct phantoms are not duplicates");
    assert_eq!(leakage(&fixture.db, fixture.dataset.id).await.unwrap(), []);

    let smaller = imaging::resize_square(&phantoms[0].1, 128);
    let across = fixture.add(imaging::encode_png(&smaller), Split::Test).await;
    let within = fixture.add(jpeg(&phantoms[1].1, 60), Split::Train).await;
    let mirrored_copy = fixture.add(imaging::encode_png(&mirrored(&phantoms[2].1)), Split::Validation).await;
    let third = fixture.add(jpeg(&darker(&phantoms[1].1), 80), Split::Train).await;
    let found = fixture.duplicates().await;
    assert_eq!((found.compared, found.featureless, found.missing), (124, 0, 0));
    let mut groups: Vec<_> = found.groups.iter().map(|group| (group.splits.len(), group.members.clone())).collect();
    groups.iter_mut().for_each(|(_, members)| members.sort());
    groups.sort();
    let mut expected = vec![
        (2, vec![phantoms[0].0, across]),
        (1, vec![phantoms[1].0, within, third]),
        (2, vec![phantoms[2].0, mirrored_copy]),
    ];
    expected.sort();
    assert_eq!(groups, expected);
    assert!(found.groups.iter().all(|group| group.similarity > 0.9 && !group.identical), "{found:?}");
    let mirrored =
        found.groups.iter().filter(|group| group.mirrored).map(|group| group.members.contains(&mirrored_copy));
    assert_eq!(mirrored.collect::<Vec<_>>(), [true]);
    let leaking = leakage(&fixture.db, fixture.dataset.id).await.unwrap();
    assert_eq!(leaking, [LeakageKind::DuplicateAcrossSplits.finding(2)]);
}

#[tokio::test]
async fn equal_pixels_in_different_files_are_identical() {
    let fixture = Fixture::new().await;
    let image = phantom::generate(Appearance::Covid19, 3, 96);
    fixture.add(imaging::encode_png(&image), Split::Test).await;
    // The same pixels without compression.
    let mut bytes = Vec::new();
    PngEncoder::new_with_quality(&mut bytes, CompressionType::Uncompressed, FilterType::NoFilter)
        .write_image(&image.pixels, image.width, image.height, ExtendedColorType::L8)
        .unwrap();
    fixture.add(bytes, Split::Validation).await;
    let groups = fixture.duplicates().await.groups;
    assert_eq!(groups.len(), 1);
    assert!(groups[0].identical && groups[0].splits == [Split::Validation, Split::Test], "{groups:?}");
}

#[tokio::test]
async fn images_without_detail_are_counted_and_never_duplicates() {
    let fixture = Fixture::new().await;
    for shade in 0..3 {
        let flat = GreyImage { width: 40, height: 40, pixels: vec![shade; 1600] };
        fixture.add(imaging::encode_png(&flat), Split::Train).await;
    }
    let found = fixture.duplicates().await;
    assert_eq!((found.groups.len(), found.compared, found.featureless), (0, 0, 3));
}

#[test]
fn banding_finds_every_near_pair_of_an_exhaustive_search() {
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
    let fingerprints: Vec<_> = hashes
        .iter()
        .map(|hash| HashedRadiograph { id: RadiographId::new(), split: None, hash: Some(*hash) })
        .collect();
    let mut found: Vec<_> =
        near_pairs(&fingerprints).iter().filter(|near| !near.mirrored).map(|near| (near.one, near.other)).collect();
    found.sort_unstable();
    let all = (0..fingerprints.len()).flat_map(|one| (one + 1..fingerprints.len()).map(move |other| (one, other)));
    let near = |(one, other): &(usize, usize)| {
        hamming_distance(&words(&hashes[*one]), &words(&hashes[*other])) <= MAX_DISTANCE
    };
    let expected: Vec<_> = all.filter(near).collect();
    assert!(expected.len() > 30);
    assert_eq!(found, expected);
}

#[test]
fn all_pairs_are_compared_when_the_cache_of_details_overflows() {
    use rand::{Rng, SeedableRng};
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(2);
    let plane: Vec<u8> = (0..64 * 64).map(|_| random.random()).collect();
    let other: Vec<u8> = (0..64 * 64).map(|_| random.random()).collect();
    let count = 2 * MAX_CACHED_DETAILS + 3;
    let fingerprints: Vec<_> =
        (0..count).map(|_| HashedRadiograph { id: RadiographId::new(), split: None, hash: None }).collect();
    // The images alternate between two planes.
    let planes = fingerprints
        .iter()
        .enumerate()
        .map(|(at, fingerprint)| (fingerprint.id, [&plane, &other][at % 2].clone()))
        .collect();
    let mut verifier = Verifier::new(&fingerprints, planes);
    for at in 1..count {
        verifier.compare(NearPair { distance: 0, one: at - 1, other: at, mirrored: false });
        verifier.compare(NearPair { distance: 0, one: at % 2, other: at, mirrored: false });
    }
    let sizes: Vec<usize> = verifier.groups().iter().map(|group| group.members.len()).collect();
    assert_eq!(sizes, [MAX_CACHED_DETAILS + 2, MAX_CACHED_DETAILS + 1]);
}
