//! Network input from greyscale images.

use burn::tensor::{Device, Int, Tensor, TensorData};
use thorax_kernels::ChannelAffine;

use super::Pauses;
use crate::domain::Normalisation;

/// A batch of greyscale images as network input: three channels with the same grey level, each with its own normalisation.
///
/// Only the grey levels are copied to the device; the first layer derives the channels from them.
#[derive(Clone, Debug)]
pub struct Input {
    /// Grey levels `[batch, 1, side, side]`, 0 to 255.
    pub(super) grey: Tensor<4>,
    pub(super) normalisation: Normalisation,
    pub(super) pauses: Option<Pauses>,
}

impl Input {
    /// Copies greyscale images of `side * side` bytes to the device.
    ///
    /// # Panics
    /// If an image does not have `side * side` bytes.
    pub fn new(images: &[&[u8]], side: u32, normalisation: &Normalisation, device: &Device) -> Self {
        let side = side as usize;
        for image in images {
            assert_eq!(image.len(), side * side, "the image has {side}x{side} pixels");
        }
        let levels = if *device == Device::flex() { levels(images, device) } else { unpacked_levels(images, device) };
        let grey = levels.reshape([images.len(), 1, side, side]);
        Self { grey, normalisation: normalisation.clone(), pauses: None }
    }

    /// Starts a pass that pauses at the pause points of `pauses`, if given.
    pub fn pausing(self, pauses: Option<&Pauses>) -> Self {
        if let Some(pauses) = pauses {
            pauses.begin();
        }
        Self { pauses: pauses.cloned(), ..self }
    }

    /// Inserts a pause point after the output of a layer.
    pub(super) fn pause<const D: usize>(&self, tensor: Tensor<D>) -> Tensor<D> {
        match &self.pauses {
            Some(pauses) => pauses.insert(tensor),
            None => tensor,
        }
    }

    /// Device of the input.
    pub(super) fn device(&self) -> Device {
        self.grey.device()
    }

    /// Normalised channels `[batch, 3, side, side]`.
    pub(super) fn channels(&self) -> Tensor<4> {
        let Normalisation { scale, mean, std } = &self.normalisation;
        (self.grey.clone().mul_scalar(*scale) - self.by_channel(mean)) / self.by_channel(std)
    }

    /// Input `[batch, 2, side, side]` of a convolution with folded weights ([`Input::folded`]): the grey levels, and a plane of ones. The ones
    /// distinguish the image from the zero padding.
    pub(super) fn planes(&self) -> Tensor<4> {
        Tensor::cat(vec![self.grey.clone(), self.grey.ones_like()], 1)
    }

    /// Folds the normalisation into the weights of the first convolution: from `[outputs, 3, kernel, kernel]` for [`Input::channels`] to
    /// `[outputs, 2, kernel, kernel]` for [`Input::planes`], with the same output.
    pub(super) fn folded(&self, weights: Tensor<4>) -> Tensor<4> {
        let ChannelAffine { scale, shift } = channels(&self.normalisation);
        let [scale, shift] = [scale, shift].map(|factors| (weights.clone() * self.by_channel(&factors)).sum_dim(1));
        Tensor::cat(vec![scale, shift], 1)
    }

    fn by_channel(&self, values: &[f32]) -> Tensor<4> {
        Tensor::from_data(TensorData::new(values.to_vec(), [1, values.len(), 1, 1]), &self.device())
    }
}

/// The grey levels of all images, converted to f32 on this side.
fn levels(images: &[&[u8]], device: &Device) -> Tensor<1> {
    let values: Vec<f32> = images.iter().copied().flatten().map(|&level| f32::from(level)).collect();
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}

/// The same, converted on the device: a quarter of the bytes cross the bus, four in each number.
fn unpacked_levels(images: &[&[u8]], device: &Device) -> Tensor<1> {
    let mut bytes = images.concat();
    let count = bytes.len();
    bytes.resize(count.next_multiple_of(4), 0);
    let (words, _) = bytes.as_chunks::<4>();
    let words: Vec<i32> = words.iter().map(|word| i32::from_le_bytes(*word)).collect();
    let shape = [words.len()];
    let words = Tensor::<1, Int>::from_data(TensorData::new(words, shape), device);
    let byte = |number| words.clone().bitwise_right_shift_scalar(8 * number).bitwise_and_scalar(0xff);
    let levels: Tensor<2, Int> = Tensor::stack((0..4).map(byte).collect(), 1); // [words, 4]
    levels.flatten::<1>(0, 1).narrow(0, 0, count).float()
}

/// The normalisation as a scale and a shift for each channel.
pub(super) fn channels(normalisation: &Normalisation) -> ChannelAffine {
    let Normalisation { scale, mean, std } = normalisation;
    ChannelAffine {
        scale: std.iter().map(|std| scale / std).collect(),
        shift: mean.iter().zip(std).map(|(mean, std)| -mean / std).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_that_are_unpacked_on_the_device_are_those_of_the_images() {
        for side in [1, 3, 16] {
            let images: Vec<Vec<u8>> =
                (0..3_usize).map(|i| (0..side * side).map(|j| (i * 97 + j * 61) as u8).collect()).collect();
            let images: Vec<&[u8]> = images.iter().map(Vec::as_slice).collect();
            let [expected, found] = [levels, unpacked_levels].map(|of| of(&images, &Device::flex()).into_data());
            assert_eq!(found.try_into_vec::<f32>().unwrap(), expected.try_into_vec::<f32>().unwrap());
        }
    }
}
