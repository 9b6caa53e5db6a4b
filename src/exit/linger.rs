//! Waits, after the door has closed, for threads that are still on their way to it.

use core::time::Duration;

use crate::os::{self, coarse_clock};
use crate::support::clock::Instant;
use crate::thread::seen;
use crate::thread::thread::Thread;

/// Returns whether a thread runs, or is about to run, that is neither at the door nor one of Python's own. It looks
/// at threads only until `over`. Returns `false` where the system does not tell.
pub(super) fn one_runs(pythons: &[u64], over: Instant) -> bool {
    os::another_runs(|id| {
        Instant::now() >= over || pythons.contains(&id) || seen::is_at_the_door(id)
    })
}

/// Waits a little for threads that are on their way to the door, which has closed. Nothing is attached to the calling
/// thread.
///
/// A thread that calls in a loop may be on its way through a callback object, which the exit is about to free. Until
/// the thread is at the door, nothing can end it. So all threads that run get time to come to the door. This includes
/// threads that never called: they may have only begun. A thread that sleeps gets less time, and only if it has
/// called twice lately: with more time, programs whose threads call every few milliseconds would wait for such a
/// thread at every exit. Python's own threads (`pythons`) go through no callback object.
pub(crate) fn linger(pythons: &[u64]) {
    const LATELY: u64 = 100;
    const RUNNING: Duration = Duration::from_millis(100);
    const SLEEPING: Duration = Duration::from_millis(5);
    let begun = Instant::now();
    let lately = coarse_clock().saturating_sub(LATELY);
    let own = Thread::known().map(|thread| &thread.legacy.seen);
    let one_sleeps = || begun.elapsed() < SLEEPING && seen::is_one_on_its_way(own, lately);
    while one_sleeps() || begun.elapsed() < RUNNING && one_runs(pythons, begun + RUNNING) {
        os::sleep(Duration::from_micros(200));
    }
}
