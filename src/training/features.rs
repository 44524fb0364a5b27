//! What a frozen body makes of the images: computed once an image and reused in every epoch of a head step.

use std::time::Instant;

use burn::tensor::{Device, Tensor, TensorData};

use super::{Session, TrainingError, batches::Place, images::Images};
use crate::nn::Network;

/// A row of features for each sample that was asked for, by its index in the job.
pub(super) struct Features {
    rows: Vec<Vec<f32>>,
    width: usize,
}

impl Features {
    /// One pass of `network`'s body in inference mode, on the device without autodiff, over the samples at `indices`.
    pub(super) fn compute(
        session: &mut Session<'_>,
        place: Place,
        network: &Network,
        images: &Images,
        indices: &[usize],
    ) -> Result<Self, TrainingError> {
        let started = Instant::now();
        let size = session.job.plan.batch_size as usize;
        let mut features = Self { rows: vec![Vec::new(); session.job.samples.len()], width: 0 };
        session.begin(Place { epoch: 0, ..place }, indices.len().div_ceil(size))?;
        for batch in indices.chunks(size) {
            session.before_batch()?;
            features.add(batch, network.features(images.input(batch, &session.job.device)));
            session.meter.forward(batch.len(), images.side());
            session.batch_done(batch.len())?;
        }
        session.observer.body_pass(indices.len(), started.elapsed());
        Ok(features)
    }

    fn add(&mut self, batch: &[usize], features: Tensor<2>) {
        self.width = features.dims()[1];
        let values: Vec<f32> = features.into_data().convert::<f32>().try_into_vec().expect("converted to f32");
        for (row, &index) in values.chunks_exact(self.width).zip(batch) {
            self.rows[index] = row.to_vec();
        }
    }

    /// Head input `[batch, features]` of the samples at `indices`.
    pub(super) fn input(&self, indices: &[usize], device: &Device) -> Tensor<2> {
        let values: Vec<f32> = indices.iter().flat_map(|&index| &self.rows[index]).copied().collect();
        Tensor::from_data(TensorData::new(values, [indices.len(), self.width]), device)
    }
}
