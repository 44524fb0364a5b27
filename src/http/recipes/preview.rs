//! A contact sheet of what a recipe's augmentation does to a radiograph.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::{
    domain::{Augmentation, TrainingPlan},
    http::ApiError,
    imaging::{self, GreyImage, ImageError, Limits, Transform},
};

/// Images in a row of the sheet.
const COLUMNS: u32 = 4;

/// Grey pixels between two images: an image is black where it ends.
const GAP: u32 = 4;
const GAP_GREY: u8 = 128;

/// What is on a sheet.
pub(super) struct Sheet {
    augmentation: Augmentation,
    /// Of each image, in pixels.
    side: u32,
    seed: u32,
    /// Changed images, after the original.
    count: u32,
}

impl Sheet {
    /// Of a plan that changes its images, at the size of its last stage.
    pub(super) fn new(plan: &TrainingPlan, seed: u32, count: u32) -> Result<Self, ApiError> {
        if plan.augmentation.is_off() {
            return Err(ApiError::Unusable("this recipe has no augmentation: there is nothing to show".into()));
        }
        let side = plan.stages.last().expect("a recipe has stages").image_size;
        Ok(Self { augmentation: plan.augmentation, side, seed, count })
    }

    /// The sheet of an upload, as PNG.
    pub(super) fn png(&self, upload: &[u8], limits: &Limits) -> Result<Vec<u8>, ImageError> {
        let (_, image) = imaging::decode(upload, limits)?;
        let original = imaging::resize_square(&image, self.side).pixels;
        let changed = (0..self.count).map(|number| self.change(number).apply(&original, self.side));
        let images: Vec<Vec<u8>> = [original.clone()].into_iter().chain(changed).collect();
        Ok(imaging::encode_png(&self.laid_out(&images)))
    }

    /// A generator of its own for each image: a longer sheet begins as a shorter one does.
    fn change(&self, number: u32) -> Transform {
        let mut generator = ChaCha8Rng::seed_from_u64(self.seed.into());
        generator.set_stream(number.into());
        Transform::sample(&self.augmentation, &mut generator)
    }

    fn laid_out(&self, images: &[Vec<u8>]) -> GreyImage {
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
