//! Threads that go through one piece of work together, phase by phase.
//!
//! A network of fifty layers has some hundred and fifty phases of a few hundred microseconds each. Waking a sleeping thread for each of
//! them would cost more than it gives, so the team is woken once a pass and its members wait for each other on a spinning barrier.
//!
//! The process has two teams, of which the one that trains gives way to the other ([`precedence`](super::precedence)).

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
    precedence::{self, Precedence},
    simd::{Level, Work},
};

/// How often a member looks before it goes to sleep: some hundred microseconds, longer than two members are apart unless something else
/// has one's processor.
const SPINS: u32 = 10_000;

/// The process's team for this thread: as many threads as rayon's pool has, which is where the number is set; a thread for each core if
/// it is not. A thread that [gives way](precedence::give_way_here) has a team that does.
pub fn team() -> &'static Team {
    static TEAMS: LazyLock<[Team; 2]> = LazyLock::new(|| Team::pair(rayon::current_num_threads()));
    let [first, second] = &*TEAMS;
    if precedence::gives_way_here() { second } else { first }
}

/// The threads; the caller of [`Team::run`] is one of them.
#[derive(Debug)]
pub struct Team {
    /// The others; none where the caller works alone.
    others: Option<ThreadPool>,
    threads: usize,
    level: Level,
    /// Two passes at once would wait for each other at their barriers.
    busy: Mutex<()>,
    rank: Rank,
}

/// What a team is to another on the same processors.
#[derive(Debug)]
enum Rank {
    Alone,
    First(Arc<Precedence>),
    Second(Arc<Precedence>),
}

impl Team {
    /// A team of that many threads, at least one, with the best instructions that the processor has and the process wants.
    ///
    /// # Panics
    /// If the system gives no threads.
    pub fn new(threads: usize) -> Self {
        Self::with_level(threads, Level::chosen())
    }

    /// The same with other instructions.
    ///
    /// # Panics
    /// If the processor does not have them, or the system gives no threads.
    pub(super) fn with_level(threads: usize, level: Level) -> Self {
        assert!(level.is_there(), "the processor has no {level:?}");
        let threads = threads.max(1);
        let pool = || ThreadPoolBuilder::new().num_threads(threads - 1).thread_name(|i| format!("kernel-{i}")).build();
        let others = (threads > 1).then(|| pool().expect("threads can be started"));
        Self { others, threads, level, busy: Mutex::new(()), rank: Rank::Alone }
    }

    /// Two teams on the same processors: while the first works, the second stands still.
    ///
    /// # Panics
    /// If the system gives no threads.
    pub fn pair(threads: usize) -> [Self; 2] {
        let precedence = Arc::new(Precedence::default());
        let ranks = [Rank::First(Arc::clone(&precedence)), Rank::Second(precedence)];
        ranks.map(|rank| Self { rank, ..Self::new(threads) })
    }

    /// How many work together.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Which instructions they use.
    pub(super) fn level(&self) -> Level {
        self.level
    }

    /// Calls `work` on each thread at once and returns when all are done. Callers take turns.
    pub fn run(&self, work: impl Fn(&Member<'_>) + Sync) {
        let (_ahead, before) = match &self.rank {
            Rank::Alone => (None, None),
            Rank::First(precedence) => (Some(precedence.go_first()), None),
            Rank::Second(precedence) => (None, Some(&**precedence)),
        };
        let _waits = before.map(Precedence::count_waits);
        let _turn = Turn(Some(self.busy.lock()));
        let phase = Phase::new(self, before);
        match &self.others {
            None => Member::work(&phase, 0, &work),
            Some(pool) => pool.in_place_scope(|scope| {
                scope.spawn_broadcast(|_, context| Member::work(&phase, context.index() + 1, &work));
                Member::work(&phase, 0, &work);
            }),
        }
    }
}

/// Ends by handing over to whoever waits, who would lose the race against a caller that comes back at once.
struct Turn<'a>(Option<MutexGuard<'a, ()>>);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(guard) = self.0.take() {
            MutexGuard::unlock_fair(guard);
        }
    }
}

/// What the members share.
#[derive(Debug)]
struct Phase<'a> {
    threads: usize,
    level: Level,
    /// How many items of each member's share are taken in this phase.
    taken: Vec<Taken>,
    /// Members that are through with it.
    arrived: AtomicUsize,
    /// How many phases are over.
    over: AtomicUsize,
    /// A member panicked: the others must not wait for it.
    broken: AtomicBool,
    /// Members that sleep until the phase is over.
    sleepers: Mutex<usize>,
    awake: Condvar,
    /// What its members give way to.
    before: Option<&'a Precedence>,
}

/// On a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Taken(AtomicUsize);

impl<'a> Phase<'a> {
    fn new(team: &Team, before: Option<&'a Precedence>) -> Self {
        Self {
            before,
            threads: team.threads,
            level: team.level,
            taken: (0..team.threads).map(|_| Taken::default()).collect(),
            arrived: AtomicUsize::new(0),
            over: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
            sleepers: Mutex::new(0),
            awake: Condvar::new(),
        }
    }
}

/// One thread's place in a pass.
#[derive(Debug)]
pub struct Member<'a> {
    phase: &'a Phase<'a>,
    index: usize,
}

impl Member<'_> {
    /// How many members the team has.
    pub fn threads(&self) -> usize {
        self.phase.threads
    }

    /// Its place in the team, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Which instructions the team uses.
    pub(super) fn level(&self) -> Level {
        self.phase.level
    }

    /// Does some work with the team's instructions.
    #[inline]
    pub(super) fn run(&self, work: impl Work) {
        self.phase.level.run(work);
    }

    fn work(phase: &Phase<'_>, index: usize, work: &(impl Fn(&Member<'_>) + Sync)) {
        let outcome = panic::catch_unwind(panic::AssertUnwindSafe(|| work(&Member { phase, index })));
        if let Err(cause) = outcome {
            phase.broken.store(true, Ordering::Release);
            phase.wake();
            panic::resume_unwind(cause);
        }
    }

    /// One phase: each number below `count` goes to one member, and all members return when all numbers are done. Every member must
    /// come here as often as the others, with the same count.
    ///
    /// Each begins with its own share, the same in every phase, because what it wrote in the one before is in its own cache; who is done
    /// helps the others.
    pub fn each(&self, count: usize, mut item: impl FnMut(usize)) {
        let threads = self.threads();
        for owner in (self.index..threads).chain(0..self.index) {
            let share = owner * count / threads..(owner + 1) * count / threads;
            loop {
                let taken = self.phase.taken[owner].0.fetch_add(1, Ordering::Relaxed);
                if taken >= share.len() {
                    break;
                }
                if let Some(before) = self.phase.before {
                    before.give_way();
                }
                item(share.start + taken);
            }
        }
        self.meet();
    }

    fn meet(&self) {
        let phase = self.phase;
        let over = phase.over.load(Ordering::Acquire);
        if phase.arrived.fetch_add(1, Ordering::AcqRel) + 1 == phase.threads {
            phase.arrived.store(0, Ordering::Relaxed);
            phase.taken.iter().for_each(|taken| taken.0.store(0, Ordering::Relaxed));
            phase.over.store(over.wrapping_add(1), Ordering::SeqCst);
            phase.wake();
            return;
        }
        for _ in 0..SPINS {
            if phase.is_over(over) {
                return;
            }
            if phase.before.is_some_and(Precedence::is_claimed) {
                break;
            }
            hint::spin_loop();
        }
        phase.sleep(over);
    }
}

impl Phase<'_> {
    fn is_over(&self, phase: usize) -> bool {
        assert!(!self.broken.load(Ordering::Acquire), "another thread of the team panicked");
        self.over.load(Ordering::SeqCst) != phase
    }

    /// Sleeping and not yielding: two members that yield to each other on one processor may stay there while another has nothing to do.
    fn sleep(&self, phase: usize) {
        let mut sleepers = self.sleepers.lock();
        *sleepers += 1;
        while self.over.load(Ordering::SeqCst) == phase && !self.broken.load(Ordering::Acquire) {
            self.awake.wait(&mut sleepers);
        }
        *sleepers -= 1;
        drop(sleepers);
        assert!(self.is_over(phase), "awake because it is over");
    }

    fn wake(&self) {
        if *self.sleepers.lock() > 0 {
            self.awake.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use super::*;

    #[test]
    fn each_item_is_done_once_and_a_phase_sees_the_one_before() {
        for threads in [1, 2, 5] {
            let team = Team::new(threads);
            let counts: Vec<AtomicUsize> = (0..100).map(|_| AtomicUsize::new(0)).collect();
            team.run(|member| {
                for round in 0..50 {
                    member.each(counts.len(), |i| {
                        assert_eq!(counts[i].fetch_add(1, Ordering::Relaxed), round);
                    });
                    member.each(counts.len(), |i| {
                        let mirrored = counts[counts.len() - 1 - i].load(Ordering::Relaxed);
                        assert_eq!(mirrored, round + 1, "the phase before is over");
                    });
                }
            });
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 50));
        }
    }

    #[test]
    fn a_panic_of_one_member_ends_the_pass_for_all() {
        let team = Team::new(2);
        let broken = panic::catch_unwind(panic::AssertUnwindSafe(|| {
            team.run(|member| {
                member.each(2, |i| assert_ne!(i, 1, "this item fails"));
                member.each(2, |_| ());
            });
        }));
        assert!(broken.is_err());
        team.run(|member| member.each(2, |_| ()));
    }

    #[test]
    fn the_second_team_stands_still_between_items_while_the_first_works() {
        let [first, second] = &Team::pair(2);
        let (done, begun) = (AtomicUsize::new(0), AtomicBool::new(false));
        let waited = precedence::waited();
        let held = Duration::from_millis(20);
        thread::scope(|scope| {
            scope.spawn(|| {
                second.run(|member| {
                    for _ in 0..2 {
                        member.each(1000, |_| {
                            begun.store(true, Ordering::SeqCst);
                            done.fetch_add(1, Ordering::SeqCst);
                            thread::sleep(Duration::from_micros(100));
                        });
                    }
                });
            });
            while !begun.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            first.run(|member| {
                if member.index() == 0 {
                    assert!(precedence::is_training());
                    // What was begun is ended.
                    thread::sleep(held);
                    let before = done.load(Ordering::SeqCst);
                    thread::sleep(held);
                    assert_eq!(done.load(Ordering::SeqCst), before, "nothing was begun");
                    assert!(before < 2000, "the operation is not over: this team did not wait for it");
                }
            });
        });
        assert_eq!(done.into_inner(), 2000);
        assert!(precedence::waited() - waited >= 2 * held, "counted");
    }

    #[test]
    fn a_thread_that_gives_way_has_another_team() {
        let other = thread::spawn(|| {
            precedence::give_way_here();
            std::ptr::from_ref(team()).addr()
        });
        assert_ne!(other.join().unwrap(), std::ptr::from_ref(team()).addr());
    }
}
