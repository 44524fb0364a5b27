//! Mixup (Zhang et al. 2017, arXiv:1710.09412): each image of a batch is laid over another one of it, and its target with it.

use rand::{Rng, seq::SliceRandom};
use rand_distr::{Beta, Distribution};

/// How the images of a batch are mixed: `share` of each and the rest of its partner.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mix {
    pub(super) share: f64,
    /// By position in the batch.
    pub(super) partners: Vec<usize>,
}

impl Mix {
    /// One share for the batch from Beta(alpha, alpha), and partners by shuffling; an image may be its own.
    pub(super) fn draw(alpha: f64, images: usize, generator: &mut impl Rng) -> Self {
        let share = Beta::new(alpha, alpha).expect("a checked plan's alpha is above 0").sample(generator);
        let mut partners: Vec<usize> = (0..images).collect();
        partners.shuffle(generator);
        Self { share, partners }
    }

    /// The grey squares of a batch, mixed and rounded: normalising afterwards is the same as mixing normalised images, since it is one
    /// factor and one addition.
    pub(super) fn squares(&self, squares: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mixed = |one: &u8, other: &u8| {
            (self.share * f64::from(*one) + (1.0 - self.share) * f64::from(*other)).round() as u8
        };
        let pair = |(square, &partner): (&Vec<u8>, &usize)| {
            square.iter().zip(&squares[partner]).map(|(one, other)| mixed(one, other)).collect()
        };
        squares.iter().zip(&self.partners).map(pair).collect()
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn images_are_mixed_with_their_partners_pixel_by_pixel() {
        let mix = Mix { share: 0.75, partners: vec![1, 0, 2] };
        let mixed = mix.squares(&[vec![0, 100], vec![200, 100], vec![7, 9]]);
        assert_eq!(mixed, [vec![50, 100], vec![150, 100], vec![7, 9]]);
    }

    #[test]
    fn shares_lie_at_the_ends_for_a_small_alpha_and_in_the_middle_for_a_large_one() {
        let mut generator = ChaCha8Rng::seed_from_u64(1);
        let mut near_ends = |alpha| {
            let shares = (0..1000).map(|_| Mix::draw(alpha, 4, &mut generator).share);
            shares.filter(|share| share.min(1.0 - share) < 0.1).count()
        };
        // Beta(0.2, 0.2) has 0.67 of its mass within 0.1 of the ends, Beta(10, 10) 1e-5.
        assert!((600..740).contains(&near_ends(0.2)));
        assert_eq!(near_ends(10.0), 0);
    }

    #[test]
    fn every_image_is_somebodys_partner() {
        let mut partners = Mix::draw(1.0, 9, &mut ChaCha8Rng::seed_from_u64(1)).partners;
        partners.sort_unstable();
        assert_eq!(partners, (0..9).collect::<Vec<_>>());
    }
}
