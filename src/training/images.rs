//! The images of a stage, decoded and resized once and kept as 8-bit grey squares.

use std::{
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use burn::tensor::{Device, Tensor};

use super::{Sample, Session, TrainingError, TrainingJob};
use crate::{
    domain::Normalisation,
    imaging::{self, Limits},
    nn,
};

/// One square for each sample of the job, in its order: `side * side` bytes an image stay in memory.
pub(super) struct Images {
    side: u32,
    normalisation: Normalisation,
    squares: Vec<Vec<u8>>,
}

impl Images {
    /// Decodes on all cores; asks between images whether to stop.
    pub(super) fn load(
        session: &mut Session<'_>,
        side: u32,
        normalisation: Normalisation,
    ) -> Result<Self, TrainingError> {
        let job = session.job;
        let mut squares = vec![Vec::new(); job.samples.len()];
        let next = AtomicUsize::new(0);
        let threads = thread::available_parallelism().map_or(1, usize::from);
        thread::scope(|scope| {
            // Bounded, so that loaders do not run ahead of a stop; when the receiver goes, they end.
            let (sender, receiver) = mpsc::sync_channel(threads);
            for _ in 0..threads {
                let (sender, next) = (sender.clone(), &next);
                scope.spawn(move || decode_each(job, side, next, &sender));
            }
            drop(sender);
            for (index, square) in receiver {
                session.stop_if_asked()?;
                squares[index] = square?;
            }
            Ok(Self { side, normalisation, squares })
        })
    }

    /// Input side in pixels.
    pub(super) fn side(&self) -> u32 {
        self.side
    }

    /// Network input `[batch, 3, side, side]` of the samples at `indices`.
    pub(super) fn input(&self, indices: &[usize], device: &Device) -> Tensor<4> {
        let squares: Vec<&[u8]> = indices.iter().map(|&index| self.squares[index].as_slice()).collect();
        nn::input_tensor(&squares, self.side, &self.normalisation, device)
    }
}

type Decoded = (usize, Result<Vec<u8>, TrainingError>);

/// Takes the next undecoded sample until there is none left or nobody listens any more.
fn decode_each(job: &TrainingJob, side: u32, next: &AtomicUsize, sender: &mpsc::SyncSender<Decoded>) {
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let Some(sample) = job.samples.get(index) else { return };
        if sender.send((index, decode(job, sample, side))).is_err() {
            return;
        }
    }
}

fn decode(job: &TrainingJob, sample: &Sample, side: u32) -> Result<Vec<u8>, TrainingError> {
    let failed = |problem: String| TrainingError::Image { key: sample.key.clone(), problem };
    let bytes = (job.read)(sample).map_err(|error| failed(error.to_string()))?;
    let limits = Limits { max_pixels: job.max_pixels };
    let (_, image) = imaging::decode(&bytes, &limits).map_err(|error| failed(error.to_string()))?;
    Ok(imaging::resize_square(&image, side).pixels)
}
