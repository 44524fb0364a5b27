//! Detection of duplicate and near-duplicate images: candidate pairs by perceptual hash, verified by correlation of fingerprint planes.
//!
//! Finds copies that differ in size, compression, brightness or contrast, and mirrored copies. Cropped and rotated copies are not found.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::{
    domain::{DatasetId, DisjointSet, RadiographId, Split},
    imaging,
    store::{self, Db, HashedRadiograph, StoreError},
};

/// Maximum Hamming distance between the hashes (256 bits) of copies of an image.
const MAX_DISTANCE: u32 = 24;

/// Number of bands of a hash. By the pigeonhole principle, two hashes within `MAX_DISTANCE` bits agree in at least one of 25 bands.
const BANDS: usize = MAX_DISTANCE as usize + 1;

/// Minimum similarity ([`imaging::similarity`]) of two copies of an image.
const MIN_SIMILARITY: f32 = 0.88;

/// Maximum number of cached details during verification; each takes 16 kB.
const MAX_CACHED_DETAILS: usize = 4096;

/// Group of duplicate images.
#[derive(Clone, Debug, PartialEq)]
pub struct DuplicateGroup {
    /// Two or more images, in the order of their hashes.
    pub members: Vec<RadiographId>,
    /// Splits of the images, without duplicates.
    pub splits: Vec<Split>,
    /// Lowest similarity of the pairs that connect the group, at most 1.
    pub similarity: f32,
    /// True if all planes are byte-identical.
    pub identical: bool,
    /// True if an image is a mirrored copy (left to right) of another.
    pub mirrored: bool,
}

/// Result of a search for duplicates.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Duplicates {
    /// Groups of duplicates, in the order of the hashes of their first images.
    pub groups: Vec<DuplicateGroup>,
    /// Number of compared images.
    pub compared: u64,
    /// Number of images with too little detail to be compared.
    pub featureless: u64,
    /// Number of images without a current fingerprint.
    pub missing: u64,
}

/// Finds the duplicates in a data set by its stored fingerprints.
///
/// Only pairs of images that share a band of their hashes are considered (locality-sensitive hashing), and only those within
/// `MAX_DISTANCE` are compared by their planes. Pairs that are already connected through other images are skipped. Searching 16,000
/// images takes about a second.
pub async fn duplicates(db: &Db, dataset: DatasetId) -> Result<Duplicates, StoreError> {
    let missing = store::fingerprints::missing(db, dataset, imaging::FINGERPRINT_VERSION).await?.len() as u64;
    let fingerprints = store::fingerprints::hashes(db, dataset, imaging::FINGERPRINT_VERSION).await?;
    let (compared, featureless) =
        (fingerprints.len() as u64, fingerprints.iter().filter(|one| one.hash.is_none()).count() as u64);
    let (fingerprints, near) = super::run_blocking(move || {
        let near = near_pairs(&fingerprints);
        (fingerprints, near)
    })
    .await?;
    let candidates: BTreeSet<usize> = near.iter().flat_map(|near| [near.one, near.other]).collect();
    let candidates: Vec<RadiographId> = candidates.into_iter().map(|at| fingerprints[at].id).collect();
    let planes = store::fingerprints::planes_of(db, &candidates).await?;
    let verify = move || {
        let mut verifier = Verifier::new(&fingerprints, planes);
        near.into_iter().for_each(|pair| verifier.compare(pair));
        verifier.groups()
    };
    let groups = super::run_blocking(verify).await?;
    Ok(Duplicates { groups, compared: compared - featureless, featureless, missing })
}

/// Pair of images with near hashes, ordered by Hamming distance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct NearPair {
    distance: u32,
    one: usize,
    other: usize,
    /// True if the hash of one image is near that of the mirrored other.
    mirrored: bool,
}

/// Hash of an image or of its mirrored version.
#[derive(Clone, Copy)]
struct ImageHash {
    at: usize,
    hash: [u64; 4],
    mirrored: bool,
}

/// Pairs within `MAX_DISTANCE`, nearest first, without duplicates. Images with equal hashes are paired only with the first of them, so that
/// a thousand copies give a thousand pairs and not half a million.
fn near_pairs(fingerprints: &[HashedRadiograph]) -> Vec<NearPair> {
    let mut first_with: BTreeMap<[u8; 32], usize> = BTreeMap::new();
    let mut pairs = Vec::new();
    let mut distinct = Vec::new();
    for (at, fingerprint) in fingerprints.iter().enumerate() {
        let Some(hash) = fingerprint.hash else { continue };
        match first_with.get(&hash) {
            Some(first) => pairs.push(NearPair { distance: 0, one: *first, other: at, mirrored: false }),
            None => {
                first_with.insert(hash, at);
                let mirrored = words(&imaging::mirrored_hash(&hash));
                distinct.push(ImageHash { at, hash: words(&hash), mirrored: false });
                distinct.push(ImageHash { at, hash: mirrored, mirrored: true });
            }
        }
    }
    for band in 0..BANDS {
        for bucket in buckets(&distinct, band) {
            for (index, one) in bucket.iter().enumerate() {
                pairs.extend(bucket[index + 1..].iter().filter_map(|other| near(one, other)));
            }
        }
    }
    pairs.sort_unstable();
    pairs.dedup();
    pairs
}

/// The pair, if it is near. Pairs of two mirrored hashes are skipped, because their distance is that of the unmirrored hashes.
fn near(one: &ImageHash, other: &ImageHash) -> Option<NearPair> {
    if one.at == other.at || (one.mirrored && other.mirrored) {
        return None;
    }
    let distance = hamming_distance(&one.hash, &other.hash);
    let (first, second) = (one.at.min(other.at), one.at.max(other.at));
    let mirrored = one.mirrored || other.mirrored;
    (distance <= MAX_DISTANCE).then_some(NearPair { distance, one: first, other: second, mirrored })
}

/// Buckets of two or more hashes that agree in a band.
fn buckets(hashes: &[ImageHash], band: usize) -> Vec<Vec<ImageHash>> {
    let mut buckets: HashMap<u16, Vec<ImageHash>> = HashMap::new();
    for hash in hashes {
        // A band is every 25th bit, so that the bits of the corners, which are black in most images, are spread over all bands.
        let bits = (band..256).step_by(BANDS);
        let key = bits.fold(0, |key, bit| key << 1 | (hash.hash[bit / 64] >> (bit % 64) & 1) as u16);
        buckets.entry(key).or_default().push(*hash);
    }
    buckets.into_values().filter(|bucket| bucket.len() > 1).collect()
}

fn words(hash: &[u8; 32]) -> [u64; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(hash.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

fn hamming_distance(one: &[u64; 4], other: &[u64; 4]) -> u32 {
    one.iter().zip(other).map(|(a, b)| (a ^ b).count_ones()).sum()
}

/// Verifies candidate pairs and collects the groups.
struct Verifier<'a> {
    fingerprints: &'a [HashedRadiograph],
    planes: HashMap<RadiographId, Vec<u8>>,
    groups: DisjointSet,
    /// Properties of each group, by its representative.
    properties: HashMap<usize, GroupProperties>,
    /// Cached details; none for images with too little detail or deleted meanwhile.
    details: HashMap<usize, Option<Vec<f32>>>,
}

/// Properties of a group of duplicates.
#[derive(Clone, Copy)]
struct GroupProperties {
    similarity: f32,
    identical: bool,
    mirrored: bool,
}

/// Properties of a single image.
const SINGLE: GroupProperties = GroupProperties { similarity: 1.0, identical: true, mirrored: false };

impl GroupProperties {
    fn merge(self, other: Self) -> Self {
        Self {
            similarity: self.similarity.min(other.similarity),
            identical: self.identical && other.identical,
            mirrored: self.mirrored || other.mirrored,
        }
    }
}

impl<'a> Verifier<'a> {
    fn new(fingerprints: &'a [HashedRadiograph], planes: HashMap<RadiographId, Vec<u8>>) -> Self {
        Self {
            fingerprints,
            planes,
            groups: DisjointSet::new(fingerprints.len()),
            properties: HashMap::new(),
            details: HashMap::new(),
        }
    }

    /// Compares the images of a pair, unless they are already connected, and unites their groups if they are copies.
    fn compare(&mut self, NearPair { one, other, mirrored, .. }: NearPair) {
        let (first, second) = (self.groups.find(one), self.groups.find(other));
        if first == second {
            return;
        }
        // Cleared before both details are fetched, so that neither evicts the other.
        if self.details.len() >= MAX_CACHED_DETAILS {
            self.details.clear();
        }
        self.fetch(one);
        self.fetch(other);
        let (Some(a), Some(b)) = (&self.details[&one], &self.details[&other]) else { return };
        let similarity = match mirrored {
            true => imaging::similarity(a, &imaging::mirrored_detail(b)),
            false => imaging::similarity(a, b),
        };
        if similarity < MIN_SIMILARITY {
            return;
        }
        let plane = |at: usize| self.planes.get(&self.fingerprints[at].id);
        let identical = !mirrored && plane(one) == plane(other);
        let pair = GroupProperties { similarity: similarity.min(1.0), identical, mirrored };
        let before = [first, second].map(|group| self.properties.remove(&group).unwrap_or(SINGLE));
        self.properties.insert(first.min(second), before.into_iter().fold(pair, GroupProperties::merge));
        self.groups.union(first, second);
    }

    fn fetch(&mut self, at: usize) {
        let (planes, id) = (&self.planes, self.fingerprints[at].id);
        self.details.entry(at).or_insert_with(|| imaging::detail(planes.get(&id)?));
    }

    fn groups(mut self) -> Vec<DuplicateGroup> {
        let mut members: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for at in 0..self.fingerprints.len() {
            members.entry(self.groups.find(at)).or_default().push(at);
        }
        let group = |(first, members): (usize, Vec<usize>)| {
            let GroupProperties { similarity, identical, mirrored } = self.properties.get(&first).copied()?;
            let mut splits: Vec<Split> = members.iter().filter_map(|at| self.fingerprints[*at].split).collect();
            splits.sort();
            splits.dedup();
            let members = members.into_iter().map(|at| self.fingerprints[at].id).collect();
            Some(DuplicateGroup { members, splits, similarity, identical, mirrored })
        };
        members.into_iter().filter_map(group).collect()
    }
}

#[cfg(test)]
mod tests;
