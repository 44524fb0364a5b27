//! The images of the self-test that a model passes before it may serve.

use crate::imaging::phantom::{self, Appearance};

/// Seed of the phantom.
const SEED: u64 = 1;

/// A phantom, a black and a white image, and noise, of `side` x `side` grey levels, each with its name.
pub(super) fn test_images(side: u32) -> [(&'static str, Vec<u8>); 4] {
    let pixels = (side as usize).pow(2);
    // A linear congruential generator (Numerical Recipes); its high bits are the better ones.
    let next = |state: &u32| Some(state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    let noise = std::iter::successors(Some(1), next).take(pixels).map(|state| (state >> 24) as u8).collect();
    [
        ("a chest phantom", phantom::generate(Appearance::Covid19, SEED, side).pixels),
        ("black", vec![0; pixels]),
        ("white", vec![u8::MAX; pixels]),
        ("noise", noise),
    ]
}
