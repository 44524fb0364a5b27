//! Healthy anatomy of a phantom. Coordinates range from -1 (left, top) to 1 (right, bottom); densities range from 0 (air, black) to about 1
//! (bone over soft tissue, white).

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Ellipse with centre and half axes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ellipse {
    pub(super) x: f32,
    pub(super) y: f32,
    pub(super) half_width: f32,
    pub(super) half_height: f32,
}

/// Anatomy and exposure of a patient.
#[derive(Clone, Debug)]
pub(super) struct Anatomy {
    /// Right lung (on the left of the image) and left lung.
    pub(super) lungs: [Ellipse; 2],
    heart: Ellipse,
    zoom: f32,
    shift: (f32, f32),
    tilt: f32,
    rib_spacing: f32,
    rib_phase: f32,
    rib_density: f32,
    lung_density: f32,
    brightness: f32,
    contrast: f32,
    noise: f32,
}

impl Ellipse {
    /// Normalised distance from the centre; 1 on the outline.
    pub(super) fn radius(&self, x: f32, y: f32) -> f32 {
        ((x - self.x) / self.half_width).hypot((y - self.y) / self.half_height)
    }
}

impl Anatomy {
    /// A random anatomy.
    pub(super) fn vary(random: &mut ChaCha8Rng) -> Self {
        let mut about = |middle: f32, spread: f32| middle + random.random_range(-spread..spread);
        let (half_width, half_height, top) = (about(0.30, 0.03), about(0.58, 0.05), about(-0.12, 0.04));
        let lung = |x| Ellipse { x, y: top, half_width, half_height };
        Self {
            lungs: [lung(-0.41), lung(0.42)],
            heart: Ellipse {
                x: about(0.13, 0.03),
                y: about(0.26, 0.04),
                half_width: about(0.27, 0.04),
                half_height: 0.25,
            },
            zoom: about(1.0, 0.09),
            shift: (about(0.0, 0.07), about(0.0, 0.07)),
            tilt: about(0.0, 0.07),
            rib_spacing: about(0.165, 0.015),
            rib_phase: about(0.0, 0.08),
            rib_density: about(0.10, 0.03),
            lung_density: about(0.26, 0.05),
            brightness: about(0.0, 0.07),
            contrast: about(1.0, 0.14),
            noise: about(0.03, 0.012),
        }
    }

    /// Maps image coordinates to patient coordinates.
    pub(super) fn to_patient(&self, x: f32, y: f32) -> (f32, f32) {
        let (x, y) = ((x - self.shift.0) * self.zoom, (y - self.shift.1) * self.zoom);
        let (sin, cos) = self.tilt.sin_cos();
        (x * cos - y * sin, x * sin + y * cos)
    }

    /// Lung fraction of a point, 0 to 1: inside a lung field and not behind heart or diaphragm.
    pub(super) fn lung(&self, x: f32, y: f32) -> f32 {
        let field = self.lungs.iter().map(|lung| inside(lung.radius(x, y), 0.08)).fold(0.0, f32::max);
        let above_diaphragm = self.lungs.iter().map(|lung| {
            let dome = lung.y + 0.72 * lung.half_height + 0.9 * (x - lung.x).powi(2);
            falling((y - dome) / 0.03) * falling(((x - lung.x).abs() - 0.45) / 0.03)
        });
        let beside_heart = 1.0 - 0.85 * inside(self.heart.radius(x, y), 0.12);
        field * above_diaphragm.fold(0.0, f32::max) * beside_heart
    }

    /// Density of the healthy chest at a point.
    pub(super) fn density(&self, x: f32, y: f32) -> f32 {
        let body = falling(((x / 0.92).powi(4) + ((y - 0.35) / 1.45).powi(4) - 1.0) / 0.12);
        let spine = 0.14 * (-(x / 0.10).powi(2)).exp();
        let heart = 0.10 * inside(self.heart.radius(x, y), 0.10);
        let lung = self.lung(x, y);
        let tissue = 0.62 + spine + heart - lung * (0.62 - self.lung_density);
        body * (tissue + self.ribs(x, y) + self.hilum(x, y) * lung + clavicles(x, y))
    }

    /// Converts density to an 8-bit grey level, with exposure and noise.
    pub(super) fn expose(&self, density: f32, noise: f32) -> u8 {
        let value = (density - 0.4) * self.contrast + 0.4 + self.brightness + self.noise * noise;
        (value.clamp(0.0, 1.0) * 255.0).round() as u8
    }

    /// Ribs: arcs over the lung fields that slope down laterally.
    fn ribs(&self, x: f32, y: f32) -> f32 {
        let cage = inside((x / 0.80).hypot((y + 0.10) / 0.78), 0.08);
        let phase = (y - 0.55 * x.abs() + 0.35 * x * x + self.rib_phase) / self.rib_spacing;
        let arc = (phase * std::f32::consts::TAU).cos().max(0.0).powi(3);
        self.rib_density * cage * arc * (x.abs() / 0.25).min(1.0)
    }

    /// Hilar vessels at the root of each lung, which a network must not mistake for a finding.
    fn hilum(&self, x: f32, y: f32) -> f32 {
        let root = |lung: &Ellipse| {
            let centre = lung.x * 0.55;
            (-((x - centre) / 0.09).powi(2) - ((y - lung.y - 0.05) / 0.16).powi(2)).exp()
        };
        0.14 * self.lungs.iter().map(root).sum::<f32>()
    }
}

fn clavicles(x: f32, y: f32) -> f32 {
    let line = -0.62 - 0.22 * (x.abs() - 0.1);
    0.12 * (-((y - line) / 0.03).powi(2)).exp() * falling((x.abs() - 0.65) / 0.03)
}

/// Soft step: 1 inside radius 1, 0 outside, with an edge of width `softness`.
fn inside(radius: f32, softness: f32) -> f32 {
    falling((radius - 1.0) / softness)
}

/// Falling sigmoid: 1 for very negative and 0 for very positive values.
fn falling(value: f32) -> f32 {
    0.5 - 0.5 * value.tanh()
}
