//! Patients as the unit of a bootstrap.

use std::collections::HashMap;

use rand::Rng;

/// The patients of a list of images.
pub(super) struct Clusters {
    of_image: Vec<u32>,
    count: u32,
}

impl Clusters {
    /// Clusters of images, given the patient of each. An image of an unknown patient is a cluster of its own.
    pub(super) fn new(patients: impl Iterator<Item = Option<u32>>) -> Self {
        let mut known = HashMap::new();
        let mut count = 0;
        let cluster = |patient: Option<u32>| {
            let mut next = || {
                count += 1;
                count - 1
            };
            match patient {
                Some(patient) => *known.entry(patient).or_insert_with(next),
                None => next(),
            }
        };
        let of_image = patients.map(cluster).collect();
        Self { of_image, count }
    }

    /// The cluster of each image.
    pub(super) fn of_image(&self) -> &[u32] {
        &self.of_image
    }

    /// A resample: draws as many clusters as there are, with replacement, and returns how often each image is in it.
    pub(super) fn draw(&self, rng: &mut impl Rng) -> Vec<u32> {
        let mut drawn = vec![0; self.count as usize];
        for _ in 0..self.count {
            drawn[rng.random_range(0..self.count) as usize] += 1;
        }
        self.of_image.iter().map(|&cluster| drawn[cluster as usize]).collect()
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn images_of_a_patient_are_drawn_together() {
        let clusters = Clusters::new([Some(7), None, Some(3), Some(7), None].into_iter());
        assert_eq!(clusters.of_image(), [0, 1, 2, 0, 3]);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut sums = [0; 5];
        for _ in 0..1000 {
            let drawn = clusters.draw(&mut rng);
            assert_eq!(drawn[0], drawn[3]);
            assert_eq!(drawn[0] + drawn[1] + drawn[2] + drawn[4], 4, "as many clusters as there are");
            sums.iter_mut().zip(drawn).for_each(|(sum, times)| *sum += times);
        }
        assert!(sums.iter().all(|&sum| (900..1100).contains(&sum)), "each as often as the others: {sums:?}");
    }
}
