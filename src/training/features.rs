//! Features of a frozen body: computed once for each image and reused in every epoch of a head step.

use std::{sync::Arc, time::Instant};

use burn::tensor::{Tensor, TensorData};

use super::{
    Session, TrainingError, batch_loader::BatchLoader, batches, cached_images::CachedImages, position::EpochIndex,
};
use crate::nn::Compiled;

/// A feature vector for each of the requested samples, by their index in the job.
pub(super) struct Features {
    rows: Vec<Vec<f32>>,
    width: usize,
}

impl Features {
    /// Runs the body of the network on the samples at `indices`.
    pub(super) fn compute(
        session: &mut Session<'_>,
        index: EpochIndex,
        network: &Compiled,
        images: &Arc<CachedImages>,
        indices: &[usize],
    ) -> Result<Arc<Self>, TrainingError> {
        let started = Instant::now();
        let batches = batches::sequential(indices, session.job.plan.batch_size);
        let mut features = Self { rows: vec![Vec::new(); session.job.samples.len()], width: 0 };
        let mut loader = images.loader(&batches);
        session.begin_pass(EpochIndex { epoch: 0, ..index }, batches.len(), 0)?;
        for batch in &batches {
            session.before_batch()?;
            features.add(batch, network.features(&loader.next_batch()?.views()));
            session.meter.forward(batch.len(), images.side());
            session.batch_done(batch.len())?;
        }
        session.observer.body_pass(indices.len(), started.elapsed());
        Ok(Arc::new(features))
    }

    fn add(&mut self, batch: &[usize], features: Tensor<2>) {
        self.width = features.dims()[1];
        let values: Vec<f32> = features.into_data().convert::<f32>().try_into_vec().expect("converted to f32");
        for (row, &index) in values.chunks_exact(self.width).zip(batch) {
            self.rows[index] = row.to_vec();
        }
    }

    /// Loads the head input `[batch, features]` of each of `batches`.
    pub(super) fn loader(self: &Arc<Self>, batches: &[Vec<usize>]) -> BatchLoader<TensorData> {
        let (features, batches) = (Arc::clone(self), batches.to_vec());
        BatchLoader::new(batches.into_iter().map(move |batch| Ok(features.input(&batch))))
    }

    fn input(&self, indices: &[usize]) -> TensorData {
        let mut values = Vec::with_capacity(indices.len() * self.width);
        indices.iter().for_each(|&index| values.extend_from_slice(&self.rows[index]));
        TensorData::new(values, [indices.len(), self.width])
    }
}
