//! Decodes and resizes a job's images into a cache file.

use std::{
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use super::{
    Sample, Session, TrainingError, TrainingJob,
    cache_file::{CacheFile, CacheFileWriter, Contents},
};
use crate::imaging::{self, Limits};

/// Creates the cache file of `contents`; `order` holds the sample of each slot. Leaves no file behind if it is stopped or fails.
pub(super) fn into_file(
    session: &mut Session<'_>,
    contents: Contents,
    order: &[usize],
) -> Result<CacheFile, TrainingError> {
    let folder = &session.job.cache;
    let (side, path, bytes) = (contents.side, contents.path(folder), contents.bytes());
    let unwritable = |error: std::io::Error| TrainingError::Cache {
        path: path.clone(),
        problem: format!(
            "cannot be written: {}; free {bytes} bytes of disk space, or grant the server write access",
            // Not the whole message: that of a temporary file has its path.
            error.kind()
        ),
    };
    let writer = CacheFileWriter::create(folder, contents).map_err(unwritable)?;
    decode_all(session, order, side, |slot, image| writer.write(slot, image).map_err(unwritable))?;
    writer.finish().map_err(unwritable)
}

/// Decodes on all cores and passes each image with its slot to `store`. Checks between images whether to stop.
fn decode_all(
    session: &mut Session<'_>,
    order: &[usize],
    side: u32,
    store: impl Fn(usize, &[u8]) -> Result<(), TrainingError>,
) -> Result<(), TrainingError> {
    let job = session.job;
    let next = AtomicUsize::new(0);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        // Bounded, so that few images are decoded after a stop. The threads end when the receiver is dropped.
        let (sender, receiver) = mpsc::sync_channel(threads);
        for _ in 0..threads {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || decode_each(job, order, side, next, &sender));
        }
        drop(sender);
        for (slot, image) in receiver {
            session.check_stop()?;
            store(slot, &image?)?;
        }
        Ok(())
    })
}

type Decoded = (usize, Result<Vec<u8>, TrainingError>);

/// Decodes the next image until there is none left or the receiver is dropped.
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
