//! By how much training images may be changed at random.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Ranges of the random changes of training images; each is drawn evenly, and what is 0 or absent changes nothing.
///
/// All of it is one resampling, bilinear, about the image's centre; what lies outside the image is black, as the border of a
/// radiograph is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Augmentation {
    /// Turned by at most so much either way, 0 to 180 degrees.
    #[schema(minimum = 0.0, maximum = 180.0)]
    pub rotation_degrees: f64,
    /// Moved by at most this share of the side, across and down on their own, 0 to 0.5.
    #[schema(minimum = 0.0, maximum = 0.5)]
    pub translation: f64,
    /// Enlarged or reduced by at most this share, 0 to 0.5.
    #[schema(minimum = 0.0, maximum = 0.5)]
    pub zoom: f64,
    /// The distance of each grey level from middle grey grows or shrinks by at most this share, 0 to 0.9.
    #[schema(minimum = 0.0, maximum = 0.9)]
    pub contrast: f64,
    /// Made lighter or darker by at most this share of white, 0 to 0.5 ("lighting", with `contrast`).
    #[schema(minimum = 0.0, maximum = 0.5)]
    pub brightness: f64,
    /// Every second image, on average, left to right. The heart changes its side.
    pub horizontal_flip: bool,
    /// Every second image, on average, upside down.
    pub vertical_flip: bool,
}

impl Augmentation {
    /// Whether no image is ever changed.
    pub fn is_off(&self) -> bool {
        *self == Self::default()
    }

    /// What is wrong with it: each field and what would be right.
    pub fn validate(&self) -> Vec<(&'static str, String)> {
        let limits = [
            ("rotation_degrees", self.rotation_degrees, 180.0),
            ("translation", self.translation, 0.5),
            ("zoom", self.zoom, 0.5),
            ("contrast", self.contrast, 0.9),
            ("brightness", self.brightness, 0.5),
        ];
        let wrong = limits.into_iter().filter(|(_, value, limit)| !(0.0..=*limit).contains(value));
        wrong.map(|(field, _, limit)| (field, format!("must be 0 to {limit}"))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_named_is_off_and_anything_named_is_on() {
        let read = |text: &str| serde_json::from_str::<Augmentation>(text).unwrap();
        assert!(read("{}").is_off());
        assert!(!read(r#"{"zoom": 0.1}"#).is_off() && !read(r#"{"vertical_flip": true}"#).is_off());
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let wild =
            Augmentation { rotation_degrees: 181.0, translation: -0.1, zoom: f64::NAN, ..Augmentation::default() };
        let fields: Vec<_> = wild.validate().into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, ["rotation_degrees", "translation", "zoom"]);
    }
}
