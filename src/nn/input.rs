//! From grey images to network input.

use burn::tensor::{Device, Tensor, TensorData};

use crate::domain::Normalisation;

/// Grey images (each side*side bytes) to network input `[batch, 3, side, side]`, normalised. All three channels get
/// the grey level.
///
/// # Panics
/// If an image has not side*side bytes.
pub fn input_tensor(images: &[&[u8]], side: u32, normalisation: &Normalisation, device: &Device) -> Tensor<4> {
    let side = side as usize;
    let tables = (0..3).map(|channel| levels(normalisation, channel)).collect::<Vec<_>>();
    let mut values = Vec::with_capacity(images.len() * 3 * side * side);
    for image in images {
        assert_eq!(image.len(), side * side, "an image of {side}x{side} pixels");
        for table in &tables {
            values.extend(image.iter().map(|&grey| table[usize::from(grey)]));
        }
    }
    Tensor::from_data(TensorData::new(values, [images.len(), 3, side, side]), device)
}

/// What each grey level becomes in a channel.
fn levels(normalisation: &Normalisation, channel: usize) -> [f32; 256] {
    let Normalisation { scale, mean, std } = normalisation;
    std::array::from_fn(|grey| (grey as f32 * scale - mean[channel]) / std[channel])
}
