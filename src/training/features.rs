//! What a frozen body makes of the images: computed once an image and reused in every epoch of a head step.

use std::{sync::Arc, time::Instant};

use burn::tensor::{Tensor, TensorData};

use super::{
    Session, TrainingError,
    batches::{self, Place},
    feed::Feed,
    images::Images,
};
use crate::nn::Compiled;

/// A row of features for each sample that was asked for, by its index in the job.
pub(super) struct Features {
    rows: Vec<Vec<f32>>,
    width: usize,
}

impl Features {
    /// One pass of the network's body over the samples at `indices`.
    pub(super) fn compute(
        session: &mut Session<'_>,
        place: Place,
        network: &Compiled,
        images: &Arc<Images>,
        indices: &[usize],
    ) -> Result<Arc<Self>, TrainingError> {
        let started = Instant::now();
        let batches = batches::in_order(indices, session.job.plan.batch_size);
        let mut features = Self { rows: vec![Vec::new(); session.job.samples.len()], width: 0 };
        let mut feed = images.feed(&batches);
        session.begin(Place { epoch: 0, ..place }, batches.len(), 0)?;
        for batch in &batches {
            session.before_batch()?;
            features.add(batch, network.features(&feed.next_input()?.views()));
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

    /// Head input `[batch, features]` of the samples in each of `batches`.
    pub(super) fn feed(self: &Arc<Self>, batches: &[Vec<usize>]) -> Feed<TensorData> {
        let (features, batches) = (Arc::clone(self), batches.to_vec());
        Feed::new(batches.into_iter().map(move |batch| Ok(features.input(&batch))))
    }

    fn input(&self, indices: &[usize]) -> TensorData {
        let mut values = Vec::with_capacity(indices.len() * self.width);
        indices.iter().for_each(|&index| values.extend_from_slice(&self.rows[index]));
        TensorData::new(values, [indices.len(), self.width])
    }
}
