//! Random augmentation of training images.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::plan::must_be;

/// Random augmentation of the training images. Each parameter is drawn uniformly from its range, separately for each image and epoch; 0 or
/// absent switches it off.
///
/// Rotation, translation, zoom and flips are one affine transform about the image centre, resampled bilinearly. Pixels from outside the
/// image are black, like the border of a radiograph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Augmentation {
    /// Maximum rotation in degrees, clockwise or counter-clockwise, 0 to 180. Default: 0.
    #[schema(minimum = 0.0, maximum = 180.0)]
    pub rotation_degrees: f64,
    /// Maximum translation as a fraction of the image side, drawn separately for each axis, 0 to 0.5. Default: 0.
    #[schema(minimum = 0.0, maximum = 0.5)]
    pub translation: f64,
    /// Maximum zoom: the image is scaled by a factor between 1 - zoom and 1 + zoom, 0 to 0.5. Default: 0.
    #[schema(minimum = 0.0, maximum = 0.5)]
    pub zoom: f64,
    /// Maximum change of contrast: distances from middle grey are multiplied by a factor between 1 - contrast and 1 + contrast, 0 to 0.9.
    /// Default: 0.
    #[schema(minimum = 0.0, maximum = 0.9)]
    pub contrast: f64,
    /// Maximum change of brightness as a fraction of white, 0 to 0.5. Default: 0. (Together with `contrast`, fastai's "lighting".)
    #[schema(minimum = 0.0, maximum = 0.5)]
    pub brightness: f64,
    /// Mirrors half of the images (at random) left to right. Default: false. Anatomy is mirrored too: the heart moves to the other side.
    pub horizontal_flip: bool,
    /// Flips half of the images (at random) upside down. Default: false.
    pub vertical_flip: bool,
}

impl Augmentation {
    /// True if no image is changed.
    pub fn is_off(&self) -> bool {
        *self == Self::default()
    }

    /// Invalid fields, each with its accepted range and the value given.
    pub fn validate(&self) -> Vec<(&'static str, String)> {
        let limits = [
            ("rotation_degrees", self.rotation_degrees, 180.0),
            ("translation", self.translation, 0.5),
            ("zoom", self.zoom, 0.5),
            ("contrast", self.contrast, 0.9),
            ("brightness", self.brightness, 0.5),
        ];
        let invalid = limits.into_iter().filter(|(_, value, limit)| !(0.0..=*limit).contains(value));
        invalid.map(|(field, value, limit)| (field, must_be(&format!("between 0 and {limit}"), value))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn augmentation_is_off_unless_a_parameter_is_set() {
        let read = |text: &str| serde_json::from_str::<Augmentation>(text).unwrap();
        assert!(read("{}").is_off());
        assert!(!read(r#"{"zoom": 0.1}"#).is_off() && !read(r#"{"vertical_flip": true}"#).is_off());
    }

    #[test]
    fn fields_out_of_range_are_reported() {
        let wild =
            Augmentation { rotation_degrees: 181.0, translation: -0.1, zoom: f64::NAN, ..Augmentation::default() };
        let fields: Vec<_> = wild.validate().into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, ["rotation_degrees", "translation", "zoom"]);
    }
}
