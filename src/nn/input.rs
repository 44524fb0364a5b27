//! From grey images to network input.

use burn::tensor::{Device, Tensor, TensorData};

use crate::domain::Normalisation;

/// Grey images (each side*side bytes) to network input `[batch, 3, side, side]`, normalised. All three channels get
/// the grey level.
///
/// # Panics
/// If an image has not side*side bytes.
pub fn input_tensor(images: &[&[u8]], side: u32, normalisation: &Normalisation, device: &Device) -> Tensor<4> {
    Tensor::from_data(input_data(images, side, normalisation), device)
}

/// What [`input_tensor`] puts on a device: made without one, so that another thread can make it ahead.
///
/// # Panics
/// If an image has not side*side bytes.
pub fn input_data(images: &[&[u8]], side: u32, normalisation: &Normalisation) -> TensorData {
    let side = side as usize;
    let tables = (0..3).map(|channel| levels(normalisation, channel)).collect::<Vec<_>>();
    let mut values = Vec::with_capacity(images.len() * 3 * side * side);
    for image in images {
        assert_eq!(image.len(), side * side, "an image of {side}x{side} pixels");
        for table in &tables {
            values.extend(image.iter().map(|&grey| table[usize::from(grey)]));
        }
    }
    TensorData::new(values, [images.len(), 3, side, side])
}

/// What each grey level becomes in a channel.
fn levels(normalisation: &Normalisation, channel: usize) -> [f32; 256] {
    let Normalisation { scale, mean, std } = normalisation;
    std::array::from_fn(|grey| (grey as f32 * scale - mean[channel]) / std[channel])
}
