//! Synthetic chest phantoms for the demo and the tests: drawn, not photographed, and no stand-in for real data.
//!
//! A phantom is a thorax outline, two lung fields, mediastinum, heart, diaphragm, ribs, clavicles and noise, each
//! varied by the seed. Its class adds a finding: none, one lobar opacity in one lung (pneumonia), or small patchy
//! opacities in the outer parts of both lungs (COVID-19).

mod anatomy;
mod finding;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::imaging::GreyImage;

use anatomy::Anatomy;

/// What is drawn into the lungs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appearance {
    /// Clear lungs.
    Normal,
    /// One opacity the size of a lobe, in one lung.
    Pneumonia,
    /// Patches in the outer parts of both lungs.
    Covid19,
}

impl Appearance {
    /// All, in the order of the default classes.
    pub const ALL: [Self; 3] = [Self::Normal, Self::Pneumonia, Self::Covid19];

    /// The default class of this appearance.
    pub fn class(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Pneumonia => "pneumonia",
            Self::Covid19 => "COVID-19",
        }
    }
}

/// One image of a series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phantom {
    /// Says that it is synthetic.
    pub file_name: String,
    /// One patient has one or two images.
    pub patient_id: String,
    /// One of the default classes.
    pub label: &'static str,
    /// `side` x `side`.
    pub image: GreyImage,
}

/// `count` phantoms of `side` x `side` pixels, the classes in turn; lazily, since drawing one takes milliseconds.
/// Every third patient has two images, so that grouping by patient has something to do.
pub fn series(seed: u64, count: u32, side: u32) -> impl Iterator<Item = Phantom> {
    (0..count).map(move |number| {
        let class = number % 3;
        let within = number / 3;
        // Of four images of a class, the first two share a patient.
        let patient = within / 4 * 3 + (within % 4).saturating_sub(1);
        let appearance = Appearance::ALL[class as usize];
        let label = appearance.class();
        Phantom {
            file_name: format!("SYNTHETIC-{label}-{:04}.png", within + 1),
            patient_id: format!("synthetic-{label}-{:04}", patient + 1),
            label,
            image: draw(appearance, seed.wrapping_mul(1_000_003).wrapping_add(number.into()), side),
        }
    })
}

/// Draws one phantom of `side` x `side` pixels; the same for the same arguments. Phantoms of one seed share their
/// anatomy and noise whatever their class.
pub fn draw(appearance: Appearance, seed: u64, side: u32) -> GreyImage {
    let stream = |number| {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(number);
        random
    };
    let anatomy = Anatomy::vary(&mut stream(0));
    let opacities = finding::opacities(appearance, &anatomy, &mut stream(1));
    let mut noise = stream(2);
    let pixel = |index: u32| {
        let to_unit = |at: u32| (at as f32 + 0.5) / side as f32 * 2.0 - 1.0;
        let (x, y) = anatomy.place(to_unit(index % side), to_unit(index / side));
        let finding = finding::density(&opacities, x, y) * anatomy.lung(x, y);
        anatomy.expose(anatomy.density(x, y) + finding, grain(&mut noise))
    };
    GreyImage { width: side, height: side, pixels: (0..side * side).map(pixel).collect() }
}

/// About normal, mean 0, standard deviation 1.
fn grain(random: &mut ChaCha8Rng) -> f32 {
    (0..3).map(|_| random.random_range(-1.0..1.0_f32)).sum()
}

#[cfg(test)]
mod tests;
