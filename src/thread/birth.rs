//! Thread states are not made while another thread forks.
//!
//! Up to 3.11 the child of an `os.fork()` takes the lock of CPython's list of thread states before it makes it
//! anew, and so hangs if another thread had it in that moment. A thread that makes a thread state has it,
//! without the GIL. (One that deletes its own has it too, but with the GIL, as the thread that forks.)
//!
//! So each says what it is about to do, and then looks at the other: whichever of two such fences
//! comes second, the look after it sees what was said before the other (`gate/fence.rs`).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::gate::fence;
use crate::python::{Api, PyThreadState};
use crate::system::generation::forks_here;

/// How many thread states a thread is making: more than one if making one calls back here. Only the thread
/// writes it; forks look at it.
pub(crate) struct Birth(AtomicUsize);

/// How many threads are between the two ends of a fork.
static FORKS: AtomicUsize = AtomicUsize::new(0);

/// For how long one waits for the other. An allocator's hook that calls `PyGILState_Ensure`, or another copy of the
/// library, must not end in both waiting without end. The fork gives up first: then the other one still waits, without
/// CPython's lock.
const FORKS_WAIT: Duration = Duration::from_millis(100);
const BIRTHS_WAIT: Duration = Duration::from_secs(10);

impl Birth {
    pub(crate) fn new() -> Birth {
        Birth(AtomicUsize::new(0))
    }

    #[inline(always)]
    fn begin(&self) {
        // Relaxed, as its own thread alone changes it; and the fence orders it.
        self.0.store(self.0.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        fence::light();
    }

    #[inline(always)]
    fn end(&self) {
        // Release: the thread is done with the list.
        self.0.store(self.0.load(Ordering::Relaxed) - 1, Ordering::Release);
    }

    pub(crate) fn is_under_way(&self) -> bool {
        // Acquire: what the thread did to the list comes before the fork.
        self.0.load(Ordering::Acquire) != 0
    }

    #[cold]
    fn wait_for_forks(&self) {
        if forks_here() {
            // In another library's handlers.
            return;
        }
        let begun = Instant::now();
        // Not inside another, for which the fork may wait.
        while is_one_forking()
            && self.0.load(Ordering::Relaxed) == 1
            && begun.elapsed() < BIRTHS_WAIT
        {
            self.end();
            wait_while(BIRTHS_WAIT, is_one_forking);
            self.begin();
        }
    }
}

/// Makes a thread state, by `make`.
#[inline(always)]
pub(crate) fn of_thread_state(
    py: &Api,
    birth: &Birth,
    make: impl FnOnce() -> *mut PyThreadState,
) -> *mut PyThreadState {
    if matters(py) {
        in_sight_of_forks(birth, make)
    } else {
        make()
    }
}

/// Whether this version has to be helped.
#[inline(always)]
pub(crate) fn matters(py: &Api) -> bool {
    py.version < 0x030c
}

/// Apart, so that later versions do not pay for it.
#[inline(never)]
fn in_sight_of_forks(
    birth: &Birth,
    make: impl FnOnce() -> *mut PyThreadState,
) -> *mut PyThreadState {
    birth.begin();
    if is_one_forking() {
        birth.wait_for_forks();
    }
    let state = make();
    birth.end();
    state
}

fn is_one_forking() -> bool {
    // Relaxed: the fence before it orders it.
    FORKS.load(Ordering::Relaxed) != 0
}

fn wait_while(patience: Duration, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while condition() && begun.elapsed() < patience {
        std::thread::sleep(Duration::from_micros(50));
    }
}

/// Before a fork. `is_one_under_way`: whether a thread is making one.
pub(crate) fn suspend(is_one_under_way: impl Fn() -> bool) {
    // Relaxed: the fence orders it.
    FORKS.fetch_add(1, Ordering::Relaxed);
    fence::heavy();
    wait_while(FORKS_WAIT, is_one_under_way);
}

/// After it, in the parent.
pub(crate) fn resume() {
    // Relaxed: who waits for it needs nothing else of this thread's.
    FORKS.fetch_sub(1, Ordering::Relaxed);
}

/// After it, in the child, where no other thread is.
pub(crate) fn resume_alone() {
    FORKS.store(0, Ordering::Relaxed);
}
