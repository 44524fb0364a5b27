//! Scores against those of scikit-learn, and properties of their intervals.

use std::{collections::BTreeMap, time::Instant};

use rand::Rng;
use rand_distr::{Beta, Distribution};
use serde_json::Value;

use super::*;
use crate::domain::Sha256;

/// An image of class 0 or 1, or of more, with its patient.
type Row = (usize, Option<u32>, Vec<f32>);

fn scores_of(rows: &[Row]) -> Scores {
    let classes = ClassList::new((0..rows[0].2.len()).map(|class| class.to_string()).collect()).unwrap();
    let image = |(at, (truth, patient, probabilities)): (usize, &Row)| EvaluatedImage {
        sha256: Sha256::of(&at.to_le_bytes()),
        patient: *patient,
        truth: *truth,
        predicted: first_maximum(probabilities),
        probabilities: probabilities.clone(),
    };
    let images: Vec<EvaluatedImage> = rows.iter().enumerate().map(image).collect();
    scores(&images, &classes)
}

fn first_maximum(probabilities: &[f32]) -> usize {
    (0..probabilities.len()).rev().max_by(|&a, &b| probabilities[a].total_cmp(&probabilities[b])).unwrap()
}

/// Two classes: the true one, and whether the prediction is correct.
fn binary(truth: usize, is_correct: bool, patient: usize) -> Row {
    let predicted = if is_correct { truth } else { 1 - truth };
    let probability = |class| if class == predicted { 0.75 } else { 0.25 };
    (truth, Some(patient as u32), vec![probability(0), probability(1)])
}

fn interval(score: &Score) -> (f64, f64) {
    (score.low.unwrap(), score.high.unwrap())
}

#[test]
fn values_agree_with_scikit_learn() {
    let cases: BTreeMap<String, Value> =
        serde_json::from_str(include_str!("../../../tests/fixtures/scores.json")).unwrap();
    assert!(cases.len() > 10);
    for (name, case) in cases {
        let row = |row: &Value| {
            let probabilities = row[2].as_array().unwrap().iter().map(|units| units.as_u64().unwrap() as f32 / 1024.0);
            let patient = row[1].as_u64().map(|patient| patient as u32);
            (row[0].as_u64().unwrap() as usize, patient, probabilities.collect())
        };
        let rows: Vec<Row> = case["images"].as_array().unwrap().iter().map(row).collect();
        let found = serde_json::to_value(scores_of(&rows)).unwrap();
        for (place, expected) in case["expected"].as_object().unwrap() {
            let score = found.pointer(&format!("/{}", place.replace('.', "/"))).unwrap();
            match expected.as_f64() {
                Some(expected) => {
                    let value = score["value"].as_f64().unwrap_or_else(|| panic!("{name}: {place} {score}"));
                    assert!((value - expected).abs() < 1e-9, "{name}: {place} is {value}, not {expected}");
                    let bound = |bound: &str| score[bound].as_f64();
                    // Log loss has no largest value, so that one patient gives it no interval.
                    if place != "log_loss" || bound("low").is_some() {
                        assert!(bound("low").unwrap() < bound("high").unwrap(), "{name}: {place} {score}");
                    }
                }
                None => {
                    assert_eq!((&score["value"], &score["low"]), (&Value::Null, &Value::Null), "{name}: {place}");
                    assert!(score["undefined"].is_string(), "{name}: {place}");
                }
            }
        }
    }
}

#[test]
fn a_score_counts_the_images_and_patients_that_it_is_about() {
    // Two patients with two images each, and an image without a patient.
    let mut rows = vec![binary(0, true, 1), binary(0, false, 1), binary(1, true, 2), binary(1, true, 2)];
    rows.push((0, None, vec![0.75, 0.25]));
    let scores = scores_of(&rows);
    let counts = |score: &Score| (score.n, score.patients);
    assert_eq!(counts(&scores.accuracy), (5, 3));
    let normal = &scores.per_class["0"];
    assert_eq!((counts(&normal.recall), counts(&normal.specificity)), ((3, 2), (2, 1)));
    assert_eq!((counts(&normal.precision), counts(&normal.npv)), ((2, 2), (3, 2)));
}

#[test]
fn images_of_one_patient_are_not_independent() {
    let images = |patient: fn(usize) -> usize| -> Vec<Row> {
        // Ten images a patient, all right or all wrong.
        (0..200).map(|at| binary(at % 2, at / 10 % 5 != 0, patient(at))).collect()
    };
    let (low, high) = interval(&scores_of(&images(|at| at)).accuracy);
    let (patients_low, patients_high) = interval(&scores_of(&images(|at| at / 10)).accuracy);
    assert!((wilson_of_share(0.8, 200).0 - low).abs() < 0.01 && (wilson_of_share(0.8, 200).1 - high).abs() < 0.01);
    assert!(patients_high - patients_low > 2.5 * (high - low), "{patients_low} to {patients_high}, {low} to {high}");
}

#[test]
fn scores_without_an_error_or_of_one_patient_have_intervals_of_their_patients() {
    let perfect: Vec<Row> = (0..40).map(|at| binary(at % 2, true, at / 2)).collect();
    let scores_of_all = scores_of(&perfect);
    let expected = wilson_of_share(1.0, 20);
    let covid = &scores_of_all.per_class["1"];
    for score in [&scores_of_all.accuracy, &covid.recall, &covid.f1, &covid.roc_auc] {
        assert_eq!((score.value, interval(score)), (Some(1.0), expected), "{score:?}");
    }
    assert_eq!(interval(&covid.mcc), (2.0 * expected.0 - 1.0, 1.0));
    let one_patient: Vec<Row> = (0..40).map(|at| binary(at % 2, at % 4 != 0, 7)).collect();
    assert_eq!(interval(&scores_of(&one_patient).accuracy), wilson_of_share(0.75, 1));
    assert_eq!(scores_of(&one_patient).log_loss.low, None);
}

#[test]
fn the_same_predictions_give_the_same_intervals() {
    let rows: Vec<Row> = (0..60).map(|at| binary(at % 2, at % 7 != 0, at / 3)).collect();
    assert_eq!(scores_of(&rows), scores_of(&rows));
}

/// Patients have one to five images and an accuracy of their own, from a beta distribution with a mean of 0.8. The interval must contain
/// 0.8 in about 95 of 100 data sets; with 300 data sets, fewer than 91 % are improbable (p < 0.01).
#[test]
fn intervals_cover_the_true_accuracy_of_correlated_images() {
    const DATA_SETS: u64 = 300;
    let skill = Beta::new(4.0, 1.0).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let covered = (0..DATA_SETS).filter(|_| {
        let mut rows = Vec::new();
        for patient in 0..60 {
            let accuracy: f64 = skill.sample(&mut rng);
            let truth = patient % 2;
            for _ in 0..rng.random_range(1..=5) {
                rows.push(binary(truth, rng.random_bool(accuracy), patient));
            }
        }
        let (low, high) = interval(&scores_of(&rows).accuracy);
        (low..=high).contains(&0.8)
    });
    let share = covered.count() as f64 / DATA_SETS as f64;
    assert!((0.91..=0.99).contains(&share), "{share}");
}

#[test]
fn a_split_of_covidx_takes_milliseconds() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut image = |at: usize| {
        let shares: [f32; 3] = std::array::from_fn(|_| rng.random());
        let sum: f32 = shares.iter().sum();
        (at % 3, Some(at as u32 / 2), shares.map(|share| share / sum).to_vec())
    };
    let rows: Vec<Row> = (0..1546).map(&mut image).collect();
    let began = Instant::now();
    scores_of(&rows);
    let took = began.elapsed();
    println!("1546 images: {took:?}");
    assert!(took.as_secs() < 5, "{took:?}");
}
