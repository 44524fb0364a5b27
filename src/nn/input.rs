//! From grey images to network input.

use burn::tensor::{Device, Tensor, TensorData};
use thorax_kernels::ChannelAffine;

use super::Pauses;
use crate::domain::Normalisation;

/// Grey images as networks take them: three channels that hold the same grey level, each normalised in its own way.
///
/// Only the grey level goes to the device. The first layer makes of it what it needs.
#[derive(Clone, Debug)]
pub struct Input {
    /// `[batch, 1, side, side]`, from 0 to 255.
    pub(super) grey: Tensor<4>,
    pub(super) normalisation: Normalisation,
    pub(super) pauses: Option<Pauses>,
}

impl Input {
    /// Grey images, each of side*side bytes.
    ///
    /// # Panics
    /// If an image has not side*side bytes.
    pub fn new(images: &[&[u8]], side: u32, normalisation: &Normalisation, device: &Device) -> Self {
        let side = side as usize;
        let mut values: Vec<f32> = Vec::with_capacity(images.len() * side * side);
        for image in images {
            assert_eq!(image.len(), side * side, "an image of {side}x{side} pixels");
            values.extend(image.iter().map(|&grey| f32::from(grey)));
        }
        let grey = Tensor::from_data(TensorData::new(values, [images.len(), 1, side, side]), device);
        Self { grey, normalisation: normalisation.clone(), pauses: None }
    }

    /// For a pass that begins now and may pause, if there are pauses.
    pub fn pausing(self, pauses: Option<&Pauses>) -> Self {
        if let Some(pauses) = pauses {
            pauses.begin();
        }
        Self { pauses: pauses.cloned(), ..self }
    }

    /// What a layer gives, at a point at which the pass may pause.
    pub(super) fn pause<const D: usize>(&self, tensor: Tensor<D>) -> Tensor<D> {
        match &self.pauses {
            Some(pauses) => pauses.at(tensor),
            None => tensor,
        }
    }

    /// Where it is.
    pub(super) fn device(&self) -> Device {
        self.grey.device()
    }

    /// The channels, `[batch, 3, side, side]`, normalised.
    pub(super) fn channels(&self) -> Tensor<4> {
        let Normalisation { scale, mean, std } = &self.normalisation;
        (self.grey.clone().mul_scalar(*scale) - self.by_channel(mean)) / self.by_channel(std)
    }

    /// What a convolution with folded weights takes in place of the channels, `[batch, 2, side, side]`: the grey level, and one wherever
    /// there is an image at all.
    pub(super) fn planes(&self) -> Tensor<4> {
        Tensor::cat(vec![self.grey.clone(), self.grey.ones_like()], 1)
    }

    /// Weights `[outputs, 3, kernel, kernel]` for the channels as weights `[outputs, 2, kernel, kernel]` for the planes, which give the same.
    pub(super) fn folded(&self, weights: Tensor<4>) -> Tensor<4> {
        let ChannelAffine { scale, shift } = channels(&self.normalisation);
        let [scale, shift] = [scale, shift].map(|factors| (weights.clone() * self.by_channel(&factors)).sum_dim(1));
        Tensor::cat(vec![scale, shift], 1)
    }

    fn by_channel(&self, values: &[f32]) -> Tensor<4> {
        Tensor::from_data(TensorData::new(values.to_vec(), [1, values.len(), 1, 1]), &self.device())
    }
}

/// The normalisation as a factor and a summand for each channel.
pub(super) fn channels(normalisation: &Normalisation) -> ChannelAffine {
    let Normalisation { scale, mean, std } = normalisation;
    ChannelAffine {
        scale: std.iter().map(|std| scale / std).collect(),
        shift: mean.iter().zip(std).map(|(mean, std)| -mean / std).collect(),
    }
}
