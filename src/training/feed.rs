//! Batches for the training thread, made ahead on a thread of their own, and how long it waited for them.

use std::{
    panic::resume_unwind,
    sync::mpsc::{self, Receiver},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::TrainingError;

/// The inputs of batches in a known order, made ahead on another thread.
pub(super) struct Feed<I> {
    inputs: Ahead<Result<I, TrainingError>>,
    waited: Duration,
}

impl<I: Send + 'static> Feed<I> {
    /// One item for each batch.
    pub(super) fn new(inputs: impl Iterator<Item = Result<I, TrainingError>> + Send + 'static) -> Self {
        Self { inputs: Ahead::of(inputs), waited: Duration::ZERO }
    }

    /// The input of the next batch.
    ///
    /// # Panics
    /// If there are no more batches.
    pub(super) fn next_input(&mut self) -> Result<I, TrainingError> {
        let asked = Instant::now();
        let input = self.inputs.next().expect("a feed is asked as often as it has batches");
        self.waited += asked.elapsed();
        input
    }

    /// Share of the time since `started` that was waited, 0 to 1.
    pub(super) fn wait_share(&self, started: Instant) -> f64 {
        let all = started.elapsed().max(self.waited).as_secs_f64();
        if all > 0.0 { self.waited.as_secs_f64() / all } else { 0.0 }
    }
}

/// Takes the items of an iterator on another thread, so that the next is ready when it is asked for: one waits and one more is in the
/// making, whatever the number of items. Dropped, it ends the thread and waits until it has ended. A panic over there comes over here.
pub(super) struct Ahead<T> {
    items: Option<Receiver<T>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Ahead<T> {
    /// Begins at once.
    pub(super) fn of(items: impl Iterator<Item = T> + Send + 'static) -> Self {
        let (sender, receiver) = mpsc::sync_channel(1);
        let work = move || {
            for item in items {
                if sender.send(item).is_err() {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("batches".into()).spawn(work).expect("the system has a thread left");
        Self { items: Some(receiver), thread: Some(thread) }
    }
}

impl<T> Iterator for Ahead<T> {
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

impl<T> Drop for Ahead<T> {
    fn drop(&mut self) {
        // Without a receiver the thread ends with the item that it has in hand.
        self.items = None;
        if let Some(thread) = self.thread.take() {
            // Nobody asked for the item that it panicked over, if it did.
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
    fn items_come_in_their_order_and_then_no_more() {
        let mut items = Ahead::of(0..100);
        assert!(items.by_ref().eq(0..100));
        assert_eq!(items.next(), None);
    }

    #[test]
    fn two_items_are_made_ahead_and_none_after_the_end() {
        let made = Arc::new(AtomicUsize::new(0));
        let (counter, (sender, receiver)) = (made.clone(), mpsc::channel());
        let items = Ahead::of((0..100).inspect(move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
            sender.send(()).unwrap();
        }));
        receiver.recv().unwrap();
        receiver.recv().unwrap();
        drop(items);
        assert_eq!(made.load(Ordering::SeqCst), 2);
        assert!(receiver.recv().is_err(), "the thread has ended");
    }

    #[test]
    fn a_panic_of_the_other_thread_comes_with_the_item_it_was_over() {
        let mut items = Ahead::of((0..3).inspect(|item| assert!(*item < 2, "no item {item}")));
        assert_eq!((items.next(), items.next()), (Some(0), Some(1)));
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| items.next())).unwrap_err();
        assert!(panic.downcast_ref::<String>().unwrap().contains("no item 2"));
    }

    #[test]
    fn the_share_is_of_the_time_that_was_waited() {
        let busy = |time: Duration| {
            let began = Instant::now();
            while began.elapsed() < time {
                std::hint::spin_loop();
            }
        };
        let started = Instant::now();
        let slow = (0..2).map(move |input| {
            busy(Duration::from_millis(20));
            Ok(input)
        });
        let mut feed = Feed::new(slow);
        assert_eq!(feed.wait_share(started), 0.0);
        for expected in [0, 1] {
            let before = feed.waited;
            assert_eq!(feed.next_input().unwrap(), expected);
            assert!(feed.waited > before && feed.waited <= started.elapsed());
        }
        busy(started.elapsed());
        let share = feed.wait_share(started);
        assert!(share > 0.0 && share <= 0.5, "{share}");
    }

    #[test]
    fn what_is_wrong_with_a_batch_comes_in_its_place() {
        let wrong = || TrainingError::Data("of a test".into());
        let mut feed = Feed::new([Ok(1), Err(wrong()), Ok(2)].into_iter());
        let outcomes: Vec<bool> = (0..3).map(|_| feed.next_input().is_ok()).collect();
        assert_eq!(outcomes, [true, false, true]);
    }
}
