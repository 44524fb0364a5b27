//! Synthetic chest phantoms for demos and tests. They do not replace real data.
//!
//! A phantom consists of a thorax outline, two lung fields, mediastinum, heart, diaphragm, ribs, clavicles and noise, which vary with the
//! seed. Its class adds a finding: none, one lobar opacity in one lung (pneumonia), or small patchy opacities in the periphery of both lungs
//! (COVID-19).

mod anatomy;
mod finding;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{GreyImage, png};
use anatomy::Anatomy;

/// Appearance of the lungs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appearance {
    /// Clear lungs.
    Normal,
    /// One lobar opacity in one lung.
    Pneumonia,
    /// Patchy peripheral opacities in both lungs.
    Covid19,
}

impl Appearance {
    /// All appearances, in the order of the default classes.
    pub const ALL: [Self; 3] = [Self::Normal, Self::Pneumonia, Self::Covid19];

    /// The corresponding default class.
    pub fn class(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Pneumonia => "pneumonia",
            Self::Covid19 => "COVID-19",
        }
    }
}

/// Image of a series of phantoms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phantom {
    /// File name, which begins with `SYNTHETIC-`.
    pub file_name: String,
    /// Patient id; a patient has one or two images.
    pub patient_id: String,
    /// Class, one of the default classes.
    pub label: &'static str,
    /// Image of `side` x `side` pixels.
    pub image: GreyImage,
}

/// A series of `count` phantoms of `side` x `side` pixels with alternating classes, generated lazily. Every third patient has two images,
/// so that grouping by patient matters.
pub fn series(seed: u64, count: u32, side: u32) -> impl Iterator<Item = Phantom> {
    (0..count).map(move |number| {
        let class = number % 3;
        let within = number / 3;
        // The first two of four images of a class belong to the same patient.
        let patient = within / 4 * 3 + (within % 4).saturating_sub(1);
        let appearance = Appearance::ALL[class as usize];
        let label = appearance.class();
        Phantom {
            file_name: format!("SYNTHETIC-{label}-{:04}.png", within + 1),
            patient_id: format!("synthetic-{label}-{:04}", patient + 1),
            label,
            image: generate(appearance, seed.wrapping_mul(1_000_003).wrapping_add(number.into()), side),
        }
    })
}

/// Generates a phantom of `side` x `side` pixels, deterministically. Phantoms with the same seed share anatomy and noise whatever their
/// appearance.
pub fn generate(appearance: Appearance, seed: u64, side: u32) -> GreyImage {
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
        let (x, y) = anatomy.to_patient(to_unit(index % side), to_unit(index / side));
        let finding = finding::density(&opacities, x, y) * anatomy.lung(x, y);
        anatomy.expose(anatomy.density(x, y) + finding, noise_sample(&mut noise))
    };
    GreyImage { width: side, height: side, pixels: (0..side * side).map(pixel).collect() }
}

/// Encodes a phantom as 8-bit grey PNG with a mark, by which [`examine`](super::examine) recognises it.
pub fn encode_png(image: &GreyImage) -> Vec<u8> {
    png::marked_as_phantom(&super::encode_png(image))
}

/// An approximately normal value with mean 0 and standard deviation 1.
fn noise_sample(random: &mut ChaCha8Rng) -> f32 {
    (0..3).map(|_| random.random_range(-1.0..1.0_f32)).sum()
}

#[cfg(test)]
mod tests;
