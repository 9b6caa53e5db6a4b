//! Keeps threads from making thread states while another thread forks.
//!
//! CPython has a lock for its list of thread states. Up to 3.11, the child of an `os.fork()` takes this lock before
//! it makes the lock anew. So the child hangs if another thread had the lock at the moment of the fork. A thread
//! that makes a thread state takes the lock without the GIL. (A thread that deletes its own thread state takes the
//! lock too, but it has the GIL, and so has the thread that forks.)
//!
//! So each of the two threads says what it is about to do, makes a fence, and looks at the other. One of the two
//! fences comes second, and the look after it sees what was said before the other fence (`gate/fence.rs`).

use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;

use crate::gate::fence;
use crate::os;
use crate::python::{Api, PyThreadState};
use crate::support::clock::Instant;
use crate::system::generation::forks_here;

/// How many thread states a thread is making. The number is more than one if making a thread state calls back to
/// this code. Only the thread itself writes the number. Forks look at it.
pub(crate) struct Birth(AtomicUsize);

/// How many threads are between the beginning and the end of a fork.
static FORKS: AtomicUsize = AtomicUsize::new(0);

/// For how long one side waits for the other. An allocator's hook may call `PyGILState_Ensure`, or there may be
/// another copy of the library. Then the two sides must not wait for each other without end. The fork gives up
/// first. At that time the other thread still waits, without CPython's lock.
const FORKS_WAIT: Duration = Duration::from_millis(100);
const BIRTHS_WAIT: Duration = Duration::from_secs(10);

impl Birth {
    pub(crate) fn new() -> Birth {
        Birth(AtomicUsize::new(0))
    }

    #[inline(always)]
    fn begin(&self) {
        // Relaxed: only the thread itself changes the number, and the fence orders the store.
        self.0.store(self.0.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        fence::light();
    }

    #[inline(always)]
    fn end(&self) {
        // Release: the thread is done with CPython's list. Pairs with `is_under_way`.
        self.0.store(self.0.load(Ordering::Relaxed) - 1, Ordering::Release);
    }

    pub(crate) fn is_under_way(&self) -> bool {
        // Acquire: what the thread did to CPython's list comes before the fork. Pairs with `end`.
        self.0.load(Ordering::Acquire) != 0
    }

    #[cold]
    fn wait_for_forks(&self) {
        if forks_here() {
            // This thread itself forks: it is in the fork handlers of another library.
            return;
        }
        let begun = Instant::now();
        // It does not wait if this is inside the making of another thread state, because the fork may wait for that
        // one.
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

/// Makes a thread state, by `make`. In versions in which that matters, this and a fork wait for each other.
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

/// Returns whether forks matter to the making of thread states in this version of CPython.
#[inline(always)]
pub(crate) fn matters(py: &Api) -> bool {
    py.version < 0x030c
}

/// Makes a thread state in such a version. This is a function of its own, so that later versions do not pay for it.
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
    // Relaxed: the fence before this load orders it.
    FORKS.load(Ordering::Relaxed) != 0
}

fn wait_while(patience: Duration, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while condition() && begun.elapsed() < patience {
        os::sleep(Duration::from_micros(50));
    }
}

/// Announces a fork, and waits while threads make thread states. `is_one_under_way` tells whether a thread is
/// making one.
pub(crate) fn suspend(is_one_under_way: impl Fn() -> bool) {
    // Relaxed: the fence after this orders it.
    FORKS.fetch_add(1, Ordering::Relaxed);
    fence::heavy();
    wait_while(FORKS_WAIT, is_one_under_way);
}

/// Notes that the fork is over, in the parent.
pub(crate) fn resume() {
    // Relaxed: a thread that waits for this needs nothing else that this thread wrote.
    FORKS.fetch_sub(1, Ordering::Relaxed);
}

/// Notes that the fork is over, in the child, where there is no other thread.
pub(crate) fn resume_alone() {
    FORKS.store(0, Ordering::Relaxed);
}
