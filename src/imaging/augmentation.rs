//! Random changes of a training image: one bilinear resampling about its centre, and other lighting.

use rand::Rng;

use crate::domain::Augmentation;

/// White, the largest grey level.
const WHITE: f32 = 255.0;

/// One change, drawn from the ranges of an [`Augmentation`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transform {
    /// Clockwise, in radians.
    angle: f64,
    /// To the right and down, in shares of the side.
    moved: [f64; 2],
    /// Above 1 enlarges.
    scale: f64,
    /// Factor on the distance from middle grey.
    contrast: f64,
    /// Added, in shares of white.
    brightness: f64,
    /// Left to right, upside down.
    flipped: [bool; 2],
}

impl Transform {
    /// Draws evenly from each range, as often for one that is 0: a range more or less leaves the others' draws as they are.
    pub fn sample(ranges: &Augmentation, generator: &mut impl Rng) -> Self {
        let mut within = |limit: f64| generator.random_range(-limit..=limit);
        let angle = within(ranges.rotation_degrees).to_radians();
        let moved = [within(ranges.translation), within(ranges.translation)];
        let (scale, contrast) = (1.0 + within(ranges.zoom), 1.0 + within(ranges.contrast));
        let brightness = within(ranges.brightness);
        let mut flip = |asked: bool| generator.random_bool(0.5) && asked;
        let flipped = [flip(ranges.horizontal_flip), flip(ranges.vertical_flip)];
        Self { angle, moved, scale, contrast, brightness, flipped }
    }

    /// The grey square of that side, changed. Outside of it is black.
    ///
    /// # Panics
    /// If the square has not `side * side` bytes.
    pub fn apply(&self, square: &[u8], side: u32) -> Vec<u8> {
        assert_eq!(square.len(), side as usize * side as usize, "an image of {side}x{side} pixels");
        let source = self.source(side);
        let light = self.light();
        let place = |y: u32| (0..side).map(move |x| (x as f32, y as f32));
        (0..side).flat_map(place).map(|to| light(bilinear(square, side as i32, source(to)))).collect()
    }

    /// Where in the image a pixel of the changed one comes from.
    fn source(&self, side: u32) -> impl Fn((f32, f32)) -> (f32, f32) {
        let centre = (side as f32 - 1.0) / 2.0;
        let (sine, cosine) = self.angle.sin_cos();
        let (along, aside) = ((cosine / self.scale) as f32, (sine / self.scale) as f32);
        let moved = self.moved.map(|share| (share * f64::from(side)) as f32);
        let sign = self.flipped.map(|flipped| if flipped { -1.0 } else { 1.0 });
        move |(x, y)| {
            let (x, y) = (x - centre - moved[0], y - centre - moved[1]);
            (centre + sign[0] * (along * x + aside * y), centre + sign[1] * (along * y - aside * x))
        }
    }

    fn light(&self) -> impl Fn(f32) -> u8 {
        let (contrast, brightness) = (self.contrast as f32, self.brightness as f32 * WHITE);
        let middle = WHITE / 2.0;
        // Rounds; what is below black or above white stays there.
        move |grey| ((grey - middle) * contrast + middle + brightness + 0.5) as u8
    }
}

/// The grey level between four pixels.
fn bilinear(square: &[u8], side: i32, (x, y): (f32, f32)) -> f32 {
    let (left, top) = (below(x), below(y));
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

/// The whole number below, or 1 below it where a negative one is whole: the pixel at the other end of the gap then counts wholly. Unlike
/// `floor` no call, of which there would be two a pixel.
fn below(value: f32) -> i32 {
    value as i32 - i32::from(value < 0.0)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    const SIDE: u32 = 5;
    const NONE: Transform =
        Transform { angle: 0.0, moved: [0.0; 2], scale: 1.0, contrast: 1.0, brightness: 0.0, flipped: [false; 2] };

    /// Every pixel another grey.
    fn square() -> Vec<u8> {
        (0..SIDE * SIDE).map(|i| (10 * i + 3) as u8).collect()
    }

    /// Which pixel of the square comes to each place.
    fn moved_by(change: Transform, from: impl Fn(u32, u32) -> Option<(u32, u32)>) {
        let grey = |(x, y): (u32, u32)| square()[(y * SIDE + x) as usize];
        let expected: Vec<u8> =
            (0..SIDE).flat_map(|y| (0..SIDE).map(move |x| (x, y))).map(|(x, y)| from(x, y).map_or(0, grey)).collect();
        assert_eq!(change.apply(&square(), SIDE), expected, "{change:?}");
    }

    #[test]
    fn flips_turns_and_whole_steps_move_pixels_as_they_are() {
        let last = SIDE - 1;
        moved_by(NONE, |x, y| Some((x, y)));
        moved_by(Transform { flipped: [true, false], ..NONE }, |x, y| Some((last - x, y)));
        moved_by(Transform { flipped: [false, true], ..NONE }, |x, y| Some((x, last - y)));
        moved_by(Transform { angle: std::f64::consts::PI, ..NONE }, |x, y| Some((last - x, last - y)));
        // A quarter clockwise: the lower left corner comes to the upper left.
        moved_by(Transform { angle: std::f64::consts::FRAC_PI_2, ..NONE }, |x, y| Some((y, last - x)));
        moved_by(Transform { moved: [0.2, 0.0], ..NONE }, |x, y| Some((x.checked_sub(1)?, y)));
        moved_by(Transform { moved: [0.0, 0.4], ..NONE }, |x, y| Some((x, y.checked_sub(2)?)));
    }

    #[test]
    fn half_a_pixel_is_the_mean_of_two() {
        let changed = Transform { moved: [0.5 / f64::from(SIDE), 0.0], ..NONE }.apply(&square(), SIDE);
        assert_eq!(changed[..3], [2, 8, 18], "half of black and 3, then the means of 3, 13 and 23");
    }

    #[test]
    fn a_reduced_image_keeps_its_centre_and_has_a_black_border() {
        let changed = Transform { scale: 0.5, ..NONE }.apply(&[200; 25], SIDE);
        assert_eq!((changed[12], changed[0], changed[4]), (200, 0, 0));
    }

    #[test]
    fn contrast_turns_about_middle_grey_and_brightness_adds_until_white() {
        let light = |contrast, brightness, grey| Transform { contrast, brightness, ..NONE }.apply(&[grey], 1)[0];
        assert_eq!([light(0.5, 0.0, 0), light(0.5, 0.0, 255), light(2.0, 0.0, 200)], [64, 191, 255]);
        assert_eq!([light(1.0, 0.2, 100), light(1.0, 0.2, 250), light(1.0, -0.2, 40)], [151, 255, 0]);
    }

    #[test]
    fn draws_stay_in_their_ranges_reach_their_ends_and_depend_on_the_generator_alone() {
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
                [-1.0, 1.0].map(|sign| drawn.iter().map(|change| sign * value(change)).fold(-9.0, f64::max));
            assert!(
                low <= limit + 1e-12 && high <= limit + 1e-12 && low.min(high) > 0.95 * limit,
                "{limit}: {low} {high}"
            );
        };
        reaches(15.0, |change| change.angle.to_degrees());
        reaches(0.1, |change| change.moved[0]);
        reaches(0.2, |change| change.scale - 1.0);
        reaches(0.3, |change| change.contrast - 1.0);
        reaches(0.4, |change| change.brightness);
        let upside_down = drawn.iter().filter(|change| change.flipped[1]).count();
        assert!((450..550).contains(&upside_down), "{upside_down}");
        assert!(drawn.iter().all(|change| !change.flipped[0]));
    }
}
