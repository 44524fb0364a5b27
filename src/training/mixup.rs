//! Mixup (Zhang et al. 2017, arXiv:1710.09412): each image of a batch is blended with another one of the same batch, and so is its target.

use rand::{Rng, seq::SliceRandom};
use rand_distr::{Beta, Distribution};

/// Mixup of a batch: image `i` becomes `lambda * image[i] + (1 - lambda) * image[partners[i]]`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mixup {
    pub(super) lambda: f64,
    /// Partner of each image, by position in the batch.
    pub(super) partners: Vec<usize>,
}

impl Mixup {
    /// Samples one lambda for the batch from Beta(alpha, alpha) and shuffles the partners. An image may be its own partner.
    pub(super) fn sample(alpha: f64, images: usize, generator: &mut impl Rng) -> Self {
        let lambda = Beta::new(alpha, alpha).expect("a validated plan has an alpha above 0").sample(generator);
        let mut partners: Vec<usize> = (0..images).collect();
        partners.shuffle(generator);
        Self { lambda, partners }
    }

    /// Mixes the greyscale images of a batch and rounds the result. Normalisation is affine, so it gives the same result before and after
    /// mixing.
    pub(super) fn apply(&self, images: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mixed = |one: &u8, other: &u8| {
            (self.lambda * f64::from(*one) + (1.0 - self.lambda) * f64::from(*other)).round() as u8
        };
        let pair = |(image, &partner): (&Vec<u8>, &usize)| {
            image.iter().zip(&images[partner]).map(|(one, other)| mixed(one, other)).collect()
        };
        images.iter().zip(&self.partners).map(pair).collect()
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn images_are_mixed_with_their_partners_pixel_by_pixel() {
        let mixup = Mixup { lambda: 0.75, partners: vec![1, 0, 2] };
        let mixed = mixup.apply(&[vec![0, 100], vec![200, 100], vec![7, 9]]);
        assert_eq!(mixed, [vec![50, 100], vec![150, 100], vec![7, 9]]);
    }

    #[test]
    fn lambda_is_extreme_for_a_small_alpha_and_central_for_a_large_one() {
        let mut generator = ChaCha8Rng::seed_from_u64(1);
        let mut near_ends = |alpha| {
            let lambdas = (0..1000).map(|_| Mixup::sample(alpha, 4, &mut generator).lambda);
            lambdas.filter(|lambda| lambda.min(1.0 - lambda) < 0.1).count()
        };
        // Beta(0.2, 0.2) has 0.67 of its mass within 0.1 of the ends, Beta(10, 10) 1e-5.
        assert!((600..740).contains(&near_ends(0.2)));
        assert_eq!(near_ends(10.0), 0);
    }

    #[test]
    fn partners_are_a_permutation() {
        let mut partners = Mixup::sample(1.0, 9, &mut ChaCha8Rng::seed_from_u64(1)).partners;
        partners.sort_unstable();
        assert_eq!(partners, (0..9).collect::<Vec<_>>());
    }
}
