//! How much something that is no disease tells about the class: counts side by side, and mutual information.

use std::collections::BTreeMap;

use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How often the classes are dealt anew: a p value is no smaller than one over this and one.
const DEALS: usize = 999;

/// Images by the value of an attribute and by class, and what the one says about the other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Association {
    /// `source`, `view`, `sex`, ...
    pub attribute: String,
    /// Images of which the attribute is known; the rest stand under `unknown` and count in the table only.
    pub known: u64,
    /// A row for each value, in their order.
    pub rows: Vec<AssociationRow>,
    /// Mutual information of attribute and class over the images of which it is known, in bits, as counted.
    pub information_bits: f64,
    /// What the counts give on average when the classes are dealt anew among the patients: so much is chance.
    pub chance_bits: f64,
    /// The counted less the chance, at least 0, as a share of what there is to know about the class (its entropy).
    pub share_of_class: f64,
    /// How often classes dealt anew give as much or more, of a thousand.
    pub p: f64,
}

/// Images of one value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AssociationRow {
    /// Of the attribute.
    pub value: String,
    /// Images by class; a class with none is left out.
    pub images: BTreeMap<String, u64>,
}

/// What stands for a value that is not known.
pub(super) const UNKNOWN: &str = "unknown";

/// Of `values`, one an image, with the `class` and the `patient` of each (places in `names`, and any numbers). None when fewer than two
/// values occur: then it says nothing.
pub(super) fn associate(
    attribute: &str,
    values: &[Option<String>],
    class: &[usize],
    patient: &[usize],
    names: &[String],
) -> Option<Association> {
    let mut places: BTreeMap<&str, usize> = values.iter().flatten().map(|value| (value.as_str(), 0)).collect();
    if places.len() + usize::from(values.iter().any(Option::is_none)) < 2 || places.is_empty() {
        return None;
    }
    places.values_mut().zip(0..).for_each(|(place, at)| *place = at);
    let known: Vec<usize> = (0..values.len()).filter(|image| values[*image].is_some()).collect();
    let of = |image: &usize| values[*image].as_deref().map_or(0, |value| places[value]);
    let value: Vec<usize> = known.iter().map(of).collect();
    let classes: Vec<usize> = known.iter().map(|image| class[*image]).collect();
    let patients: Vec<usize> = known.iter().map(|image| patient[*image]).collect();
    let table = Table { values: places.len(), classes: names.len() };
    let counted = table.information(&value, &classes);
    let dealt = deals(&table, &value, &classes, &patients);
    let chance = dealt.iter().sum::<f64>() / dealt.len() as f64;
    let as_much = dealt.iter().filter(|bits| **bits >= counted - 1e-12).count();
    let entropy = entropy(&counts(&classes, names.len()));
    Some(Association {
        attribute: attribute.to_owned(),
        known: known.len() as u64,
        rows: rows(values, class, names),
        information_bits: counted,
        chance_bits: chance,
        share_of_class: if entropy > 0.0 { ((counted - chance) / entropy).clamp(0.0, 1.0) } else { 0.0 },
        p: (as_much + 1) as f64 / (DEALS + 1) as f64,
    })
}

fn rows(values: &[Option<String>], class: &[usize], names: &[String]) -> Vec<AssociationRow> {
    let mut rows: BTreeMap<(bool, &str), BTreeMap<String, u64>> = BTreeMap::new();
    for (value, class) in values.iter().zip(class) {
        // The unknown stand last.
        let key = (value.is_none(), value.as_deref().unwrap_or(UNKNOWN));
        *rows.entry(key).or_default().entry(names[*class].clone()).or_default() += 1;
    }
    // Bands are padded, so that they stand in their order.
    let squeezed = |value: &str| value.split_whitespace().collect::<Vec<_>>().join(" ");
    rows.into_iter().map(|((_, value), images)| AssociationRow { value: squeezed(value), images }).collect()
}

/// The information of counts whose classes are dealt anew. Patients are shuffled and their images' classes laid in that order over the
/// values: the images of one patient stay together, for they are no independent witnesses.
fn deals(table: &Table, value: &[usize], class: &[usize], patient: &[usize]) -> Vec<f64> {
    let mut hands: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    (0..value.len()).for_each(|image| hands.entry(patient[image]).or_default().push(image));
    let mut hands: Vec<Vec<usize>> = hands.into_values().collect();
    let places: Vec<usize> = hands.concat();
    let mut random = ChaCha8Rng::seed_from_u64(0);
    let mut deal = |_| {
        hands.shuffle(&mut random);
        let mut dealt = vec![0; class.len()];
        places.iter().zip(hands.iter().flatten()).for_each(|(place, from)| dealt[*place] = class[*from]);
        table.information(value, &dealt)
    };
    (0..DEALS).map(&mut deal).collect()
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

fn counts(of: &[usize], kinds: usize) -> Vec<u64> {
    let mut counts = vec![0; kinds];
    of.iter().for_each(|kind| counts[*kind] += 1);
    counts
}

/// In bits.
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
    fn a_source_for_each_class_tells_all_there_is_to_know() {
        let class: Vec<usize> = (0..80).map(|image| image % 2).collect();
        let values: Vec<&str> = class.iter().map(|class| ["here", "there"][*class]).collect();
        let found = of(&values, &class, &(0..80).collect::<Vec<_>>());
        assert!((found.information_bits - 1.0).abs() < 1e-9 && found.p < 0.002, "{found:?}");
        assert!(found.share_of_class > 0.95 && found.chance_bits < 0.05, "{found:?}");
        assert_eq!(found.rows[1].images, BTreeMap::from([("pneumonia".to_owned(), 40)]));
    }

    #[test]
    fn what_counts_give_by_chance_is_taken_off() {
        // As many sources as images: as counted each tells its image's class, and none tells anything.
        let class: Vec<usize> = (0..60).map(|image| image % 2).collect();
        let names: Vec<String> = (0..60).map(|image| format!("source {image}")).collect();
        let found = of(&names.iter().map(String::as_str).collect::<Vec<_>>(), &class, &(0..60).collect::<Vec<_>>());
        assert!((found.information_bits - 1.0).abs() < 1e-9, "{found:?}");
        assert!(found.share_of_class < 1e-9 && found.p == 1.0, "{found:?}");
    }

    #[test]
    fn many_images_of_few_patients_are_no_proof() {
        // Six patients of twenty images each, two sources: one way in twenty to deal three to each gives as much.
        let patient: Vec<usize> = (0..120).map(|image| image / 20).collect();
        let class: Vec<usize> = patient.iter().map(|patient| usize::from(*patient >= 3)).collect();
        let values: Vec<&str> = class.iter().map(|class| ["here", "there"][*class]).collect();
        let found = of(&values, &class, &patient);
        assert!(found.p > 0.05 && found.chance_bits > 0.1, "{found:?}");
    }

    #[test]
    fn the_unknown_stand_in_the_table_and_nowhere_else() {
        let found = of(&["a", "b", "", "a"], &[0, 1, 1, 0], &[0, 1, 2, 3]);
        assert_eq!(found.known, 3);
        let values: Vec<&str> = found.rows.iter().map(|row| row.value.as_str()).collect();
        assert_eq!(values, ["a", "b", UNKNOWN]);
        assert!(associate("view", &[None, None], &[0, 1], &[0, 1], &["a".into(), "b".into()]).is_none());
    }
}
