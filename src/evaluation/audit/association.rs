//! Association of the class with an attribute: contingency table, mutual information, and a permutation test by patient.

use std::collections::BTreeMap;

use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Number of label permutations; the smallest possible p-value is 1 / (PERMUTATIONS + 1).
const PERMUTATIONS: usize = 999;

/// Images by attribute value and class, with the mutual information of both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Association {
    /// Attribute: `source`, `view`, `sex`, ...
    pub attribute: String,
    /// Images with a known value. The others are listed as `unknown` and excluded from the statistics.
    pub known: u64,
    /// One row per value, in order.
    pub rows: Vec<AssociationRow>,
    /// Mutual information of attribute and class in bits, plug-in estimate over the images with a known value.
    pub information_bits: f64,
    /// Mean mutual information in bits over label permutations by patient: the part explained by chance.
    pub chance_bits: f64,
    /// Mutual information in excess of chance, at least 0, as a share of the entropy of the class.
    pub share_of_class: f64,
    /// Permutation p-value over 999 label permutations by patient; at least 0.001.
    pub p: f64,
}

/// Images with one attribute value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AssociationRow {
    /// Attribute value.
    pub value: String,
    /// Images by class; classes without images are omitted.
    pub images: BTreeMap<String, u64>,
}

/// Row name of images without a value.
pub(super) const UNKNOWN: &str = "unknown";

/// Computes the association of `values` with the class, one entry per image. `class` indexes `names`; `patient` groups images.
/// Returns `None` when fewer than two values occur.
pub(super) fn associate(
    attribute: &str,
    values: &[Option<String>],
    class: &[usize],
    patient: &[usize],
    names: &[String],
) -> Option<Association> {
    let mut indices: BTreeMap<&str, usize> = values.iter().flatten().map(|value| (value.as_str(), 0)).collect();
    if indices.len() + usize::from(values.iter().any(Option::is_none)) < 2 || indices.is_empty() {
        return None;
    }
    indices.values_mut().zip(0..).for_each(|(index, number)| *index = number);
    let known: Vec<usize> = (0..values.len()).filter(|image| values[*image].is_some()).collect();
    let of = |image: &usize| values[*image].as_deref().map_or(0, |value| indices[value]);
    let value: Vec<usize> = known.iter().map(of).collect();
    let classes: Vec<usize> = known.iter().map(|image| class[*image]).collect();
    let patients: Vec<usize> = known.iter().map(|image| patient[*image]).collect();
    let table = Table { values: indices.len(), classes: names.len() };
    let information = table.information(&value, &classes);
    let permuted = permutations(&table, &value, &classes, &patients);
    let chance = permuted.iter().sum::<f64>() / permuted.len() as f64;
    let at_least = permuted.iter().filter(|bits| **bits >= information - 1e-12).count();
    let entropy = entropy(&counts(&classes, names.len()));
    Some(Association {
        attribute: attribute.to_owned(),
        known: known.len() as u64,
        rows: rows(values, class, names),
        information_bits: information,
        chance_bits: chance,
        share_of_class: if entropy > 0.0 { ((information - chance) / entropy).clamp(0.0, 1.0) } else { 0.0 },
        p: (at_least + 1) as f64 / (PERMUTATIONS + 1) as f64,
    })
}

fn rows(values: &[Option<String>], class: &[usize], names: &[String]) -> Vec<AssociationRow> {
    let mut rows: BTreeMap<(bool, &str), BTreeMap<String, u64>> = BTreeMap::new();
    for (value, class) in values.iter().zip(class) {
        // Unknown values sort last.
        let key = (value.is_none(), value.as_deref().unwrap_or(UNKNOWN));
        *rows.entry(key).or_default().entry(names[*class].clone()).or_default() += 1;
    }
    // Bands are padded so that they sort numerically.
    let trimmed = |value: &str| value.split_whitespace().collect::<Vec<_>>().join(" ");
    rows.into_iter().map(|((_, value), images)| AssociationRow { value: trimmed(value), images }).collect()
}

/// Mutual information under each label permutation. Patients are shuffled and the labels of their images reassigned in that order,
/// so that the images of a patient stay together: they are not independent.
fn permutations(table: &Table, value: &[usize], class: &[usize], patient: &[usize]) -> Vec<f64> {
    let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    (0..value.len()).for_each(|image| groups.entry(patient[image]).or_default().push(image));
    let mut groups: Vec<Vec<usize>> = groups.into_values().collect();
    let images: Vec<usize> = groups.concat();
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let mut permute = |_| {
        groups.shuffle(&mut random);
        let mut permuted = vec![0; class.len()];
        images.iter().zip(groups.iter().flatten()).for_each(|(image, from)| permuted[*image] = class[*from]);
        table.information(value, &permuted)
    };
    (0..PERMUTATIONS).map(&mut permute).collect()
}

struct Table {
    values: usize,
    classes: usize,
}

impl Table {
    /// Mutual information in bits: H(value) + H(class) - H(value, class).
    fn information(&self, value: &[usize], class: &[usize]) -> f64 {
        let both: Vec<usize> = value.iter().zip(class).map(|(value, class)| value * self.classes + class).collect();
        let joint = counts(&both, self.values * self.classes);
        let (values, classes) = (counts(value, self.values), counts(class, self.classes));
        (entropy(&values) + entropy(&classes) - entropy(&joint)).max(0.0)
    }
}

fn counts(values: &[usize], kinds: usize) -> Vec<u64> {
    let mut counts = vec![0; kinds];
    values.iter().for_each(|kind| counts[*kind] += 1);
    counts
}

/// Shannon entropy in bits.
fn entropy(counts: &[u64]) -> f64 {
    let n = counts.iter().sum::<u64>() as f64;
    let part = |count: &u64| {
        let share = *count as f64 / n;
        if *count == 0 { 0.0 } else { -share * share.log2() }
    };
    counts.iter().map(part).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&str], class: &[usize], patient: &[usize]) -> Association {
        let values: Vec<Option<String>> =
            values.iter().map(|value| Some((*value).to_owned()).filter(|value| !value.is_empty())).collect();
        associate("source", &values, class, patient, &["normal".into(), "pneumonia".into()]).unwrap()
    }

    #[test]
    fn a_source_per_class_explains_the_class_completely() {
        let class: Vec<usize> = (0..80).map(|image| image % 2).collect();
        let values: Vec<&str> = class.iter().map(|class| ["here", "there"][*class]).collect();
        let found = of(&values, &class, &(0..80).collect::<Vec<_>>());
        assert!((found.information_bits - 1.0).abs() < 1e-9 && found.p < 0.002, "{found:?}");
        assert!(found.share_of_class > 0.95 && found.chance_bits < 0.05, "{found:?}");
        assert_eq!(found.rows[1].images, BTreeMap::from([("pneumonia".to_owned(), 40)]));
    }

    #[test]
    fn information_expected_by_chance_is_subtracted() {
        // One source per image: the plug-in estimate is maximal although the sources carry no information.
        let class: Vec<usize> = (0..60).map(|image| image % 2).collect();
        let names: Vec<String> = (0..60).map(|image| format!("source {image}")).collect();
        let found = of(&names.iter().map(String::as_str).collect::<Vec<_>>(), &class, &(0..60).collect::<Vec<_>>());
        assert!((found.information_bits - 1.0).abs() < 1e-9, "{found:?}");
        assert!(found.share_of_class < 1e-9 && found.p == 1.0, "{found:?}");
    }

    #[test]
    fn many_images_of_few_patients_are_not_significant() {
        // Six patients with twenty images each, two sources: one in ten assignments of three patients to each source is as extreme.
        let patient: Vec<usize> = (0..120).map(|image| image / 20).collect();
        let class: Vec<usize> = patient.iter().map(|patient| usize::from(*patient >= 3)).collect();
        let values: Vec<&str> = class.iter().map(|class| ["here", "there"][*class]).collect();
        let found = of(&values, &class, &patient);
        assert!(found.p > 0.05 && found.chance_bits > 0.1, "{found:?}");
    }

    #[test]
    fn unknown_values_are_listed_but_excluded_from_the_statistics() {
        let found = of(&["a", "b", "", "a"], &[0, 1, 1, 0], &[0, 1, 2, 3]);
        assert_eq!(found.known, 3);
        let values: Vec<&str> = found.rows.iter().map(|row| row.value.as_str()).collect();
        assert_eq!(values, ["a", "b", UNKNOWN]);
        assert!(associate("view", &[None, None], &[0, 1], &[0, 1], &["a".into(), "b".into()]).is_none());
    }
}
