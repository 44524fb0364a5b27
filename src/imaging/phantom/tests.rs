//! Phantoms are deterministic, and their class determines the finding.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const SIDE: u32 = 128;

/// Number of pixels that a finding changes in the left and the right half of the image.
fn changed(appearance: Appearance, seed: u64) -> [usize; 2] {
    let (healthy, diseased) = (generate(Appearance::Normal, seed, SIDE), generate(appearance, seed, SIDE));
    let mut halves = [0; 2];
    for (at, (a, b)) in healthy.pixels.iter().zip(&diseased.pixels).enumerate() {
        assert!(b >= a, "an opacity never darkens the image");
        halves[usize::from(at as u32 % SIDE >= SIDE / 2)] += usize::from(b - a > 10);
    }
    halves
}

#[test]
fn phantoms_are_determined_by_the_seed() {
    for appearance in Appearance::ALL {
        assert_eq!(generate(appearance, 5, SIDE), generate(appearance, 5, SIDE));
        assert_ne!(generate(appearance, 5, SIDE), generate(appearance, 6, SIDE));
    }
    assert_eq!(generate(Appearance::Normal, 5, 96).pixels.len(), 96 * 96);
}

#[test]
fn pneumonia_affects_one_lung_and_covid_both() {
    for seed in 0..40 {
        let [left, right] = changed(Appearance::Pneumonia, seed);
        assert!(left.max(right) > 250, "seed {seed}: {left} {right}");
        assert!(left.min(right) * 10 < left.max(right), "seed {seed}: {left} {right}");
        let [left, right] = changed(Appearance::Covid19, seed);
        assert!(left.min(right) > 40, "seed {seed}: {left} {right}");
    }
}

#[test]
fn lungs_are_darker_than_the_mediastinum() {
    let mean = |pixels: &[u8]| pixels.iter().map(|pixel| f64::from(*pixel)).sum::<f64>() / pixels.len() as f64;
    for seed in 0..20 {
        let image = generate(Appearance::Normal, seed, SIDE);
        let row = &image.pixels[(SIDE * 2 / 5 * SIDE) as usize..][..SIDE as usize];
        let (lung, middle) = (mean(&row[30..45]), mean(&row[60..70]));
        assert!(middle - lung > 40.0, "seed {seed}: lung {lung}, mediastinum {middle}");
    }
}

#[test]
fn mean_brightness_does_not_separate_the_classes() {
    let mean = |appearance, seed| {
        let pixels = generate(appearance, seed, 64).pixels;
        pixels.iter().map(|pixel| f64::from(*pixel)).sum::<f64>() / pixels.len() as f64
    };
    let means = |appearance| (0..60).map(|seed| mean(appearance, seed)).collect::<Vec<_>>();
    let (normal, covid) = (means(Appearance::Normal), means(Appearance::Covid19));
    let darkest_covid = covid.iter().copied().fold(f64::MAX, f64::min);
    assert!(normal.iter().filter(|mean| **mean > darkest_covid).count() > 40);
}

#[test]
fn a_series_is_balanced_and_marked_as_synthetic() {
    let phantoms: Vec<_> = series(1, 60, 32).collect();
    let mut images: BTreeMap<&str, u32> = BTreeMap::new();
    let mut patients: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for phantom in &phantoms {
        *images.entry(phantom.label).or_default() += 1;
        patients.entry(phantom.label).or_default().insert(&phantom.patient_id);
        assert!(phantom.file_name.starts_with("SYNTHETIC-"), "{}", phantom.file_name);
    }
    assert_eq!(images, BTreeMap::from([("normal", 20), ("pneumonia", 20), ("COVID-19", 20)]));
    assert!(patients.values().all(|patients| patients.len() == 15), "every third patient has two images");
    let distinct: BTreeSet<_> = phantoms.iter().map(|phantom| &phantom.image.pixels).collect();
    assert_eq!(distinct.len(), 60);
    assert_eq!(series(1, 60, 32).collect::<Vec<_>>(), phantoms);
}
