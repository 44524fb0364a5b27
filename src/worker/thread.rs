//! The training thread, one for all runs, so that a run reuses the memory of the previous one: the system's allocator retains a heap for each
//! thread that ever was. Its computations yield to predictions.

use std::{io, sync::mpsc, thread};

use parking_lot::Mutex;

use crate::nn;

type Work = Box<dyn FnOnce() + Send>;

/// Started with its first work. After it is dropped, the thread ends once its work is done.
#[derive(Default)]
pub(super) struct TrainerThread {
    work: Mutex<Option<mpsc::Sender<Work>>>,
}

impl TrainerThread {
    /// Queues work. A thread that ended by a panic is replaced.
    pub(super) fn run(&self, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let mut sender = self.work.lock();
        let mut work: Work = Box::new(work);
        if let Some(current) = sender.take() {
            match current.send(work) {
                Ok(()) => {
                    *sender = Some(current);
                    return Ok(());
                }
                Err(mpsc::SendError(back)) => work = back,
            }
        }
        let (new, inbox) = mpsc::channel::<Work>();
        thread::Builder::new().name("trainer".into()).spawn(move || {
            nn::lower_thread_priority();
            inbox.iter().for_each(|work| work());
        })?;
        new.send(work).map_err(|_| io::Error::other("the new thread accepts no work"))?;
        *sender = Some(new);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_all_work_on_one_thread_and_replaces_it_after_a_panic() {
        let trainer = TrainerThread::default();
        let (sender, receiver) = mpsc::channel();
        let worker_id = || {
            let sender = sender.clone();
            trainer.run(move || sender.send(thread::current().id()).unwrap()).unwrap();
            receiver.recv().unwrap()
        };
        let first = worker_id();
        assert!(first != thread::current().id() && worker_id() == first);
        trainer.run(|| panic!("expected by the test")).unwrap();
        let replaced = || {
            let (sender, receiver) = mpsc::channel();
            trainer.run(move || sender.send(thread::current().id()).unwrap()).unwrap();
            // Work that the dying thread received is lost.
            receiver.recv().is_ok_and(|id| id != first)
        };
        while !replaced() {
            thread::yield_now();
        }
    }
}
