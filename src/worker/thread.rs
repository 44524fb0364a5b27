//! The thread that trains, the same for all runs: what a run frees the next one takes. With a thread for each run the heap of each would
//! stay behind, for the system's allocator keeps one for every thread that it has seen. What it computes gives way to predictions.

use std::{io, sync::mpsc, thread};

use parking_lot::Mutex;

use crate::nn;

type Work = Box<dyn FnOnce() + Send>;

/// Started with its first work; ends when it is dropped and what it was given is done.
#[derive(Default)]
pub(super) struct TrainerThread {
    work: Mutex<Option<mpsc::Sender<Work>>>,
}

impl TrainerThread {
    /// Has it do this after what it does now. A thread that a panic has ended is replaced.
    pub(super) fn run(&self, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let mut sender = self.work.lock();
        let mut work: Work = Box::new(work);
        if let Some(there) = sender.take() {
            match there.send(work) {
                Ok(()) => {
                    *sender = Some(there);
                    return Ok(());
                }
                Err(mpsc::SendError(back)) => work = back,
            }
        }
        let (new, inbox) = mpsc::channel::<Work>();
        thread::Builder::new().name("trainer".into()).spawn(move || {
            nn::give_way_here();
            inbox.iter().for_each(|work| work());
        })?;
        new.send(work).map_err(|_| io::Error::other("the new thread takes no work"))?;
        *sender = Some(new);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thread_does_all_and_another_takes_over_after_a_panic() {
        let trainer = TrainerThread::default();
        let (told, asked) = mpsc::channel();
        let who = || {
            let told = told.clone();
            trainer.run(move || told.send(thread::current().id()).unwrap()).unwrap();
            asked.recv().unwrap()
        };
        let first = who();
        assert!(first != thread::current().id() && who() == first);
        trainer.run(|| panic!("planted")).unwrap();
        let replaced = || {
            let (told, asked) = mpsc::channel();
            trainer.run(move || told.send(thread::current().id()).unwrap()).unwrap();
            // Nothing comes back of what the dying thread still took.
            asked.recv().is_ok_and(|id| id != first)
        };
        while !replaced() {
            thread::yield_now();
        }
    }
}
