//! A pool of threads that share the parts of one job at a time.
//!
//! A forward pass is hundreds of jobs of a few microseconds, so idle workers spin a while before they sleep, and a job
//! ends when its parts are done, whether or not every worker woke up for it.

use crate::float_env::FloatEnv;
use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Rounds of waiting before a thread sleeps: some tens of microseconds.
const SPINS: u32 = 2000;

pub(crate) struct Pool {
    shared: Arc<Shared>,
    /// Held by the caller whose job is running.
    turn: Mutex<()>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    /// Job number in the upper half; [`OPEN`], [`STOP`] and the number of workers inside in the lower.
    state: AtomicU64,
    job: UnsafeCell<Option<Job>>,
    next: AtomicUsize,
    panicked: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    sleepers: AtomicUsize,
    bed: Mutex<()>,
    wake: Condvar,
}

/// Workers may join the job.
const OPEN: u64 = 1 << 31;
/// Workers must leave for good.
const STOP: u64 = 1 << 30;
const INSIDE: u64 = STOP - 1;
const JOB: u64 = 1 << 32;

#[derive(Clone, Copy)]
struct Job {
    part: *const (dyn Fn(usize) + Sync),
    parts: usize,
}

// SAFETY: `job` is written only while no worker is inside, and read only by workers inside; the rest is atomic or locked.
unsafe impl Sync for Shared {}
// SAFETY: a job's pointer is used only while `run`, which borrows its target, waits.
unsafe impl Send for Shared {}

impl Pool {
    /// A pool of `threads`, of which the caller of `run` is one. Threads that the system refuses are done without.
    pub(crate) fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            next: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            panic: Mutex::new(None),
            sleepers: AtomicUsize::new(0),
            bed: Mutex::new(()),
            wake: Condvar::new(),
        });
        let spawn = |_| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name("kernels".into()).spawn(move || shared.work()).ok()
        };
        let workers = (1..threads).map_while(spawn).collect();
        Self { shared, turn: Mutex::new(()), workers }
    }

    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `part` with each of `0..parts` once, on any thread in any order, and returns when all are done.
    ///
    /// # Panics
    /// If a part panicked, once no other part is running.
    pub(crate) fn run(&self, parts: usize, part: &(dyn Fn(usize) + Sync)) {
        if parts <= 1 || self.workers.is_empty() {
            let _env = FloatEnv::enter();
            return (0..parts).for_each(part);
        }
        let _turn = lock(&self.turn);
        let shared = &*self.shared;
        // SAFETY: only the lifetime is erased; workers use the pointer while inside, and we wait until none is.
        let part = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(part) };
        let job = Job { part, parts };
        // SAFETY: the last job was closed and left by all workers, and `turn` keeps other callers out.
        unsafe { *shared.job.get() = Some(job) };
        shared.next.store(0, Relaxed);
        let number = shared.state.load(Relaxed) / JOB;
        shared.state.store(number.wrapping_add(1).wrapping_mul(JOB) | OPEN, SeqCst);
        if shared.sleepers.load(SeqCst) > 0 {
            drop(lock(&shared.bed));
            shared.wake.notify_all();
        }
        shared.take_parts(job);
        shared.state.fetch_and(!OPEN, AcqRel);
        let mut spins = 0;
        while shared.state.load(Acquire) & INSIDE != 0 {
            pause(&mut spins);
        }
        if shared.panicked.swap(false, Relaxed)
            && let Some(panic) = lock(&shared.panic).take()
        {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.state.fetch_or(STOP, SeqCst);
        drop(lock(&self.shared.bed));
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker's panics were caught and handed to the caller.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// A worker's life.
    fn work(&self) {
        let (mut seen, mut spins) = (0, 0);
        loop {
            let state = self.state.load(Acquire);
            if state & STOP != 0 {
                return;
            }
            let fresh = state & OPEN != 0 && state / JOB != seen;
            if fresh && self.state.compare_exchange(state, state + 1, AcqRel, Relaxed).is_ok() {
                // SAFETY: we are inside, so the job was written and stays.
                if let Some(job) = unsafe { *self.job.get() } {
                    self.take_parts(job);
                }
                self.state.fetch_sub(1, AcqRel);
                (seen, spins) = (state / JOB, 0);
            } else if fresh || spins < SPINS {
                pause(&mut spins);
            } else {
                self.sleep(seen);
                spins = 0;
            }
        }
    }

    /// Does parts until none is left. A panic is kept for the caller and ends the job early.
    fn take_parts(&self, job: Job) {
        let _env = FloatEnv::enter();
        // SAFETY: the caller of `run` waits for us, so what the pointer borrows is alive.
        let part = unsafe { &*job.part };
        let result = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let i = self.next.fetch_add(1, Relaxed);
                if i >= job.parts {
                    return;
                }
                part(i);
            }
        }));
        if let Err(panic) = result {
            self.next.store(job.parts, Relaxed);
            lock(&self.panic).get_or_insert(panic);
            self.panicked.store(true, Relaxed);
        }
    }

    /// Sleeps until there is a job other than `seen`, or an end.
    fn sleep(&self, seen: u64) {
        let mut bed = lock(&self.bed);
        self.sleepers.fetch_add(1, SeqCst);
        loop {
            let state = self.state.load(SeqCst);
            if state & STOP != 0 || (state & OPEN != 0 && state / JOB != seen) {
                break;
            }
            bed = self.wake.wait(bed).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, SeqCst);
    }
}

/// Waits a moment; lets others run if it has been long.
fn pause(spins: &mut u32) {
    *spins += 1;
    match *spins < SPINS / 2 {
        true => std::hint::spin_loop(),
        false => std::thread::yield_now(),
    }
}

/// What is locked here is consistent at every step, so a panic elsewhere spoils nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_done_once() {
        for threads in [1, 2, 3, 7] {
            let pool = Pool::new(threads);
            for parts in [0, 1, 2, 5, 100, 1000] {
                let counts: Vec<_> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
                pool.run(parts, &|i| {
                    counts[i].fetch_add(1, Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Relaxed) == 1), "{threads} threads, {parts} parts");
            }
        }
    }

    #[test]
    fn many_callers_take_turns() {
        let (pool, sum) = (Pool::new(3), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    (0..200).for_each(|_| {
                        pool.run(10, &|i| {
                            sum.fetch_add(i, Relaxed);
                        })
                    })
                });
            }
        });
        assert_eq!(sum.into_inner(), 4 * 200 * 45);
    }

    #[test]
    fn sleepers_wake_up_and_leave() {
        let pool = Pool::new(3);
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(20));
            let ids = Mutex::new(std::collections::HashSet::new());
            pool.run(300, &|_| {
                std::thread::sleep(std::time::Duration::from_micros(200));
                ids.lock().unwrap().insert(std::thread::current().id());
            });
            assert_eq!(ids.lock().unwrap().len(), 3);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(3);
        for bad in [0, 1, 7, 99] {
            let result = catch_unwind(AssertUnwindSafe(|| pool.run(100, &|i| assert!(i != bad, "part {i} is bad"))));
            let message = result.expect_err("it panicked").downcast::<String>().expect("a message");
            assert_eq!(*message, format!("part {bad} is bad"));
            pool.run(100, &|_| ());
        }
    }
}
