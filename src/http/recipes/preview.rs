//! Contact sheet of a recipe's augmentation, applied to a radiograph.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::{
    domain::{Augmentation, TrainingPlan},
    http::ApiError,
    imaging::{self, GreyImage, ImageError, Limits, Transform},
};

/// Images per row.
const COLUMNS: u32 = 4;

/// Grey gap between two images, in pixels: an augmented image can have black borders.
const GAP: u32 = 4;
const GAP_GREY: u8 = 128;

/// Contents of a contact sheet.
pub(super) struct Sheet {
    augmentation: Augmentation,
    /// Side of each image, in pixels.
    side: u32,
    seed: u32,
    /// Number of augmented images, after the original.
    count: u32,
}

impl Sheet {
    /// Images at the size of the last stage; [`ApiError::Unusable`] for a plan without augmentation.
    pub(super) fn new(plan: &TrainingPlan, seed: u32, count: u32) -> Result<Self, ApiError> {
        if plan.augmentation.is_off() {
            return Err(ApiError::Unusable("this recipe has no augmentation to preview".into()));
        }
        let side = plan.stages.last().expect("a recipe has stages").image_size;
        Ok(Self { augmentation: plan.augmentation, side, seed, count })
    }

    /// The contact sheet of an encoded image, as PNG.
    pub(super) fn png(&self, file: &[u8], limits: &Limits) -> Result<Vec<u8>, ImageError> {
        let (_, image) = imaging::decode(file, limits)?;
        let original = imaging::resize_square(&image, self.side).pixels;
        let augmented = (0..self.count).map(|number| self.transform(number).apply(&original, self.side));
        let images: Vec<Vec<u8>> = [original.clone()].into_iter().chain(augmented).collect();
        Ok(imaging::encode_png(&self.arrange(&images)))
    }

    /// Each image has its own generator, so that a longer sheet starts with the same images as a shorter one.
    fn transform(&self, number: u32) -> Transform {
        let mut generator = ChaCha8Rng::seed_from_u64(self.seed.into());
        generator.set_stream(number.into());
        Transform::sample(&self.augmentation, &mut generator)
    }

    fn arrange(&self, images: &[Vec<u8>]) -> GreyImage {
        let count = images.len() as u32;
        let (columns, rows) = (count.min(COLUMNS), count.div_ceil(COLUMNS));
        let step = self.side + GAP;
        let (width, height) = (columns * step - GAP, rows * step - GAP);
        let mut pixels = vec![GAP_GREY; width as usize * height as usize];
        for (number, image) in (0..).zip(images) {
            let (left, top) = (number % COLUMNS * step, number / COLUMNS * step);
            for (y, row) in (top..).zip(image.chunks_exact(self.side as usize)) {
                let start = (y * width + left) as usize;
                pixels[start..start + row.len()].copy_from_slice(row);
            }
        }
        GreyImage { width, height, pixels }
    }
}
