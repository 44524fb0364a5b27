//! The decoded images of a stage. They are decoded and resized once for each set of images and image size, stored in a cache file, and
//! prefetched from there batch by batch.

use std::{io::ErrorKind, sync::Arc, time::Instant};

use super::{
    CacheOrigin, ImageCache, Sample, Session, TrainingError, TrainingJob,
    augmenter::BatchAugmenter,
    batch_loader::BatchLoader,
    cache_file::{CacheFile, CacheFileError, Contents},
    decode,
};
use crate::{domain::Sha256, imaging::PREPROCESSING_VERSION};

/// Images verified between two checks whether to stop: a few milliseconds of work.
const VERIFY_CHUNK: usize = 256;

/// The images of a job at one image size.
pub(super) struct CachedImages {
    file: CacheFile,
    /// Slot in the file of each sample of the job.
    slots: Vec<usize>,
}

impl CachedImages {
    /// Opens the cache file of the job's images at `side` and verifies all of it. Creates the file if it is missing or damaged.
    pub(super) fn open(session: &mut Session<'_>, side: u32) -> Result<Arc<Self>, TrainingError> {
        let started = Instant::now();
        let (job, order) = (session.job, order(&session.job.samples));
        let contents = Contents { side, images: order.len(), fingerprint: fingerprint(job, &order) };
        let (file, origin) = match open(session, &contents)? {
            Ok(file) => (file, CacheOrigin::Reused),
            Err(damage) => (decode::into_file(session, contents, &order)?, CacheOrigin::Created { damage }),
        };
        let (images, bytes) = (order.len(), file.contents().bytes());
        session.observer.image_cache(&ImageCache { side, images, bytes, origin, time: started.elapsed() });
        let slots = job.samples.iter().map(|sample| slot(job, &order, &sample.key)).collect();
        Ok(Arc::new(Self { file, slots }))
    }

    /// Side of the images in pixels.
    pub(super) fn side(&self) -> u32 {
        self.file.contents().side
    }

    /// Loads the images of each of `batches`.
    pub(super) fn loader(self: &Arc<Self>, batches: &[Vec<usize>]) -> BatchLoader<ImageBatch> {
        let (images, batches) = (Arc::clone(self), batches.to_vec());
        BatchLoader::new(batches.into_iter().map(move |batch| images.read(&batch)))
    }

    /// Loads and augments the images of each of `batches`; the first of them is number `first` in its epoch.
    pub(super) fn augmented_loader(
        self: &Arc<Self>,
        augmenter: BatchAugmenter,
        first: usize,
        batches: &[Vec<usize>],
    ) -> BatchLoader<ImageBatch> {
        let (images, side, batches) = (Arc::clone(self), self.side(), batches.to_vec());
        let load = move |(number, batch): (usize, Vec<usize>)| {
            Ok(ImageBatch(augmenter.augment(number, images.read(&batch)?.0, side)))
        };
        BatchLoader::new((first..).zip(batches).map(load))
    }

    /// Reads and verifies the images of a batch.
    fn read(&self, batch: &[usize]) -> Result<ImageBatch, TrainingError> {
        // The whole file was verified when the stage started, so an error here means that it has changed since.
        let failed = |error: CacheFileError| {
            let problem =
                format!("{error}: the file was changed or the disk is failing; the next run creates it again");
            TrainingError::Cache { path: self.file.path().to_owned(), problem }
        };
        let image = |&sample: &usize| self.file.read(self.slots[sample]).map_err(failed);
        Ok(ImageBatch(batch.iter().map(image).collect::<Result<_, _>>()?))
    }
}

/// The greyscale images of a batch.
pub(super) struct ImageBatch(Vec<Vec<u8>>);

impl ImageBatch {
    /// The grey levels of each image, as [`crate::nn::Input`] takes them.
    pub(super) fn views(&self) -> Vec<&[u8]> {
        self.0.iter().map(Vec::as_slice).collect()
    }
}

/// The samples to decode, ordered by key, each image once. The order does not depend on labels, splits or the seed.
fn order(samples: &[Sample]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..samples.len()).collect();
    order.sort_by_key(|&sample| &samples[sample].key);
    order.dedup_by_key(|sample| &samples[*sample].key);
    order
}

fn slot(job: &TrainingJob, order: &[usize], key: &str) -> usize {
    order
        .binary_search_by_key(&key, |&sample| &job.samples[sample].key)
        .expect("the key of every sample is in the order")
}

/// Hash of what determines the pixels: the keys of the images and the version of the preprocessing. It does not cover the image size, so
/// that the files of one set of images share it at all sizes.
fn fingerprint(job: &TrainingJob, order: &[usize]) -> String {
    let mut hashed = PREPROCESSING_VERSION.to_le_bytes().to_vec();
    for &sample in order {
        let key = &job.samples[sample].key;
        hashed.extend((key.len() as u64).to_le_bytes());
        hashed.extend(key.bytes());
    }
    Sha256::of(&hashed).into()
}

/// Opens and verifies the file. The inner error means that it has to be created, with the reason if there is a damaged one.
fn open(session: &mut Session<'_>, contents: &Contents) -> Result<Result<CacheFile, Option<String>>, TrainingError> {
    let path = contents.path(&session.job.cache);
    let failed = |error: CacheFileError| match error {
        CacheFileError::Damaged(problem) => Ok(Err(Some(problem))),
        CacheFileError::Io(error) if error.kind() == ErrorKind::NotFound => Ok(Err(None)),
        CacheFileError::Io(error) => {
            let problem = format!(
                "cannot be read: {error}; grant the server read access, or delete the file so that it is created again"
            );
            Err(TrainingError::Cache { path: path.clone(), problem })
        }
    };
    let file = match CacheFile::open(&session.job.cache, contents.clone()) {
        Ok(file) => file,
        Err(error) => return failed(error),
    };
    for first in (0..contents.images).step_by(VERIFY_CHUNK) {
        session.check_stop()?;
        if let Err(error) = file.check(first..contents.images.min(first + VERIFY_CHUNK)) {
            return failed(error);
        }
    }
    Ok(Ok(file))
}
