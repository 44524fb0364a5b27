//! Random augmentation of a training image: an affine transform about its centre with bilinear resampling, then contrast and brightness.

use rand::Rng;

use crate::domain::Augmentation;

/// White, the largest grey level.
const WHITE: f32 = 255.0;

/// Transform of one image, with parameters drawn from the ranges of an [`Augmentation`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transform {
    /// Rotation in radians, clockwise.
    angle: f64,
    /// Translation to the right and down, as fractions of the side.
    translation: [f64; 2],
    /// Scale; above 1 enlarges.
    scale: f64,
    /// Factor of the distance from middle grey.
    contrast: f64,
    /// Brightness offset, as a fraction of white.
    brightness: f64,
    /// Horizontal and vertical flip.
    flip: [bool; 2],
}

impl Transform {
    /// Draws each parameter uniformly from its range. Parameters whose range is 0 consume random numbers too, so that enabling one does not
    /// change the values of the others.
    pub fn sample(ranges: &Augmentation, generator: &mut impl Rng) -> Self {
        let mut within = |limit: f64| generator.random_range(-limit..=limit);
        let angle = within(ranges.rotation_degrees).to_radians();
        let translation = [within(ranges.translation), within(ranges.translation)];
        let (scale, contrast) = (1.0 + within(ranges.zoom), 1.0 + within(ranges.contrast));
        let brightness = within(ranges.brightness);
        let mut coin = |enabled: bool| generator.random_bool(0.5) && enabled;
        let flip = [coin(ranges.horizontal_flip), coin(ranges.vertical_flip)];
        Self { angle, translation, scale, contrast, brightness, flip }
    }

    /// The transformed image, a square of `side` x `side` pixels. Pixels from outside the image are black.
    ///
    /// # Panics
    /// If the number of bytes is not `side * side`.
    pub fn apply(&self, square: &[u8], side: u32) -> Vec<u8> {
        assert_eq!(square.len(), side as usize * side as usize, "the image must have {side} x {side} pixels");
        let source = self.source(side);
        let intensity = self.intensity();
        let row = |y: u32| (0..side).map(move |x| (x as f32, y as f32));
        (0..side).flat_map(row).map(|to| intensity(bilinear(square, side as i32, source(to)))).collect()
    }

    /// Inverse mapping: the source position of a pixel of the result.
    fn source(&self, side: u32) -> impl Fn((f32, f32)) -> (f32, f32) {
        let centre = (side as f32 - 1.0) / 2.0;
        let (sine, cosine) = self.angle.sin_cos();
        let (cos, sin) = ((cosine / self.scale) as f32, (sine / self.scale) as f32);
        let translation = self.translation.map(|fraction| (fraction * f64::from(side)) as f32);
        let sign = self.flip.map(|flip| if flip { -1.0 } else { 1.0 });
        move |(x, y)| {
            let (x, y) = (x - centre - translation[0], y - centre - translation[1]);
            (centre + sign[0] * (cos * x + sin * y), centre + sign[1] * (cos * y - sin * x))
        }
    }

    /// The contrast and brightness of a grey level.
    fn intensity(&self) -> impl Fn(f32) -> u8 {
        let (contrast, brightness) = (self.contrast as f32, self.brightness as f32 * WHITE);
        let middle = WHITE / 2.0;
        // Rounds; the cast saturates at black and white.
        move |grey| ((grey - middle) * contrast + middle + brightness + 0.5) as u8
    }
}

/// Bilinear interpolation; pixels outside the image are black.
fn bilinear(square: &[u8], side: i32, (x, y): (f32, f32)) -> f32 {
    let (left, top) = (floor(x), floor(y));
    let (across, down) = (x - left as f32, y - top as f32);
    let row = |y: i32| {
        let grey = |x: i32| {
            let inside = (0..side).contains(&x) && (0..side).contains(&y);
            if inside { f32::from(square[(y * side + x) as usize]) } else { 0.0 }
        };
        grey(left) + across * (grey(left + 1) - grey(left))
    };
    row(top) + down * (row(top + 1) - row(top))
}

/// The floor of `value`, or one less for a negative whole number; the neighbouring pixel then has the full weight, so that the
/// interpolated value is the same. Unlike `f32::floor`, it compiles to no function call, of which there would be two per pixel.
fn floor(value: f32) -> i32 {
    value as i32 - i32::from(value < 0.0)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    const SIDE: u32 = 5;
    const IDENTITY: Transform =
        Transform { angle: 0.0, translation: [0.0; 2], scale: 1.0, contrast: 1.0, brightness: 0.0, flip: [false; 2] };

    /// An image with a different grey level in each pixel.
    fn image() -> Vec<u8> {
        (0..SIDE * SIDE).map(|i| (10 * i + 3) as u8).collect()
    }

    /// Asserts that pixel (x, y) of the result is pixel `from(x, y)` of the image, or black.
    fn assert_moves(transform: Transform, from: impl Fn(u32, u32) -> Option<(u32, u32)>) {
        let grey = |(x, y): (u32, u32)| image()[(y * SIDE + x) as usize];
        let expected: Vec<u8> =
            (0..SIDE).flat_map(|y| (0..SIDE).map(move |x| (x, y))).map(|(x, y)| from(x, y).map_or(0, grey)).collect();
        assert_eq!(transform.apply(&image(), SIDE), expected, "{transform:?}");
    }

    #[test]
    fn flips_right_angles_and_whole_pixel_translations_move_pixels_unchanged() {
        let last = SIDE - 1;
        assert_moves(IDENTITY, |x, y| Some((x, y)));
        assert_moves(Transform { flip: [true, false], ..IDENTITY }, |x, y| Some((last - x, y)));
        assert_moves(Transform { flip: [false, true], ..IDENTITY }, |x, y| Some((x, last - y)));
        assert_moves(Transform { angle: std::f64::consts::PI, ..IDENTITY }, |x, y| Some((last - x, last - y)));
        // A quarter turn clockwise moves the lower left corner to the upper left.
        assert_moves(Transform { angle: std::f64::consts::FRAC_PI_2, ..IDENTITY }, |x, y| Some((y, last - x)));
        assert_moves(Transform { translation: [0.2, 0.0], ..IDENTITY }, |x, y| Some((x.checked_sub(1)?, y)));
        assert_moves(Transform { translation: [0.0, 0.4], ..IDENTITY }, |x, y| Some((x, y.checked_sub(2)?)));
    }

    #[test]
    fn a_translation_by_half_a_pixel_averages_two_pixels() {
        let changed = Transform { translation: [0.5 / f64::from(SIDE), 0.0], ..IDENTITY }.apply(&image(), SIDE);
        assert_eq!(changed[..3], [2, 8, 18], "half of black and 3, then the means of 3, 13 and 23");
    }

    #[test]
    fn a_reduced_image_keeps_its_centre_and_has_a_black_border() {
        let changed = Transform { scale: 0.5, ..IDENTITY }.apply(&[200; 25], SIDE);
        assert_eq!((changed[12], changed[0], changed[4]), (200, 0, 0));
    }

    #[test]
    fn contrast_is_relative_to_middle_grey_and_brightness_saturates() {
        let light = |contrast, brightness, grey| Transform { contrast, brightness, ..IDENTITY }.apply(&[grey], 1)[0];
        assert_eq!([light(0.5, 0.0, 0), light(0.5, 0.0, 255), light(2.0, 0.0, 200)], [64, 191, 255]);
        assert_eq!([light(1.0, 0.2, 100), light(1.0, 0.2, 250), light(1.0, -0.2, 40)], [151, 255, 0]);
    }

    #[test]
    fn parameters_cover_their_ranges_and_depend_only_on_the_generator() {
        let ranges = Augmentation {
            rotation_degrees: 15.0,
            translation: 0.1,
            zoom: 0.2,
            contrast: 0.3,
            brightness: 0.4,
            vertical_flip: true,
            ..Augmentation::default()
        };
        let draws = || {
            let mut generator = ChaCha8Rng::seed_from_u64(1);
            (0..1000).map(|_| Transform::sample(&ranges, &mut generator)).collect::<Vec<_>>()
        };
        let drawn = draws();
        assert_eq!(drawn, draws());
        let reaches = |limit: f64, value: fn(&Transform) -> f64| {
            let [low, high] =
                [-1.0, 1.0].map(|sign| drawn.iter().map(|transform| sign * value(transform)).fold(-9.0, f64::max));
            assert!(
                low <= limit + 1e-12 && high <= limit + 1e-12 && low.min(high) > 0.95 * limit,
                "{limit}: {low} {high}"
            );
        };
        reaches(15.0, |transform| transform.angle.to_degrees());
        reaches(0.1, |transform| transform.translation[0]);
        reaches(0.2, |transform| transform.scale - 1.0);
        reaches(0.3, |transform| transform.contrast - 1.0);
        reaches(0.4, |transform| transform.brightness);
        let upside_down = drawn.iter().filter(|transform| transform.flip[1]).count();
        assert!((450..550).contains(&upside_down), "{upside_down}");
        assert!(drawn.iter().all(|transform| !transform.flip[0]));
    }
}
