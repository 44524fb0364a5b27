//! Decodes and resizes a job's images into a file.

use std::{
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use super::{
    Sample, Session, TrainingError, TrainingJob,
    grey_file::{Contents, Draft, GreyFile},
};
use crate::imaging::{self, Limits};

/// Makes the file of `contents`; `order` has the sample of each slot. Nothing is left of it when that is stopped or fails.
pub(super) fn into_file(
    session: &mut Session<'_>,
    contents: Contents,
    order: &[usize],
) -> Result<GreyFile, TrainingError> {
    let folder = &session.job.cache;
    let (side, path, bytes) = (contents.side, contents.path(folder), contents.bytes());
    let unwritable = |error: std::io::Error| TrainingError::Cache {
        path: path.clone(),
        problem: format!("cannot be written: {error}; make room for {bytes} bytes, or let the server write there"),
    };
    let draft = Draft::begin(folder, contents).map_err(unwritable)?;
    decode_all(session, order, side, |slot, square| draft.put(slot, square).map_err(unwritable))?;
    draft.finish().map_err(unwritable)
}

/// Decodes on all cores and gives `keep` each square with its slot; asks between images whether to stop.
fn decode_all(
    session: &mut Session<'_>,
    order: &[usize],
    side: u32,
    keep: impl Fn(usize, &[u8]) -> Result<(), TrainingError>,
) -> Result<(), TrainingError> {
    let job = session.job;
    let next = AtomicUsize::new(0);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        // Bounded, so that loaders do not run ahead of a stop; when the receiver goes, they end.
        let (sender, receiver) = mpsc::sync_channel(threads);
        for _ in 0..threads {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || decode_each(job, order, side, next, &sender));
        }
        drop(sender);
        for (slot, square) in receiver {
            session.stop_if_asked()?;
            keep(slot, &square?)?;
        }
        Ok(())
    })
}

type Decoded = (usize, Result<Vec<u8>, TrainingError>);

/// Takes the next undecoded image until there is none left or nobody listens any more.
fn decode_each(job: &TrainingJob, order: &[usize], side: u32, next: &AtomicUsize, sender: &mpsc::SyncSender<Decoded>) {
    loop {
        let slot = next.fetch_add(1, Ordering::Relaxed);
        let Some(&sample) = order.get(slot) else { return };
        if sender.send((slot, decode(job, &job.samples[sample], side))).is_err() {
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
