//! Loads batches for the training thread: prefetches them on a thread of its own and measures how long training waited for data.

use std::{
    panic::resume_unwind,
    sync::mpsc::{self, Receiver},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::TrainingError;

/// Loads the inputs of a list of batches, in order, ahead on another thread.
pub(super) struct BatchLoader<I> {
    inputs: Prefetcher<Result<I, TrainingError>>,
    waited: Duration,
}

impl<I: Send + 'static> BatchLoader<I> {
    /// `inputs` yields one item for each batch.
    pub(super) fn new(inputs: impl Iterator<Item = Result<I, TrainingError>> + Send + 'static) -> Self {
        Self { inputs: Prefetcher::new(inputs), waited: Duration::ZERO }
    }

    /// The input of the next batch.
    ///
    /// # Panics
    /// If there are no more batches.
    pub(super) fn next_batch(&mut self) -> Result<I, TrainingError> {
        let started = Instant::now();
        let input = self.inputs.next().expect("the caller requests as many batches as there are");
        self.waited += started.elapsed();
        input
    }

    /// Fraction of the time since the first batch, `elapsed`, that was spent waiting for data, 0 to 1.
    pub(super) fn wait_share(&self, elapsed: Duration) -> f64 {
        let all = elapsed.max(self.waited).as_secs_f64();
        if all > 0.0 { self.waited.as_secs_f64() / all } else { 0.0 }
    }
}

/// Runs an iterator on another thread, so that the next item is ready when it is requested: one item is buffered while the next is being
/// computed. Dropping it stops the thread and waits for its end. A panic of the thread is resumed in the caller.
pub(super) struct Prefetcher<T> {
    items: Option<Receiver<T>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Prefetcher<T> {
    /// Starts the thread.
    pub(super) fn new(items: impl Iterator<Item = T> + Send + 'static) -> Self {
        let (sender, receiver) = mpsc::sync_channel(1);
        let work = move || {
            for item in items {
                if sender.send(item).is_err() {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("batches".into()).spawn(work).expect("the system can start a thread");
        Self { items: Some(receiver), thread: Some(thread) }
    }
}

impl<T> Iterator for Prefetcher<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let item = self.items.as_ref()?.recv().ok();
        if item.is_none()
            && let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
        {
            resume_unwind(panic);
        }
        item
    }
}

impl<T> Drop for Prefetcher<T> {
    fn drop(&mut self) {
        // Without a receiver the thread ends after its current item.
        self.items = None;
        if let Some(thread) = self.thread.take() {
            // A panic is ignored here: it concerns an item that was never requested.
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    #[test]
    fn prefetcher_yields_all_items_in_order() {
        let mut items = Prefetcher::new(0..100);
        assert!(items.by_ref().eq(0..100));
        assert_eq!(items.next(), None);
    }

    #[test]
    fn prefetcher_computes_two_items_ahead_and_none_after_it_is_dropped() {
        let computed = Arc::new(AtomicUsize::new(0));
        let (counter, (sender, receiver)) = (computed.clone(), mpsc::channel());
        let items = Prefetcher::new((0..100).inspect(move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
            sender.send(()).unwrap();
        }));
        receiver.recv().unwrap();
        receiver.recv().unwrap();
        drop(items);
        assert_eq!(computed.load(Ordering::SeqCst), 2);
        assert!(receiver.recv().is_err(), "the thread has ended");
    }

    #[test]
    fn prefetcher_resumes_a_panic_at_the_item_that_caused_it() {
        let mut items = Prefetcher::new((0..3).inspect(|item| assert!(*item < 2, "no item {item}")));
        assert_eq!((items.next(), items.next()), (Some(0), Some(1)));
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| items.next())).unwrap_err();
        assert!(panic.downcast_ref::<String>().unwrap().contains("no item 2"));
    }

    #[test]
    fn wait_share_is_the_fraction_of_time_spent_waiting() {
        let mut loader = BatchLoader::new([Ok(1)].into_iter());
        let seconds = Duration::from_secs;
        assert_eq!(loader.wait_share(Duration::ZERO), 0.0);
        assert_eq!(loader.wait_share(seconds(8)), 0.0);
        loader.waited = seconds(2);
        assert_eq!(loader.wait_share(seconds(8)), 0.25);
        assert_eq!(loader.wait_share(seconds(1)), 1.0, "never above 1");
    }

    #[test]
    fn waiting_for_a_batch_is_measured() {
        let (go, wait) = mpsc::channel();
        let mut loader = BatchLoader::new((0..2).map(move |input| {
            wait.recv().unwrap();
            Ok(input)
        }));
        let started = Instant::now();
        for expected in [0, 1] {
            let before = loader.waited;
            go.send(()).unwrap();
            assert_eq!(loader.next_batch().unwrap(), expected);
            assert!(loader.waited > before && loader.waited <= started.elapsed());
        }
    }

    #[test]
    fn an_error_is_returned_for_the_batch_that_caused_it() {
        let error = || TrainingError::Data("test".into());
        let mut loader = BatchLoader::new([Ok(1), Err(error()), Ok(2)].into_iter());
        let outcomes: Vec<bool> = (0..3).map(|_| loader.next_batch().is_ok()).collect();
        assert_eq!(outcomes, [true, false, true]);
    }
}
