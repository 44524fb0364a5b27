//! Images that are the same picture, or nearly: found by their hashes, verified pixel by pixel on their planes.
//!
//! Found is the same picture in another size, compression, brightness or contrast, and mirrored. A cropped or a turned picture is not.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::{
    domain::{DatasetId, DisjointSet, RadiographId, Split},
    imaging,
    store::{self, Db, HashedRadiograph, StoreError},
};

/// Most bits in which the hashes of one picture's versions differ; 256 there are.
const MOST_BITS: u32 = 24;

/// Parts of a hash. Two hashes that differ in at most [`MOST_BITS`] bits agree in one part of 25 at least.
const BANDS: usize = MOST_BITS as usize + 1;

/// Least likeness (`imaging::likeness`) of two versions of one picture.
const LEAST_LIKENESS: f32 = 0.88;

/// Details that are kept at hand while pairs are verified: 16 kB each.
const DETAILS_AT_HAND: usize = 4096;

/// Images that are versions of one picture.
#[derive(Clone, Debug, PartialEq)]
pub struct DuplicateGroup {
    /// Two or more, in the order of their hashes.
    pub members: Vec<RadiographId>,
    /// The splits they stand in, each once.
    pub splits: Vec<Split>,
    /// The lowest likeness that joined two of them, at most 1.
    pub likeness: f32,
    /// All planes are the same byte for byte.
    pub identical: bool,
    /// A member is another one mirrored, left for right.
    pub mirrored: bool,
}

/// What a comparison of all images found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Duplicates {
    /// In the order of their first members' hashes.
    pub groups: Vec<DuplicateGroup>,
    /// Images that were compared.
    pub compared: u64,
    /// Images with too little detail to be told from one another.
    pub featureless: u64,
    /// Images of which no look has been made yet.
    pub unseen: u64,
}

/// Compares the images of a data set by the looks that are stored.
///
/// Only pairs that share a band of their hashes are looked at, and of these only the few whose hashes are near are compared in pixels; one
/// that is known to be a version of the other through a third is not compared again. So 16,000 images take about a second.
pub async fn duplicates(db: &Db, dataset: DatasetId) -> Result<Duplicates, StoreError> {
    let unseen = store::fingerprints::missing(db, dataset, imaging::FINGERPRINT_VERSION).await?.len() as u64;
    let looks = store::fingerprints::hashes(db, dataset, imaging::FINGERPRINT_VERSION).await?;
    let (compared, featureless) = (looks.len() as u64, looks.iter().filter(|look| look.hash.is_none()).count() as u64);
    let (looks, near) = super::off_async(move || {
        let near = near_pairs(&looks);
        (looks, near)
    })
    .await?;
    let wanted: BTreeSet<usize> = near.iter().flat_map(|near| [near.one, near.other]).collect();
    let wanted: Vec<RadiographId> = wanted.into_iter().map(|at| looks[at].id).collect();
    let planes = store::fingerprints::planes_of(db, &wanted).await?;
    let verify = move || {
        let mut verified = Verified::new(&looks, planes);
        near.into_iter().for_each(|pair| verified.compare(pair));
        verified.groups()
    };
    let groups = super::off_async(verify).await?;
    Ok(Duplicates { groups, compared: compared - featureless, featureless, unseen })
}

/// Two images whose hashes are near; ordered by how many bits differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Near {
    bits: u32,
    one: usize,
    other: usize,
    /// One of them has to be mirrored for that.
    mirrored: bool,
}

/// A hash of an image, or of what it would be mirrored.
#[derive(Clone, Copy)]
struct Hashed {
    at: usize,
    hash: [u64; 4],
    mirrored: bool,
}

/// Pairs whose hashes differ in few bits, each once, the nearest first. Of images with the very same hash each is paired with the first
/// of them alone: a thousand copies are a thousand pairs and not half a million.
fn near_pairs(looks: &[HashedRadiograph]) -> Vec<Near> {
    let mut first_with: BTreeMap<[u8; 32], usize> = BTreeMap::new();
    let mut pairs = Vec::new();
    let mut distinct = Vec::new();
    for (at, look) in looks.iter().enumerate() {
        let Some(hash) = look.hash else { continue };
        match first_with.get(&hash) {
            Some(first) => pairs.push(Near { bits: 0, one: *first, other: at, mirrored: false }),
            None => {
                first_with.insert(hash, at);
                let turned = words(&imaging::mirrored_hash(&hash));
                distinct.push(Hashed { at, hash: words(&hash), mirrored: false });
                distinct.push(Hashed { at, hash: turned, mirrored: true });
            }
        }
    }
    for band in 0..BANDS {
        for bucket in buckets(&distinct, band) {
            for (place, one) in bucket.iter().enumerate() {
                pairs.extend(bucket[place + 1..].iter().filter_map(|other| near(one, other)));
            }
        }
    }
    pairs.sort_unstable();
    pairs.dedup();
    pairs
}

/// Two mirrored ones are as near as they are unmirrored, and are left out.
fn near(one: &Hashed, other: &Hashed) -> Option<Near> {
    if one.at == other.at || (one.mirrored && other.mirrored) {
        return None;
    }
    let bits = bits_between(&one.hash, &other.hash);
    let (first, second) = (one.at.min(other.at), one.at.max(other.at));
    let mirrored = one.mirrored || other.mirrored;
    (bits <= MOST_BITS).then_some(Near { bits, one: first, other: second, mirrored })
}

/// Hashes that agree in a band, two or more of them.
fn buckets(hashes: &[Hashed], band: usize) -> Vec<Vec<Hashed>> {
    let mut buckets: HashMap<u16, Vec<Hashed>> = HashMap::new();
    for hashed in hashes {
        // Every 25th bit: the bits of a corner, which is black in most images, are spread over all bands.
        let places = (band..256).step_by(BANDS);
        let key = places.fold(0, |key, place| key << 1 | (hashed.hash[place / 64] >> (place % 64) & 1) as u16);
        buckets.entry(key).or_default().push(*hashed);
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

fn bits_between(one: &[u64; 4], other: &[u64; 4]) -> u32 {
    one.iter().zip(other).map(|(a, b)| (a ^ b).count_ones()).sum()
}

/// Pairs as they are verified, and what belongs together by them.
struct Verified<'a> {
    looks: &'a [HashedRadiograph],
    planes: HashMap<RadiographId, Vec<u8>>,
    groups: DisjointSet,
    /// Of a group's first.
    seen: HashMap<usize, Seen>,
    /// None of what has too little detail, or went meanwhile.
    at_hand: HashMap<usize, Option<Vec<f32>>>,
}

/// What is known of a group.
#[derive(Clone, Copy)]
struct Seen {
    likeness: f32,
    identical: bool,
    mirrored: bool,
}

/// Of an image alone.
const ALONE: Seen = Seen { likeness: 1.0, identical: true, mirrored: false };

impl Seen {
    fn and(self, other: Self) -> Self {
        Self {
            likeness: self.likeness.min(other.likeness),
            identical: self.identical && other.identical,
            mirrored: self.mirrored || other.mirrored,
        }
    }
}

impl<'a> Verified<'a> {
    fn new(looks: &'a [HashedRadiograph], planes: HashMap<RadiographId, Vec<u8>>) -> Self {
        Self { looks, planes, groups: DisjointSet::new(looks.len()), seen: HashMap::new(), at_hand: HashMap::new() }
    }

    fn compare(&mut self, Near { one, other, mirrored, .. }: Near) {
        let (first, second) = (self.groups.find(one), self.groups.find(other));
        if first == second {
            return;
        }
        // Both are fetched after this: neither drives the other out.
        if self.at_hand.len() >= DETAILS_AT_HAND {
            self.at_hand.clear();
        }
        self.fetch(one);
        self.fetch(other);
        let (Some(a), Some(b)) = (&self.at_hand[&one], &self.at_hand[&other]) else { return };
        let likeness = match mirrored {
            true => imaging::similarity(a, &imaging::mirrored_detail(b)),
            false => imaging::similarity(a, b),
        };
        if likeness < LEAST_LIKENESS {
            return;
        }
        let plane = |at: usize| self.planes.get(&self.looks[at].id);
        let identical = !mirrored && plane(one) == plane(other);
        let joins = Seen { likeness: likeness.min(1.0), identical, mirrored };
        let before = [first, second].map(|leader| self.seen.remove(&leader).unwrap_or(ALONE));
        self.seen.insert(first.min(second), before.into_iter().fold(joins, Seen::and));
        self.groups.union(first, second);
    }

    fn fetch(&mut self, at: usize) {
        let (planes, id) = (&self.planes, self.looks[at].id);
        self.at_hand.entry(at).or_insert_with(|| imaging::detail(planes.get(&id)?));
    }

    fn groups(mut self) -> Vec<DuplicateGroup> {
        let mut members: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for at in 0..self.looks.len() {
            members.entry(self.groups.find(at)).or_default().push(at);
        }
        let group = |(first, members): (usize, Vec<usize>)| {
            let Seen { likeness, identical, mirrored } = self.seen.get(&first).copied()?;
            let mut splits: Vec<Split> = members.iter().filter_map(|at| self.looks[*at].split).collect();
            splits.sort();
            splits.dedup();
            let members = members.into_iter().map(|at| self.looks[at].id).collect();
            Some(DuplicateGroup { members, splits, likeness, identical, mirrored })
        };
        members.into_iter().filter_map(group).collect()
    }
}

#[cfg(test)]
mod tests;
