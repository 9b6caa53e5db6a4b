//! Runs work in a thread of the library's own, which takes no signals and does not call Python.

use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;

use crate::os;
use crate::os::start_thread;
use crate::support::clock::Instant;
use crate::support::sync::{lock, Mutex, MutexGuard};

/// The work of a thread that is about to start.
static WORK: Mutex<Option<fn()>> = Mutex::new(None);

pub(crate) type Lock = MutexGuard<'static, Option<fn()>>;

/// Takes the lock for the time of a fork.
pub(crate) fn hold_lock() -> Lock {
    lock(&WORK)
}

/// Runs the work in a thread of its own. Returns `false` if it has not ended in that time. Then it may never end.
pub(crate) fn within(limit: Duration, work: fn()) -> bool {
    static DONE: AtomicUsize = AtomicUsize::new(0);
    fn body() {
        let work = lock(&WORK).take();
        if let Some(work) = work {
            work();
        }
        DONE.fetch_add(1, Ordering::Release);
    }
    let before = DONE.load(Ordering::Relaxed);
    *lock(&WORK) = Some(work);
    if !start_thread(body) {
        return false;
    }
    let begun = Instant::now();
    // Acquire: pairs with the Release in `body`, so what the work did is done.
    while DONE.load(Ordering::Acquire) == before {
        if begun.elapsed() > limit {
            return false;
        }
        os::sleep(Duration::from_millis(1));
    }
    true
}
