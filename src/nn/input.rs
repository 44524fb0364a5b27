//! Network input from greyscale images.

use burn::tensor::{Device, Tensor, TensorData};
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
        let mut values: Vec<f32> = Vec::with_capacity(images.len() * side * side);
        for image in images {
            assert_eq!(image.len(), side * side, "the image has {side}x{side} pixels");
            values.extend(image.iter().map(|&grey| f32::from(grey)));
        }
        let grey = Tensor::from_data(TensorData::new(values, [images.len(), 1, side, side]), device);
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

/// The normalisation as a scale and a shift for each channel.
pub(super) fn channels(normalisation: &Normalisation) -> ChannelAffine {
    let Normalisation { scale, mean, std } = normalisation;
    ChannelAffine {
        scale: std.iter().map(|std| scale / std).collect(),
        shift: mean.iter().zip(std).map(|(mean, std)| -mean / std).collect(),
    }
}
