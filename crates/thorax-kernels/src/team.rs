//! A team of threads that runs an operation in phases, separated by barriers.
//!
//! A network of fifty layers has about 150 phases of a few hundred microseconds each. Waking a sleeping thread for
//! each of them would cost more than it gains. So the team is woken once per pass, and its workers spin at the
//! barrier between phases.
//!
//! The process has two teams; the low-priority one pauses for the other (see [`preemption`](super::preemption)).

use std::{
    hint, panic,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::{
    preemption::{self, Preemption},
    simd::{Kernel, Level},
};

/// Spins before a worker sleeps at a barrier: some hundred microseconds, longer than the usual distance between two
/// workers unless another process takes a core.
const SPINS: u32 = 10_000;

/// The team of the current thread: the high-priority team, or the low-priority team after
/// [`lower_thread_priority`](preemption::lower_thread_priority). Both have as many threads as rayon's global pool.
pub fn team() -> &'static Team {
    static TEAMS: LazyLock<[Team; 2]> = LazyLock::new(|| Team::pair(rayon::current_num_threads()));
    let [first, second] = &*TEAMS;
    if preemption::is_thread_low_priority() { second } else { first }
}

/// A team of worker threads. The caller of [`Team::run`] is one of them.
#[derive(Debug)]
pub struct Team {
    /// The other threads; none if the caller works alone.
    helpers: Option<ThreadPool>,
    threads: usize,
    level: Level,
    /// Serialises passes: two at once would deadlock at their barriers.
    busy: Mutex<()>,
    priority: Priority,
}

/// Priority of a team among the teams on the same processors.
#[derive(Debug)]
enum Priority {
    Single,
    High(Arc<Preemption>),
    Low(Arc<Preemption>),
}

impl Team {
    /// Creates a team of `threads` threads (at least one) with the best supported instructions and the precision of
    /// the process.
    ///
    /// # Panics
    /// If a thread cannot be started.
    pub fn new(threads: usize) -> Self {
        Self::with_level(threads, Level::selected())
    }

    /// Creates a team with other instructions.
    ///
    /// # Panics
    /// If the processor does not support them, or a thread cannot be started.
    pub(super) fn with_level(threads: usize, level: Level) -> Self {
        assert!(level.is_supported(), "the processor does not support {level:?}");
        let threads = threads.max(1);
        let pool = || ThreadPoolBuilder::new().num_threads(threads - 1).thread_name(|i| format!("kernel-{i}")).build();
        let helpers = (threads > 1).then(|| pool().expect("a worker thread can be started"));
        Self { helpers, threads, level, busy: Mutex::new(()), priority: Priority::Single }
    }

    /// Creates a high-priority and a low-priority team on the same processors: while the first works, the second
    /// pauses.
    ///
    /// # Panics
    /// If a thread cannot be started.
    pub fn pair(threads: usize) -> [Self; 2] {
        let preemption = Arc::new(Preemption::default());
        let priorities = [Priority::High(Arc::clone(&preemption)), Priority::Low(preemption)];
        priorities.map(|priority| Self { priority, ..Self::new(threads) })
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Instruction level.
    pub(super) fn level(&self) -> Level {
        self.level
    }

    /// Calls `work` on every thread at once and returns when all calls have returned. Concurrent callers take turns.
    pub fn run(&self, work: impl Fn(&Worker<'_>) + Sync) {
        let (_guard, yields_to) = match &self.priority {
            Priority::Single => (None, None),
            Priority::High(preemption) => (Some(preemption.preempt()), None),
            Priority::Low(preemption) => (None, Some(&**preemption)),
        };
        let _timer = yields_to.map(Preemption::track_preempted_time);
        let _lock = FairUnlock(Some(self.busy.lock()));
        let phase = Phase::new(self, yields_to);
        match &self.helpers {
            None => Worker::work(&phase, 0, &work),
            Some(pool) => pool.in_place_scope(|scope| {
                scope.spawn_broadcast(|_, context| Worker::work(&phase, context.index() + 1, &work));
                Worker::work(&phase, 0, &work);
            }),
        }
    }
}

/// Unlocks fairly: a waiting caller gets the lock before one that returns at once.
struct FairUnlock<'a>(Option<MutexGuard<'a, ()>>);

impl Drop for FairUnlock<'_> {
    fn drop(&mut self) {
        if let Some(guard) = self.0.take() {
            MutexGuard::unlock_fair(guard);
        }
    }
}

/// State that the workers share during a pass.
#[derive(Debug)]
struct Phase<'a> {
    threads: usize,
    level: Level,
    /// Number of items already claimed from each worker's share in this phase.
    next_items: Vec<NextItem>,
    /// Workers that have reached the barrier.
    arrived: AtomicUsize,
    /// Number of completed phases.
    generation: AtomicUsize,
    /// A worker panicked: the others must not wait for it.
    panicked: AtomicBool,
    /// Workers that sleep at the barrier.
    sleepers: Mutex<usize>,
    awake: Condvar,
    /// High-priority work for which the workers pause.
    yields_to: Option<&'a Preemption>,
}

/// On a cache line of its own, to avoid false sharing.
#[derive(Debug, Default)]
#[repr(align(64))]
struct NextItem(AtomicUsize);

impl<'a> Phase<'a> {
    fn new(team: &Team, yields_to: Option<&'a Preemption>) -> Self {
        Self {
            yields_to,
            threads: team.threads,
            level: team.level,
            next_items: (0..team.threads).map(|_| NextItem::default()).collect(),
            arrived: AtomicUsize::new(0),
            generation: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            sleepers: Mutex::new(0),
            awake: Condvar::new(),
        }
    }
}

/// One thread of a team during a pass.
#[derive(Debug)]
pub struct Worker<'a> {
    phase: &'a Phase<'a>,
    index: usize,
}

impl Worker<'_> {
    /// Number of threads in the team.
    pub fn threads(&self) -> usize {
        self.phase.threads
    }

    /// Index of this worker, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Instruction level of the team.
    pub(super) fn level(&self) -> Level {
        self.phase.level
    }

    /// Runs a kernel with the instructions of the team.
    #[inline]
    pub(super) fn run(&self, work: impl Kernel) {
        self.phase.level.run(work);
    }

    fn work(phase: &Phase<'_>, index: usize, work: &(impl Fn(&Worker<'_>) + Sync)) {
        let outcome = panic::catch_unwind(panic::AssertUnwindSafe(|| work(&Worker { phase, index })));
        if let Err(cause) = outcome {
            phase.panicked.store(true, Ordering::Release);
            phase.wake();
            panic::resume_unwind(cause);
        }
    }

    /// Runs one phase: calls `item` once for each index below `count`, on any worker, and returns on every worker
    /// when all calls have returned (a barrier). Every worker must call it the same number of times, with the same
    /// counts.
    ///
    /// A worker starts with its own share, which is the same in each phase: its data from the previous phase is in
    /// its own cache. Then it takes items from the others.
    pub fn parallel_for(&self, count: usize, mut item: impl FnMut(usize)) {
        let threads = self.threads();
        for owner in (self.index..threads).chain(0..self.index) {
            let share = owner * count / threads..(owner + 1) * count / threads;
            loop {
                let claimed = self.phase.next_items[owner].0.fetch_add(1, Ordering::Relaxed);
                if claimed >= share.len() {
                    break;
                }
                if let Some(yields_to) = self.phase.yields_to {
                    yields_to.yield_point();
                }
                item(share.start + claimed);
            }
        }
        self.barrier();
    }

    fn barrier(&self) {
        let phase = self.phase;
        let generation = phase.generation.load(Ordering::Acquire);
        if phase.arrived.fetch_add(1, Ordering::AcqRel) + 1 == phase.threads {
            phase.arrived.store(0, Ordering::Relaxed);
            phase.next_items.iter().for_each(|next| next.0.store(0, Ordering::Relaxed));
            phase.generation.store(generation.wrapping_add(1), Ordering::SeqCst);
            phase.wake();
            return;
        }
        for _ in 0..SPINS {
            if phase.has_passed(generation) {
                return;
            }
            if phase.yields_to.is_some_and(Preemption::is_requested) {
                break;
            }
            hint::spin_loop();
        }
        phase.sleep(generation);
    }
}

impl Phase<'_> {
    fn has_passed(&self, phase: usize) -> bool {
        assert!(!self.panicked.load(Ordering::Acquire), "another thread of the team panicked");
        self.generation.load(Ordering::SeqCst) != phase
    }

    /// Sleeps instead of yielding: two workers that yield to each other on one core may stay there while another core
    /// is idle.
    fn sleep(&self, phase: usize) {
        let mut sleepers = self.sleepers.lock();
        *sleepers += 1;
        while self.generation.load(Ordering::SeqCst) == phase && !self.panicked.load(Ordering::Acquire) {
            self.awake.wait(&mut sleepers);
        }
        *sleepers -= 1;
        drop(sleepers);
        assert!(self.has_passed(phase), "woken before the phase was over");
    }

    fn wake(&self) {
        if *self.sleepers.lock() > 0 {
            self.awake.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn each_item_runs_once_and_a_phase_sees_the_previous_one() {
        for threads in [1, 2, 5] {
            let team = Team::new(threads);
            let counts: Vec<AtomicUsize> = (0..100).map(|_| AtomicUsize::new(0)).collect();
            team.run(|worker| {
                for round in 0..50 {
                    worker.parallel_for(counts.len(), |i| {
                        assert_eq!(counts[i].fetch_add(1, Ordering::Relaxed), round);
                    });
                    worker.parallel_for(counts.len(), |i| {
                        let mirrored = counts[counts.len() - 1 - i].load(Ordering::Relaxed);
                        assert_eq!(mirrored, round + 1, "the previous phase is over");
                    });
                }
            });
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 50));
        }
    }

    #[test]
    fn a_panic_of_one_worker_ends_the_pass_for_all() {
        let team = Team::new(2);
        let panicked = panic::catch_unwind(panic::AssertUnwindSafe(|| {
            team.run(|worker| {
                worker.parallel_for(2, |i| assert_ne!(i, 1, "this item fails"));
                worker.parallel_for(2, |_| ());
            });
        }));
        assert!(panicked.is_err());
        team.run(|worker| worker.parallel_for(2, |_| ()));
    }

    #[test]
    fn the_low_priority_team_pauses_while_the_other_works() {
        const ITEMS: usize = 100;
        let [first, second] = &Team::pair(2);
        let Priority::Low(preemption) = &second.priority else { panic!("the second team has low priority") };
        let (done, started, preempted) = (AtomicUsize::new(0), AtomicBool::new(false), AtomicBool::new(false));
        let preempted_time = preemption::preempted_time();
        let wait_for = |flag: &AtomicBool| {
            while !flag.load(Ordering::SeqCst) {
                thread::yield_now();
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| {
                second.run(|worker| {
                    for _ in 0..2 {
                        worker.parallel_for(ITEMS, |_| {
                            started.store(true, Ordering::SeqCst);
                            // The items in progress end after the first team has started.
                            wait_for(&preempted);
                            done.fetch_add(1, Ordering::SeqCst);
                        });
                    }
                });
            });
            wait_for(&started);
            first.run(|worker| {
                if worker.index() == 0 {
                    assert!(preemption::is_low_priority_active());
                    preempted.store(true, Ordering::SeqCst);
                    while preemption.paused_threads() < second.threads() {
                        assert!(done.load(Ordering::SeqCst) < 2 * ITEMS, "the second team does not pause");
                        thread::yield_now();
                    }
                    assert!(done.load(Ordering::SeqCst) <= second.threads(), "items in progress end, no other starts");
                }
            });
        });
        assert_eq!(done.into_inner(), 2 * ITEMS);
        assert!(preemption::preempted_time() > preempted_time, "the pause is measured");
    }

    #[test]
    fn a_low_priority_thread_has_its_own_team() {
        let other = thread::spawn(|| {
            preemption::lower_thread_priority();
            std::ptr::from_ref(team()).addr()
        });
        assert_ne!(other.join().unwrap(), std::ptr::from_ref(team()).addr());
    }
}
