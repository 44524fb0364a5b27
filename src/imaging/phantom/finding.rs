//! Pathological findings of a phantom.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::{Appearance, anatomy::Anatomy, anatomy::Ellipse};

/// Soft, mottled opacity.
#[derive(Clone, Copy, Debug)]
pub(super) struct Opacity {
    outline: Ellipse,
    density: f32,
    mottle: f32,
}

/// Random opacities of an appearance in the lungs of `anatomy`.
pub(super) fn opacities(appearance: Appearance, anatomy: &Anatomy, random: &mut ChaCha8Rng) -> Vec<Opacity> {
    match appearance {
        Appearance::Normal => Vec::new(),
        Appearance::Pneumonia => {
            let lung = &anatomy.lungs[random.random_range(0..2)];
            vec![lobar(lung, random)]
        }
        Appearance::Covid19 => anatomy.lungs.iter().flat_map(|lung| patches(lung, random)).collect(),
    }
}

/// Density that the opacities add at a point in patient coordinates: the maximum of their densities.
pub(super) fn density(opacities: &[Opacity], x: f32, y: f32) -> f32 {
    let one = |opacity: &Opacity| {
        let mottle = 1.0 + 0.25 * ((x * 31.0 + opacity.mottle).sin() * (y * 27.0 - opacity.mottle).cos());
        opacity.density * mottle * (-opacity.outline.radius(x, y).powi(4)).exp()
    };
    opacities.iter().map(one).fold(0.0, f32::max)
}

/// A lobar opacity in the upper or lower half of a lung, near its midline.
fn lobar(lung: &Ellipse, random: &mut ChaCha8Rng) -> Opacity {
    let half = if random.random_bool(0.5) { -0.38 } else { 0.28 };
    Opacity {
        outline: Ellipse {
            x: lung.x + random.random_range(-0.06..0.06),
            y: lung.y + lung.half_height * (half + random.random_range(-0.10..0.10)),
            half_width: random.random_range(0.17..0.24),
            half_height: random.random_range(0.15..0.22),
        },
        density: random.random_range(0.20..0.34),
        mottle: random.random_range(0.0..6.0),
    }
}

/// Two to four patches along the lateral edge of a lung, more often in the lower half.
fn patches(lung: &Ellipse, random: &mut ChaCha8Rng) -> Vec<Opacity> {
    let outer = lung.x.signum();
    let count = random.random_range(2..=4);
    let patch = |_| {
        // Angle from the horizontal: 0 is the most lateral point, positive is down.
        let (angle, out) = (random.random_range(-0.9..0.8_f32), random.random_range(0.60..0.80_f32));
        Opacity {
            outline: Ellipse {
                x: lung.x + outer * lung.half_width * out * angle.cos(),
                y: lung.y + lung.half_height * out * angle.sin(),
                half_width: random.random_range(0.06..0.11),
                half_height: random.random_range(0.07..0.13),
            },
            density: random.random_range(0.16..0.30),
            mottle: random.random_range(0.0..6.0),
        }
    };
    (0..count).map(patch).collect()
}
