//! The images of a stage: decoded and resized once for each set of images and side, kept in a file, and read from there a batch
//! ahead.

use std::{io::ErrorKind, sync::Arc, time::Instant};

use super::{
    CacheOrigin, ImageCache, Sample, Session, TrainingError, TrainingJob,
    augment::Changes,
    decode,
    feed::Feed,
    grey_file::{Contents, GreyError, GreyFile},
};
use crate::{domain::Sha256, imaging::PREPROCESSING};

/// How many images are checked between two questions whether to stop: a few milliseconds' worth.
const CHECKED_AT_ONCE: usize = 256;

/// The images of a job at one side.
pub(super) struct Images {
    file: GreyFile,
    /// Where in the file each sample of the job is.
    slots: Vec<usize>,
}

impl Images {
    /// Opens the file of the job's images at `side` and checks all of it. Where there is none, or one that is damaged, it is made.
    pub(super) fn open(session: &mut Session<'_>, side: u32) -> Result<Arc<Self>, TrainingError> {
        let started = Instant::now();
        let (job, order) = (session.job, order(&session.job.samples));
        let contents = Contents { side, images: order.len(), fingerprint: fingerprint(job, &order) };
        let (file, origin) = match open(session, &contents)? {
            Ok(file) => (file, CacheOrigin::Reused),
            Err(damage) => (decode::into_file(session, contents, &order)?, CacheOrigin::Made { damage }),
        };
        let (images, bytes) = (order.len(), file.contents().bytes());
        session.observer.image_cache(&ImageCache { side, images, bytes, origin, time: started.elapsed() });
        let slots = job.samples.iter().map(|sample| slot(job, &order, &sample.key)).collect();
        Ok(Arc::new(Self { file, slots }))
    }

    /// Input side in pixels.
    pub(super) fn side(&self) -> u32 {
        self.file.contents().side
    }

    /// The squares of the samples in each of `batches`.
    pub(super) fn feed(self: &Arc<Self>, batches: &[Vec<usize>]) -> Feed<Squares> {
        let (images, batches) = (Arc::clone(self), batches.to_vec());
        Feed::new(batches.into_iter().map(move |batch| images.squares(&batch)))
    }

    /// As [`Images::feed`], with the changes of an epoch of which these are the batches.
    pub(super) fn changed_feed(
        self: &Arc<Self>,
        changes: Changes,
        first: usize,
        batches: &[Vec<usize>],
    ) -> Feed<Squares> {
        let (images, side, batches) = (Arc::clone(self), self.side(), batches.to_vec());
        let changed = move |(number, batch): (usize, Vec<usize>)| {
            Ok(Squares(changes.applied(number, images.squares(&batch)?.0, side)))
        };
        Feed::new((first..).zip(batches).map(changed))
    }

    /// Reads and checks.
    fn squares(&self, batch: &[usize]) -> Result<Squares, TrainingError> {
        // All of it was read and right when the stage began.
        let failed = |error: GreyError| {
            let problem = format!("{error}: it was changed or its disk fails; the next run makes it anew");
            TrainingError::Cache { path: self.file.path().to_owned(), problem }
        };
        let read = |&sample: &usize| self.file.read(self.slots[sample]).map_err(failed);
        Ok(Squares(batch.iter().map(read).collect::<Result<_, _>>()?))
    }
}

/// The images of a batch as grey squares.
pub(super) struct Squares(Vec<Vec<u8>>);

impl Squares {
    /// As networks take them.
    pub(super) fn views(&self) -> Vec<&[u8]> {
        self.0.iter().map(Vec::as_slice).collect()
    }
}

/// The samples to decode, by key, each image once: an order that neither labels and splits nor a seed can change.
fn order(samples: &[Sample]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..samples.len()).collect();
    order.sort_by_key(|&sample| &samples[sample].key);
    order.dedup_by_key(|sample| &samples[*sample].key);
    order
}

fn slot(job: &TrainingJob, order: &[usize], key: &str) -> usize {
    order.binary_search_by_key(&key, |&sample| &job.samples[sample].key).expect("every sample's key is in the order")
}

/// Of what the pixels come from: the images' keys, and the version of decoding and resizing. Not of the side, so that the files of one
/// set of images are known by it at every side.
fn fingerprint(job: &TrainingJob, order: &[usize]) -> String {
    let mut told = PREPROCESSING.to_le_bytes().to_vec();
    for &sample in order {
        let key = &job.samples[sample].key;
        told.extend((key.len() as u64).to_le_bytes());
        told.extend(key.bytes());
    }
    Sha256::of(&told).into()
}

/// The file, every square of it checked; the inner error says that it has to be made, and why if it was there.
fn open(session: &mut Session<'_>, contents: &Contents) -> Result<Result<GreyFile, Option<String>>, TrainingError> {
    let path = contents.path(&session.job.cache);
    let failed = |error: GreyError| match error {
        GreyError::Damaged(how) => Ok(Err(Some(how))),
        GreyError::Io(error) if error.kind() == ErrorKind::NotFound => Ok(Err(None)),
        GreyError::Io(error) => {
            let problem = format!("cannot be read: {error}; let the server read it, or remove it to have it made anew");
            Err(TrainingError::Cache { path: path.clone(), problem })
        }
    };
    let file = match GreyFile::open(&session.job.cache, contents.clone()) {
        Ok(file) => file,
        Err(error) => return failed(error),
    };
    for first in (0..contents.images).step_by(CHECKED_AT_ONCE) {
        session.stop_if_asked()?;
        if let Err(error) = file.check(first..contents.images.min(first + CHECKED_AT_ONCE)) {
            return failed(error);
        }
    }
    Ok(Ok(file))
}
